"""In which environment a policy is played: that of its data as recorded, or another one as registered."""

from collections.abc import Mapping
from typing import Any

from dtag_fast.data import env_ids

# What a dataset or checkpoint says about its environment and nothing else.
_OF_THE_ENVIRONMENT = ("env_spec", "max_episode_steps", "ref_min_score", "ref_max_score", "ref_source")


def played_in(about: Mapping[str, Any], env_id: str | None) -> dict[str, Any]:
    """What a dataset or checkpoint says where its policy is played in the environment that a user named.

    Args:
        about: metadata of a store, or the fields of a RunInfo.
        env_id: None, or the id of the data with or without its module: the environment of the data, with the
            arguments, wrapper and time limit that they record. Any other id: as it is registered.

    Returns:
        `about` with that environment; another one has neither the data's time limit nor their references.
    """
    if env_id is None:
        return dict(about)
    if not env_ids.is_same(env_id, about.get("env_id")):
        return {**about, **dict.fromkeys(_OF_THE_ENVIRONMENT), "env_id": env_id}
    return {**about, "env_id": env_id} if env_ids.module_of(env_id) else dict(about)
