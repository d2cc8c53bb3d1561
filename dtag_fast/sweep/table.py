"""The table of a sweep: table.jsonl, one row per cell and episode, appended to and never rewritten.

Rows come in whole groups, each in one write that is waited for. What a crash or a kill can leave is a last
line without its end, which is recognised and cut when the table is opened again.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dtag_fast.data import arrow
from dtag_fast.sweep.cells import SETTING_COLUMNS

# name -> pyarrow's name of the column's type
COLUMNS = {
    "run": "string",
    "checkpoint_step": "int64",
    "algorithm": "string",
    "dataset_id": "string",
    "env_id": "string",
    "critic": "string",
    "target_return": "float64",
    "steps": "int64",
    "lr": "float64",
    "optimizer": "string",
    "reduce": "string",
    "gradient": "string",
    "radius": "float64",
    "radius_norm": "string",
    "select": "string",
    "starts": "int64",
    "spread": "float64",
    "behaviour_weight": "float64",
    "behaviour_radius": "float64",
    "setting": "string",
    "seed": "int64",
    "episode_return": "float64",
    "normalized_score": "float64",
    "length": "int64",
    "terminated": "bool_",
    "mean_q_0": "float64",
    "mean_q_gain": "float64",
    "error": "string",
}
_CELL = ("checkpoint_step", "target_return", *SETTING_COLUMNS, "setting")  # the order of Cell.key
# columns that tables of before do not have -> what holds for their rows
_LATER = {"starts": 1, "spread": 1.0, "behaviour_weight": None, "behaviour_radius": None}

Row = dict[str, Any]


def cell_key(row: Row) -> tuple:
    """`Cell.key` of the cell that a row belongs to."""
    return tuple(row[name] for name in _CELL)


class Table:
    """Rows on disk, open for one writer; a context manager.

    Args:
        path: of the JSONL file; made if it is not there.

    Raises:
        BlockingIOError: another process has it open.
        ValueError: a line before the last is damaged.

    Attributes:
        rows: (cell key, seed) -> row of each episode that was finished.
        failed: the same of those that were not, which are played again by the next sweep.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self.rows: dict[tuple[tuple, int], Row] = {}
            self.failed: dict[tuple[tuple, int], Row] = {}
            self._keep(self._read())
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)  # and with it the lock

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows and wait until they are on the disk.

        Raises:
            OSError: they cannot be written, as on a full disk; the table is as it was.
        """
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        size = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file, lines[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise OSError(
                f"{self.path}: can not be written ({error}); make room and give the same command again, the "
                "rows before are whole"
            ) from error
        self._keep(rows)

    def _keep(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key = cell_key(row), row["seed"]
            if row["error"] is None:
                self.rows[key] = row
                self.failed.pop(key, None)
            elif key not in self.rows:
                self.failed[key] = row

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"out: another process is sweeping into {self.path.parent}; wait for it, or choose another "
                "folder"
            ) from None

    def _read(self) -> list[Row]:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # what a killed process was writing
            os.ftruncate(self._file, whole)
        rows = []
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                row = _LATER | row
                if set(row) != set(COLUMNS):
                    raise ValueError("other columns than this version writes")
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{self.path}: line {number} is damaged ({error}); remove that line, its episode is "
                    "played again"
                ) from error
            rows.append({name: row[name] for name in COLUMNS})
        return rows


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows by checkpoint, target, setting and seed, whatever the order they were played in."""

    def place(row: Row) -> list[tuple]:
        values = [row[name] for name in (*_CELL, "seed")]
        return [(value is not None, 0 if value is None else value) for value in values]

    return sorted(rows, key=place)


def write_parquet(path: Path, rows: Iterable[Row]) -> str | None:
    """Write all rows, in order, as Parquet; the file appears whole or not at all.

    Returns:
        None, or the sentence why there is no Parquet file.
    """
    if not arrow.is_installed():
        return f"{path.name} {arrow.MISSING}; the rows are in table.jsonl"
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    parquet.write_table(pyarrow.Table.from_pylist(in_order(rows), schema=schema), temporary)
    os.replace(temporary, path)
    return None
