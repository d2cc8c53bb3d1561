"""Reader of Minari datasets in HDF5 form, straight from the file.

Minari keeps one HDF5 group per episode; opening objects is what costs, so only the five arrays are opened,
through h5py's low-level interface, and HDF5 itself converts them to float32 while reading.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dtag_fast.data import spaces
from dtag_fast.data.catalog import METADATA_FILE, minari_root
from dtag_fast.data.validation import KEYS

DATA_FILE = "main_data.hdf5"
# Keys of metadata.json that datasets made by dtag_fast carry beside Minari's own.
OBSERVATION_KEYS_KEY = "dtag_observation_keys"  # entries of a Dict observation that become the state
ENV_SPEC_KEY = "dtag_env_spec"  # the evaluation environment, where Gymnasium's EnvSpec can not express it


@dataclass(frozen=True)
class MinariSource:
    """A Minari dataset that is ready to be read.

    Attributes:
        path: folder of metadata.json and main_data.hdf5.
        metadata: what a store built from it holds (see TrajectoryStore.metadata), without the notes.
        num_episodes: episodes named episode_0 .. in the file.
        num_steps: total steps as metadata.json says.
        state_paths: HDF5 paths, below an episode, of the arrays that make up the observation.
    """

    path: Path
    metadata: dict
    num_episodes: int
    num_steps: int
    state_paths: tuple[str, ...]

    def episodes(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The arrays of each episode (order of Episode), as float32 and flags, not yet checked.

        Raises:
            ValueError: the file can not be read, or an episode or one of its keys is missing.
        """
        import h5py

        name = self.metadata["dataset_id"]
        try:
            file = h5py.File(self.path / DATA_FILE, "r")
        except OSError as error:
            raise ValueError(
                f"{name}: {self.path / DATA_FILE} is not a readable HDF5 file ({error}); it may be cut "
                "short, download or make the dataset again"
            ) from error
        with file:
            for index in range(self.num_episodes):
                try:
                    yield self._episode(file.id, index, f"{name}: episode {index}")
                except OSError as error:
                    raise ValueError(
                        f"{name}: episode {index}: can not be read ({error}); the file is damaged, download "
                        "or make the dataset again"
                    ) from error

    def _episode(self, file_id, index: int, where: str) -> tuple[np.ndarray, ...]:
        from h5py import h5g

        try:
            group = h5g.open(file_id, f"episode_{index}".encode())
        except (KeyError, ValueError):  # HDF5's way of saying that it is not there
            raise ValueError(
                f"{where}: missing from {DATA_FILE}, though {METADATA_FILE} counts {self.num_episodes} "
                "episodes; download or make the dataset again"
            ) from None
        parts = [_read_floats(group, path, where) for path in self.state_paths]
        if len({part.shape[:1] for part in parts}) > 1 or any(part.ndim != 2 for part in parts):
            shapes = ", ".join(
                f"{path} {part.shape}" for path, part in zip(self.state_paths, parts, strict=True)
            )
            raise ValueError(f"{where}: observations: expected entries (T + 1, n), got {shapes}")
        observations = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        actions, rewards = (_read_floats(group, key, where) for key in KEYS[1:3])
        terminations, truncations = (_read_flags(group, key, where) for key in KEYS[3:])
        return observations, actions, rewards, terminations, truncations


def _open_array(group, path: str, where: str):
    from h5py import h5d

    try:
        return h5d.open(group, path.encode())
    except KeyError:
        raise ValueError(f"{where}: {path}: this key is missing; the episode has {_keys(group)}") from None


def _keys(group) -> str:
    import h5py

    return ", ".join(h5py.Group(group)) or "nothing"


def _read_floats(group, path: str, where: str) -> np.ndarray:
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


def _read_flags(group, path: str, where: str) -> np.ndarray:
    """The array as bool, or as it is where it holds something else (`check_episode` then decides)."""
    array = _open_array(group, path, where)
    values = np.empty(array.shape, dtype=np.bool_)
    try:
        _read_all(array, values)
    except (TypeError, OSError):
        values = np.empty(array.shape, dtype=array.dtype)
        _read_all(array, values)
    return values


def _read_all(array, values: np.ndarray) -> None:
    from h5py import h5s

    if values.size:
        array.read(h5s.ALL, h5s.ALL, values)


def open_source(path: str | os.PathLike, observation_keys: Sequence[str] | None = None) -> MinariSource:
    """Read metadata.json of a Minari dataset.

    Args:
        path: folder that holds metadata.json and main_data.hdf5.
        observation_keys: entries of a Dict observation that become the state, in order. None: what the
            dataset itself says under "dtag_observation_keys", else "observation" and "desired_goal".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: damaged metadata; another storage format than HDF5; a space that is not a Box of one
            dimension or a Dict of such.
    """
    path = Path(path)
    raw = _read_metadata(path)
    name = raw["dataset_id"]
    if raw.get("data_format", "hdf5") != "hdf5":
        raise ValueError(
            f"{name}: expected data_format 'hdf5', got {raw['data_format']!r}; write it again with "
            "minari.create_dataset_from_buffers(..., data_format='hdf5')"
        )
    if not (path / DATA_FILE).is_file():
        raise FileNotFoundError(f"{name}: {path / DATA_FILE} is missing; download or make the dataset again")
    observation_space, action_space = _spaces(path, raw)
    keys = observation_keys if observation_keys is not None else raw.get(OBSERVATION_KEYS_KEY)
    paths = spaces.observation_paths(observation_space, keys, name)
    low, high = spaces.action_bounds(action_space, name)
    env_spec = raw.get(ENV_SPEC_KEY) or (json.loads(raw["env_spec"]) if raw.get("env_spec") else None)
    ref_min, ref_max, ref_source = _references(path, raw)
    metadata = {
        "dataset_id": name,
        "env_id": env_spec["id"] if env_spec else None,
        "env_spec": env_spec,
        "max_episode_steps": env_spec.get("max_episode_steps") if env_spec else None,
        "action_low": low,
        "action_high": high,
        "observation_keys": paths,
        "ref_min_score": ref_min,
        "ref_max_score": ref_max,
        "ref_source": ref_source,
        "description": raw.get("description"),
    }
    state_paths = tuple(f"observations/{key}" for key in paths) if paths else ("observations",)
    return MinariSource(path, metadata, int(raw["total_episodes"]), int(raw["total_steps"]), state_paths)


def _read_metadata(path: Path) -> dict:
    try:
        raw = json.loads((path / METADATA_FILE).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path / METADATA_FILE}: not valid JSON ({error}); make the dataset again"
        ) from None
    missing = [key for key in ("dataset_id", "total_episodes", "total_steps") if key not in raw]
    if missing:
        raise ValueError(
            f"{path / METADATA_FILE}: {', '.join(missing)} is missing; this is no Minari dataset"
        )
    return raw


def _spaces(path: Path, raw: dict) -> tuple[dict, dict]:
    if "observation_space" in raw and "action_space" in raw:
        return spaces.parse_space(raw["observation_space"]), spaces.parse_space(raw["action_space"])
    # Minari lets a dataset leave its spaces to the environment; it makes the environment to learn them.
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import serialize_space

    storage = MinariStorage.read(path)
    both = storage.observation_space, storage.action_space
    return tuple(spaces.parse_space(serialize_space(space)) for space in both)


def _references(path: Path, raw: dict) -> tuple[float | None, float | None, str | None]:
    """The dataset's own reference scores; of a combined set, those of its parts where all have the same.

    `minari.combine_datasets` drops them, so a medium-expert set built from two sets would lose its scale.
    """
    if raw.get("ref_min_score") is not None and raw.get("ref_max_score") is not None:
        return raw["ref_min_score"], raw["ref_max_score"], "dataset"
    parts = raw.get("combined_datasets") or []
    found = set()
    for part in parts:
        try:
            part_raw = json.loads((_root_of(path, raw) / part / "data" / METADATA_FILE).read_text())
        except (OSError, ValueError):
            return None, None, None
        found.add((part_raw.get("ref_min_score"), part_raw.get("ref_max_score")))
    if len(found) == 1 and None not in (scores := found.pop()):
        return *scores, f"dataset, agreed by its parts {', '.join(parts)}"
    return None, None, None


def _root_of(path: Path, raw: dict) -> Path:
    folder = path.resolve().parent.as_posix()
    own_id = "/" + raw["dataset_id"]
    return Path(folder.removesuffix(own_id)) if folder.endswith(own_id) else minari_root()
