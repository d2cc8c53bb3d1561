"""A run folder of what another code trained, and what data or an environment say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dtag_fast.data import TrajectoryStore
from dtag_fast.data.gymnasium_env import close_env, make_gymnasium_env
from dtag_fast.data.played_env import played_in
from dtag_fast.training.checkpoint import FORMAT_VERSION, RunInfo, publish_checkpoint, save_checkpoint
from dtag_fast.training.files import write_json
from dtag_fast.training.run_folder import as_json, sole_writer

_OF_DATA = (
    *("env_id", "env_spec", "max_episode_steps", "dataset_id", "observation_keys"),
    *("ref_min_score", "ref_max_score", "ref_source"),
)


def write_run(run: Path, info: RunInfo, exports: dict[str, nn.Module], source: str) -> None:
    """The folder, complete from the moment its checkpoint is visible.

    Args:
        exports: networks by file stem ("model", "critic"). source: in words, for its config.json.
    Raises:
        FileExistsError: `run` is not empty.
    """
    with sole_writer(run):
        if any(run.iterdir()):
            raise FileExistsError(f"run: {run} is not empty; choose another folder")
        described = {
            "format_version": FORMAT_VERSION,
            "algorithm": info.algorithm,
            "seed": info.seed,
            "converted_from": source,
            "config": info.config,
            "dataset": {"dataset_id": info.dataset_id, "env_id": info.env_id},
            "versions": info.versions,
        }
        write_json(run / "config.json", as_json(described))
        publish_checkpoint(save_checkpoint(run, info, exports, None), None)


def facts_of(
    sizes: tuple[int, int], whose: str, data: TrajectoryStore | None, env_id: str | None
) -> dict[str, Any]:
    """Fields of RunInfo about environment, bounds of actions and references, as far as they are known.

    Args:
        sizes: (S, A) that the data or the environment must have. whose: they are, for errors.
    Raises:
        ValueError: they have others.
    """
    facts: dict[str, Any] = {}
    if data is not None:
        check_sizes(sizes, whose, "data", (data.state_dim, data.action_dim), data.discrete_actions is None)
        known = played_in(data.metadata, env_id)
        facts |= {name: known.get(name) for name in _OF_DATA}
        facts["dataset_fingerprint"] = known.get("fingerprint")
        facts |= {k: known[k] for k in ("action_low", "action_high") if known.get(k) is not None}
    elif env_id is not None:
        facts |= {"env_id": env_id} | _bounds_of(sizes, whose, env_id)
    return {k: np.asarray(v, float).tolist() if k.startswith("action_") else v for k, v in facts.items()}


def sizes_of_env(env_id: str) -> tuple[int, int]:
    """(S, A) of a Gymnasium environment of vectors; ValueError for another one."""
    seen, acts = _spaces(env_id)
    return (*seen.shape, *acts.shape)


def _bounds_of(sizes: tuple[int, int], whose: str, env_id: str) -> dict[str, Any]:
    """Bounds of the environment's actions, its sizes checked."""
    seen, acts = _spaces(env_id)
    check_sizes(sizes, whose, "env_id", (*seen.shape, *acts.shape))
    if not (np.isfinite(acts.low).all() and np.isfinite(acts.high).all()):
        return {}
    return {"action_low": acts.low, "action_high": acts.high}


def _spaces(env_id: str) -> tuple[Any, Any]:
    """Of observations and actions, Boxes of one dimension."""
    import gymnasium

    env = make_gymnasium_env(env_id)
    try:
        for name, space in (("observation", env.observation_space), ("action", env.action_space)):
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
                raise ValueError(
                    f"env_id: {env_id} has the {name} space {space}, expected a Box of one dimension; give "
                    "the dataset instead, which tells what the policy sees of it"
                )
        return env.observation_space, env.action_space
    finally:
        close_env(env)


def check_sizes(
    ours: tuple[int, int], whose: str, name: str, theirs: tuple[int, int], continuous: bool = True
) -> None:
    """Refuse data or an environment, called `name`, of other sizes (S, A) than `whose`."""
    if not continuous:
        raise ValueError(f"{name}: its actions are discrete, the {whose}'s are continuous")
    if ours != theirs:
        raise ValueError(
            f"{name}: expected (state_dim, action_dim) = {ours}, those of the {whose}'s weights, got {theirs}"
        )
