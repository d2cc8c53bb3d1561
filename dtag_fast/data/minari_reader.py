"""Minari datasets in HDF5, Arrow or Parquet form: what metadata.json says about them.

Spaces, environment, reference scores, counts, and what dtag_fast itself adds.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dtag_fast.data import spaces
from dtag_fast.data.catalog import METADATA_FILE, minari_root, read_metadata
from dtag_fast.untrusted.plain_json import read_json

DATA_FILE = "main_data.hdf5"
FORMATS = ("hdf5", "arrow", "parquet")
# Keys of metadata.json that datasets made by dtag_fast carry beside Minari's own.
OBSERVATION_KEYS_KEY = "dtag_observation_keys"  # entries of a Dict observation that become the state
ENV_SPEC_KEY = "dtag_env_spec"  # the evaluation environment, where Gymnasium's EnvSpec can not express it
REF_SOURCE_KEY = "dtag_ref_source"  # where the reference scores are from
NOTES_KEY = "dtag_notes"  # sentences about what became of the files it was imported from
# Fields of EnvSpec that Gymnasium 1.0 dropped; datasets made before that have them.
_DROPPED_SPEC_FIELDS = ("apply_api_compatibility", "autoreset")


@dataclass(frozen=True)
class MinariSource:
    """A Minari dataset that is ready to be read.

    Attributes:
        path: folder of metadata.json and the data.
        form: storage format, one of FORMATS.
        metadata: what a store built from it holds (see TrajectoryStore.metadata), without the notes.
        num_episodes: episodes 0, 1, ...
        num_steps: total steps as metadata.json says.
        state_paths: paths, below an episode, of the arrays that make up the observation.
        notes: sentences that the dataset itself brings along.
    """

    path: Path
    form: str
    metadata: dict
    num_episodes: int
    num_steps: int
    state_paths: tuple[str, ...]
    notes: tuple[str, ...] = ()

    counts = "episodes"

    @property
    def total(self) -> int:
        """Episodes, as `counts` says."""
        return self.num_episodes

    @property
    def identity(self) -> tuple[str, ...]:
        """What decides the result beside the content: the entries that are read."""
        return self.state_paths

    @property
    def data_files(self) -> list[str]:
        """Files whose content the episodes come from."""
        if self.form == "hdf5":
            return [str(self.path / DATA_FILE)]
        from dtag_fast.data.arrow import episode_files

        folder = str(self.path)  # not Path: there may be a thousand and more, at every load
        return [file for index in range(self.num_episodes) for file in episode_files(f"{folder}/{index}")]

    def describe(self) -> dict:
        """The complete metadata: known without reading any data."""
        return self.metadata

    def episodes(self) -> Iterable:
        """The arrays of each episode (order of Episode), as numbers and flags, not yet checked.

        Raises:
            ValueError: the file can not be read, or an episode or one of its keys is missing.
        """
        # h5py and pyarrow are loaded for a conversion only, so that opening a converted set stays fast.
        name = self.metadata["dataset_id"]
        if self.form == "hdf5":
            from dtag_fast.data.hdf5 import read_episodes

            return read_episodes(self.path / DATA_FILE, self.num_episodes, self.state_paths, name)
        from dtag_fast.data import arrow

        return arrow.read_episodes(self.path, self.num_episodes, self.state_paths, name, self.form)


def open_source(path: str | os.PathLike, observation_keys: Sequence[str] | None = None) -> MinariSource:
    """Read metadata.json of a Minari dataset.

    Args:
        path: folder that holds metadata.json and the data.
        observation_keys: entries of a Dict observation that become the state, in order. None: what the
            dataset itself says under "dtag_observation_keys", else "observation" and "desired_goal".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: damaged metadata; a storage format that Minari does not have; observations that are not a
            Box of one dimension or a Dict of such; actions that are neither such a Box nor Discrete.
    """
    path = Path(path)
    raw = _read_metadata(path)
    name = raw["dataset_id"]
    form = raw.get("data_format", "hdf5")
    if form not in FORMATS:
        raise ValueError(
            f"{name}: expected data_format {', '.join(FORMATS)}, got {form!r}; write it again with "
            "minari.create_dataset_from_buffers(..., data_format='hdf5')"
        )
    if form == "hdf5" and not (path / DATA_FILE).is_file():
        raise FileNotFoundError(f"{name}: {path / DATA_FILE} is missing; download or make the dataset again")
    observation_space, action_space = _spaces(path, raw)
    keys = observation_keys if observation_keys is not None else raw.get(OBSERVATION_KEYS_KEY)
    paths = spaces.observation_paths(observation_space, keys, name)
    actions = spaces.action_facts(action_space, name)
    env_spec = raw.get(ENV_SPEC_KEY) or _env_spec(raw)
    ref_min, ref_max, ref_source = _references(path, raw)
    metadata = {
        "dataset_id": name,
        "env_id": env_spec["id"] if env_spec else None,
        "env_spec": env_spec,
        "max_episode_steps": env_spec.get("max_episode_steps") if env_spec else None,
        **actions,
        "observation_keys": paths,
        "ref_min_score": ref_min,
        "ref_max_score": ref_max,
        "ref_source": ref_source,
        "description": raw.get("description"),
    }
    state_paths = tuple(f"observations/{key}" for key in paths) if paths else ("observations",)
    counts = int(raw["total_episodes"]), int(raw["total_steps"])
    return MinariSource(path, form, metadata, *counts, state_paths, tuple(raw.get(NOTES_KEY) or ()))


def _read_metadata(path: Path) -> dict:
    try:
        raw = read_metadata(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path / METADATA_FILE} is missing: no Minari dataset, or one from before Minari 0.5, which "
            "Minari itself can not read any more either; download the dataset again"
        ) from None
    missing = [key for key in ("dataset_id", "total_episodes", "total_steps") if key not in raw]
    if missing:
        raise ValueError(
            f"{path / METADATA_FILE}: {', '.join(missing)} is missing; this is no Minari dataset"
        )
    return raw


def _env_spec(raw: dict) -> dict | None:
    if not raw.get("env_spec"):
        return None
    spec = read_json(raw["env_spec"], f"{raw['dataset_id']}: env_spec")
    return {key: value for key, value in spec.items() if key not in _DROPPED_SPEC_FIELDS}


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
        return raw["ref_min_score"], raw["ref_max_score"], raw.get(REF_SOURCE_KEY) or "dataset"
    parts = raw.get("combined_datasets") or []
    found = set()
    for part in parts:
        try:
            part_raw = read_metadata(_root_of(path, raw) / part / "data")
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
