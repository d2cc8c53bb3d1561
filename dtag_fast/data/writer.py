"""Writes a trajectory store to disk one episode at a time, in memory that does not grow with the dataset."""

import io
from pathlib import Path

import numpy as np

from dtag_fast.data.discrete import DiscreteActions
from dtag_fast.data.oddities import Oddities
from dtag_fast.data.store import ARRAYS, Episode, write_meta
from dtag_fast.data.validation import check_episode


class StoreWriter:
    """Checks episodes and appends them to the .npy files of a store.

    Args:
        directory: existing empty folder.
        name: names the dataset in errors.
        oddities: collects what is reported and not refused.
        discrete: the action space where it is discrete; actions given as numbers are written as one-hot rows.
    """

    def __init__(
        self, directory: Path, name: str, oddities: Oddities, discrete: DiscreteActions | None = None
    ):
        self.directory, self.name, self.oddities, self.discrete = directory, name, oddities, discrete
        self.dims: tuple[int, int] | None = None
        self._files: dict[str, _NpyFile] = {}
        self._offsets = [0]

    def append(self, arrays) -> None:
        """Add an episode given as arrays in the order of Episode; ValueError names what is wrong with it."""
        index = len(self._offsets) - 1
        episode = Episode(*check_episode(arrays, f"{self.name}: episode {index}", self.dims, self.discrete))
        if self.dims is None:
            self.dims = episode.observations.shape[1], episode.actions.shape[1]
            for key, array in episode._asdict().items():
                self._files[key] = _NpyFile(self.directory / f"{key}.npy", array.shape[1:], ARRAYS[key])
        for key, array in episode._asdict().items():
            self._files[key].append(array)
        self._offsets.append(self._offsets[-1] + len(episode.actions))
        self.oddities.add(index, episode)

    def finish(self, metadata: dict) -> None:
        """Complete the files; meta.json comes last, so that a folder without it is known to be unfinished."""
        if not self._files:
            raise ValueError(f"{self.name}: expected at least one episode, got none")
        shapes = {key: file.finish() for key, file in self._files.items()}
        np.save(self.directory / "offsets.npy", np.asarray(self._offsets, dtype=ARRAYS["offsets"]))
        shapes["offsets"] = [len(self._offsets)]
        write_meta(self.directory, shapes, metadata)

    def close(self) -> None:
        """Close the files of a conversion that did not finish."""
        for file in self._files.values():
            file.file.close()


class _NpyFile:
    """A .npy file that grows along its first axis; NumPy pads its header so that the row count can change."""

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.dtype):
        self.row_shape, self.dtype, self.rows = row_shape, dtype, 0
        self.file = path.open("wb")
        self.header_size = self.file.write(self._header())

    def append(self, array: np.ndarray) -> None:
        self.file.write(memoryview(array).cast("B"))
        self.rows += len(array)

    def finish(self) -> list[int]:
        header = self._header()
        if len(header) != self.header_size:
            raise RuntimeError(f"NumPy {np.__version__} writes .npy headers that do not keep their size")
        self.file.seek(0)
        self.file.write(header)
        self.file.close()
        return [self.rows, *self.row_shape]

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        shape = (self.rows, *self.row_shape)
        np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
        return buffer.getvalue()
