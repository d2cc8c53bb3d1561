"""Episodes straight from a Minari HDF5 file.

Minari keeps one HDF5 group per episode; opening objects is what costs, so only the five arrays are opened,
through h5py's low-level interface, and HDF5 itself converts them to float32 while reading.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5g, h5s

_REMEDY = "download or make the dataset again"


def read_episodes(
    path: Path, number: int, state_paths: Sequence[str], name: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """The arrays of the episodes in the order of Episode, as float32 and flags, not yet checked.

    Args:
        path: the HDF5 file.
        number: of episodes, named episode_0, episode_1, ...
        state_paths: arrays, by their path below an episode, that side by side make up the observation.
        name: of the dataset, for errors.

    Raises:
        ValueError: the file can not be read, or an episode or one of its keys is missing.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{name}: {path} is not a readable HDF5 file ({error}); it may be cut short, {_REMEDY}"
        ) from error
    with file:
        for index in range(number):
            where = f"{name}: episode {index}"
            try:
                group = h5g.open(file.id, f"episode_{index}".encode())
            except (KeyError, ValueError):  # HDF5's way of saying that it is not there
                raise ValueError(
                    f"{where}: missing from {path.name}, though the metadata counts {number} episodes; "
                    f"{_REMEDY}"
                ) from None
            try:
                yield _read_episode(group, state_paths, where)
            except OSError as error:
                raise ValueError(
                    f"{where}: can not be read ({error}); the file is damaged, {_REMEDY}"
                ) from error


def _read_episode(group: h5g.GroupID, state_paths: Sequence[str], where: str) -> tuple[np.ndarray, ...]:
    states = [_read_floats(group, path, where) for path in state_paths]
    if len(states) > 1:
        if len({part.shape[:1] for part in states}) > 1 or any(part.ndim != 2 for part in states):
            shapes = ", ".join(f"{path} {part.shape}" for path, part in zip(state_paths, states, strict=True))
            raise ValueError(f"{where}: observations: expected entries (T + 1, n), got {shapes}")
        states = [np.concatenate(states, axis=1)]
    return (
        states[0],
        _read_floats(group, "actions", where),
        _read_floats(group, "rewards", where),
        _read_flags(group, "terminations", where),
        _read_flags(group, "truncations", where),
    )


def _read_floats(group: h5g.GroupID, path: str, where: str) -> np.ndarray:
    """The array as float32, converted by HDF5 while it reads."""
    array = _open_array(group, path, where)
    values = np.empty(array.shape, dtype=np.float32)
    try:
        _read_all(array, values)
    except (TypeError, OSError) as error:  # asking for the type first would cost more than the reading
        if array.dtype.kind == "b":
            return _read_flags(group, path, where).astype(np.float32)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{where}: {path}: expected numbers, got type {array.dtype}") from error
        raise
    return values


def _read_flags(group: h5g.GroupID, path: str, where: str) -> np.ndarray:
    """The array as bool, or as it is where it holds something else (`check_episode` then decides)."""
    array = _open_array(group, path, where)
    values = np.empty(array.shape, dtype=np.bool_)
    try:
        _read_all(array, values)
    except (TypeError, OSError):
        values = np.empty(array.shape, dtype=array.dtype)
        _read_all(array, values)
    return values


def _open_array(group: h5g.GroupID, path: str, where: str) -> h5d.DatasetID:
    try:
        return h5d.open(group, path.encode())
    except KeyError:
        keys = ", ".join(h5py.Group(group)) or "nothing"
        raise ValueError(f"{where}: {path}: this key is missing; the episode has {keys}") from None


def _read_all(array: h5d.DatasetID, values: np.ndarray) -> None:
    if values.size:
        array.read(h5s.ALL, h5s.ALL, values)
