"""What a conversion reads episodes from, and which reader a file gets."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from dtag_fast.data.d4rl_columns import HDF5_MAGIC
from dtag_fast.data.d4rl_file import D4rlFile
from dtag_fast.data.flat_file import Environment, FlatFile
from dtag_fast.data.trajectory_pickle import PICKLE_SUFFIXES, TrajectoryPickle

_HDF5_SUFFIXES = (".hdf5", ".h5")


class Source(Protocol):
    """A dataset that is ready to be read.

    Attributes:
        metadata: what is known without reading data (see TrajectoryStore.metadata).
        identity: what decides the result of a conversion beside the content of `data_files`.
        data_files: files whose content the episodes come from.
        notes: sentences about what became of the data; complete once the episodes have been read.
        counts, total: how many of what `episodes` goes through, known once described; for progress.
    """

    metadata: dict
    identity: tuple[str, ...]
    data_files: Sequence[str]
    notes: Sequence[str]
    counts: Literal["episodes", "steps"]
    total: int

    def describe(self) -> dict:
        """The complete metadata."""

    def episodes(self) -> Iterable:
        """The arrays of each episode in the order of Episode, not yet checked."""


def open_file(path: Path, environment: Environment | None = None) -> FlatFile:
    """The reader of a file of trajectories, chosen by its first bytes and its ending.

    Args:
        path: an existing file.
        environment: what the user named for it.

    Raises:
        ValueError: neither an HDF5 file nor named as a pickle.
    """
    with path.open("rb") as file:
        magic = file.read(len(HDF5_MAGIC))
    if magic == HDF5_MAGIC or path.suffix in _HDF5_SUFFIXES:
        return D4rlFile(path, environment)
    if path.suffix in PICKLE_SUFFIXES:
        return TrajectoryPickle(path, environment)
    raise ValueError(
        f"{path}: expected a D4RL file ({', '.join(_HDF5_SUFFIXES)}) or a pickle of trajectories "
        f"({', '.join(PICKLE_SUFFIXES)}), got neither; give the folder of a Minari dataset, or one of these"
    )
