"""Observation and action spaces as Minari writes them in metadata.json, and how Dict observations become
vectors.

An observation of a Dict space is the concatenation of some of its entries, listed by their paths
("observation", "desired_goal", "desired_goal/kettle"). The same list, kept in a store's metadata as
`observation_keys`, flattens what the environment returns during evaluation.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dtag_fast.data.catalog import MOST_CHARACTERS
from dtag_fast.data.discrete import KEY, DiscreteActions, discrete_facts
from dtag_fast.untrusted.plain_json import read_json

GOAL_KEYS = ("observation", "desired_goal")  # what a goal-conditioned policy needs to see


def flatten_observation(observation, keys: Sequence[str] | None) -> np.ndarray:
    """The float32 vector of an environment's observation.

    Args:
        observation: array (..., S), or nested dicts of such arrays for Dict spaces (a batch has its leading
            dimensions in every entry).
        keys: `observation_keys` of the store's metadata; None for an observation that is an array already.

    Returns:
        (..., S) float32.

    Raises:
        ValueError: nested dicts without keys, keys for an array, or a key that the observation does not have.
    """
    if keys is None:
        if isinstance(observation, Mapping):
            raise ValueError(
                "observation_keys: expected entries of the Dict observation "
                f"({', '.join(observation)}), got none"
            )
        return np.asarray(observation, dtype=np.float32)
    return np.concatenate(
        [np.asarray(observation_entry(observation, key), dtype=np.float32) for key in keys], axis=-1
    )


def observation_entry(observation, path: str):
    """The entry of a Dict observation at a path ("desired_goal", "desired_goal/kettle").

    Raises:
        ValueError: it has none there.
    """
    entry = observation
    for name in path.split("/"):
        if not isinstance(entry, Mapping) or name not in entry:
            has = ", ".join(observation) if isinstance(observation, Mapping) else "no entries"
            raise ValueError(f"observation_keys: the observation has {has}, not {path!r}")
        entry = entry[name]
    return entry


def parse_space(serialized: str | dict) -> dict:
    """A space of metadata.json: "type", then "shape", "low", "high" of a Box, "n", "start" of a Discrete or
    "subspaces" of a Dict."""
    return read_json(serialized, "a space", MOST_CHARACTERS) if isinstance(serialized, str) else serialized


def observation_paths(space: dict, keys: Sequence[str] | None, where: str) -> list[str] | None:
    """Which entries of the observation become the state, in order.

    Args:
        space: the observation space, from `parse_space`.
        keys: entries chosen by the user or the dataset; an entry that is itself a Dict stands for all its
            entries. None: "observation" and, where there is one, "desired_goal".
        where: names the dataset in errors.

    Returns:
        Paths of Box entries; None for an observation space that is one Box.

    Raises:
        ValueError: not a Box of one dimension or a Dict of such; an unknown key.
    """
    if space["type"] != "Dict":
        if keys:
            raise ValueError(f"observation_keys: {where} has {_name(space)} observations, which have no keys")
        _expect_vector(space, f"{where}: observations")
        return None
    entries = space["subspaces"]
    if keys is None:
        keys = [key for key in GOAL_KEYS if key in entries]
        if "observation" not in entries:
            raise ValueError(
                f"{where}: observations: a Dict with {', '.join(entries)} and no 'observation'; choose "
                "entries with observation_keys"
            )
    paths = [path for key in keys for path in _leaves(entries, key, where)]
    if not paths:
        raise ValueError(f"observation_keys: expected at least one of {', '.join(entries)}, got none")
    return paths


def _leaves(entries: dict, path: str, where: str) -> list[str]:
    space = {"type": "Dict", "subspaces": entries}
    for name in path.split("/"):
        if space["type"] != "Dict" or name not in space["subspaces"]:
            raise ValueError(f"observation_keys: {where} has {', '.join(entries)}, not {path!r}")
        space = space["subspaces"][name]
    if space["type"] == "Dict":
        return [leaf for name in space["subspaces"] for leaf in _leaves(entries, f"{path}/{name}", where)]
    _expect_vector(space, f"{where}: observations/{path}")
    return [path]


def action_facts(space: dict, where: str) -> dict:
    """What a store's metadata says of the action space: action_low, action_high, discrete_actions.

    Bounds are lists, infinite where there is none; None for discrete actions.

    Raises:
        ValueError: the space is neither a Box of one dimension nor Discrete.
    """
    if space["type"] == "Discrete":
        return discrete_facts(DiscreteActions(int(space["n"]), int(space.get("start", 0))))
    _expect_vector(space, f"{where}: actions", "a Box of one dimension or Discrete")
    return {"action_low": space["low"], "action_high": space["high"], KEY: None}


def _expect_vector(space: dict, where: str, expected: str = "a Box of one dimension") -> None:
    if space["type"] != "Box" or len(space["shape"]) != 1:
        raise ValueError(f"{where}: expected {expected}, got {_name(space)}")


def _name(space: dict) -> str:
    if "nvec" in space:
        return f"{space['type']}({space['nvec']})"
    return f"{space['type']}{tuple(space['shape'])}" if "shape" in space else space["type"]
