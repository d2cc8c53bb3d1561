"""The arrays of a D4RL file, checked against each other and read in blocks of rows."""

from pathlib import Path

import numpy as np

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
BLOCK_ROWS = 1 << 16  # rows in memory at a time, beside the longest episode
_REQUIRED = ("observations", "actions", "rewards", "terminals")
_REMEDY = "download or make the file again"


class Columns:
    """An open D4RL file; a context manager.

    Args:
        path: the file.
        name: of the dataset, for errors.

    Attributes:
        rows: N, steps of the file.
        state_dim, action_dim: S, A.
        integer_actions: whether actions are of an integer type; those of shape (N,) have A = 1.
        has_timeouts, has_next: whether timeouts and next_observations are there.
        block: rows to read at a time.

    Raises:
        ValueError: no HDF5 file, a Minari one, or arrays that are missing or do not fit together.
    """

    def __init__(self, path: Path, name: str):
        import h5py

        self.name, self.path = name, path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(
                f"{name}: {path} is not a readable HDF5 file ({error}); it may be cut short, {_REMEDY}"
            ) from error
        try:
            self._check(h5py)
        except BaseException:
            self._file.close()
            raise

    def _check(self, h5py) -> None:
        keys = ", ".join(list(self._file)[:12]) or "nothing"
        if any(key.startswith("episode_") for key in self._file):
            raise ValueError(
                f"{self.name}: {self.path} is the data of a Minari dataset, not a D4RL file; load the folder "
                "that holds its metadata.json"
            )
        self.has_timeouts, self.has_next = ("timeouts" in self._file), ("next_observations" in self._file)
        optional = (("timeouts", self.has_timeouts), ("next_observations", self.has_next))
        present = (*_REQUIRED, *(key for key, there in optional if there))
        for key in present:
            if not isinstance(self._file.get(key), h5py.Dataset):
                raise ValueError(f"{self.name}: {key}: this array is missing; {self.path.name} has {keys}")
        self.rows, self.state_dim = self._matrix("observations")
        actions = self._file["actions"]
        self.integer_actions = actions.dtype.kind in "iub"
        numbered = self.integer_actions and actions.shape == (self.rows,)
        self.action_dim = 1 if numbered else self._matrix("actions")[1]
        if self.has_next and self._matrix("next_observations")[1] != self.state_dim:
            raise ValueError(
                f"{self.name}: next_observations: expected {self.state_dim} columns, as observations, got "
                f"shape {self._file['next_observations'].shape}"
            )
        for key in present:
            array = self._file[key]
            vector = key in ("rewards", "terminals", "timeouts")
            if vector and array.shape not in ((self.rows,), (self.rows, 1)):
                raise ValueError(
                    f"{self.name}: {key}: expected ({self.rows},), one per observation, got {array.shape}"
                )
            if array.dtype.kind not in "fiub":
                raise ValueError(f"{self.name}: {key}: expected numbers, got type {array.dtype}")
        if not self.rows:
            raise ValueError(f"{self.name}: observations: {self.path.name} holds no steps")
        # A compressed chunk is unpacked as a whole: blocks are whole chunks, unless memory forbids.
        chunk = min((self._file["observations"].chunks or (1,))[0], 16 * BLOCK_ROWS)
        self.block = -(-BLOCK_ROWS // chunk) * chunk

    def _matrix(self, key: str) -> tuple[int, int]:
        array = self._file[key]
        rows = self.rows if key != "observations" else array.shape[0] if array.ndim else 0
        if array.ndim != 2 or array.shape[0] != rows:
            expected = "(N, S)" if key == "observations" else f"{rows} rows of numbers, one per observation"
            raise ValueError(f"{self.name}: {key}: expected {expected}, got shape {array.shape}")
        return array.shape

    def read(self, key: str, first: int, last: int) -> np.ndarray:
        """Rows first .. last - 1 (fewer at the end of the file) as float32, converted by HDF5 itself."""
        array = self._file[key]
        last = min(last, self.rows)
        values = np.empty((max(last - first, 0), *array.shape[1:]), np.float32)
        try:
            if array.dtype.kind == "b":
                values[:] = array[first:last]
            elif len(values):
                array.read_direct(values, np.s_[first:last])
        except OSError as error:
            raise ValueError(
                f"{self.name}: {key}: rows from {first} can not be read ({error}); the file is damaged, "
                f"{_REMEDY}"
            ) from error
        if key == "actions":
            return values.reshape(len(values), self.action_dim)
        return values if key in ("observations", "next_observations") else values.reshape(-1)

    def read_flags(self, key: str, first: int, last: int) -> np.ndarray:
        """The same as bool; ValueError for numbers other than 0 and 1."""
        values = self.read(key, first, last)
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"{self.name}: {key}: expected true or false per step, got other numbers")
        return values.astype(bool)

    def __enter__(self) -> "Columns":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
