"""What the reference scores of an evaluation are looked up by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtag_fast.data import env_ids
from dtag_fast.rollout.environments import time_limit

if TYPE_CHECKING:
    from dtag_fast.training.checkpoint import RunInfo

_OF_DATASET = ("dataset_id", "env_spec", "ref_min_score", "ref_max_score", "ref_source")


def scored_task(info: RunInfo, env_id: str) -> dict[str, Any]:
    """The task that a policy is played in, for `data.normalized_score`: the dataset's, or another environment
    by its name alone; with the time limit that its episodes have.

    Args:
        info: of the policy's checkpoint. env_id: the environment it is played in.
    """
    task = {"env_id": env_id, "max_episode_steps": time_limit(env_id, info.env_spec, info.max_episode_steps)}
    if env_ids.is_same(env_id, info.env_id):
        task |= {name: getattr(info, name) for name in _OF_DATASET}
    return task
