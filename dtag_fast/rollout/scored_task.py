"""What the reference scores of an evaluation are looked up by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtag_fast.data.played_env import played_in
from dtag_fast.rollout.environments import made_spec

if TYPE_CHECKING:
    from dtag_fast.training.checkpoint import RunInfo

_SCORED_BY = ("env_id", "dataset_id", "ref_min_score", "ref_max_score", "ref_source")


def scored_task(info: RunInfo, env_id: str) -> dict[str, Any]:
    """The task that a policy is played in, for `data.normalized_score`: the dataset's, or another environment
    by its name; with the time limit and the arguments that its episodes have.

    Args:
        info: of the policy's checkpoint. env_id: the environment it is played in.

    Raises:
        gymnasium.error.UnregisteredEnv: an id whose module cannot be imported.
    """
    about = played_in(vars(info), env_id)
    spec = made_spec(about["env_id"], about["env_spec"], about["max_episode_steps"])
    return {name: about[name] for name in _SCORED_BY} | {"env_spec": spec}
