"""The tables of sweeps, `table.jsonl` or `table.parquet` as `dtag sweep` writes them, as they are read for
figures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtag_fast.data import arrow
from dtag_fast.training.files import read_json_lines

NAMES = ("table.jsonl", "table.parquet")  # in a sweep's folder; the first is what the second is made of
SUFFIXES = (".jsonl", ".parquet")
POLICY = ("run", "checkpoint_step", "env_id", "target_return")  # columns that name what AG is applied to
SHARED = ("critic", "reduce", "select", "starts", "spread")  # and how, whatever its steps are
RAW = ("optimizer", "gradient", "radius", "radius_norm")  # and how, where they are no regularised ones
_NEEDED = {*POLICY, *SHARED, *RAW[:-1], "steps", "lr", "seed", "episode_return"}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SweepTable:
    """A table that was read: its rows, one of them at least."""

    file: Path
    rows: list[Row]

    @property
    def is_drawable(self) -> bool:
        """Whether an episode with Action Gradient was finished."""
        return any(row["steps"] > 0 and row["episode_return"] is not None for row in self.rows)


def find_table(path: Path) -> Path | None:
    """The table that `path` is, or that the folder `path` holds; None if neither."""
    if path.is_dir():
        return next((path / name for name in NAMES if (path / name).is_file()), None)
    return path if path.suffix in SUFFIXES and path.is_file() else None


def load_table(file: Path) -> SweepTable:
    """Read a table; errors as `read_table`."""
    return SweepTable(file, read_table(file))


def nothing_to_draw(tables: Iterable[SweepTable]) -> str:
    """The sentence about tables of which none is drawable."""
    return (
        f"{', '.join(str(table.file) for table in tables)}: no finished episode with Action Gradient "
        "(steps > 0); let the sweep go on"
    )


def read_table(file: Path) -> list[Row]:
    """The rows of a table.

    Raises:
        ValueError: pyarrow is missing, the file is damaged, or it lacks a column.
    """
    rows = _parquet(file) if file.suffix == ".parquet" else read_json_lines(file)
    before = {"starts": 1, "spread": 1.0}  # of tables that do not say so
    rows = [before | row if isinstance(row, dict) else row for row in rows]
    if not rows:
        raise ValueError(f"{file}: no row in it yet; let the sweep go on")
    for number, row in enumerate(rows, start=1):
        missing = sorted(_NEEDED - row.keys()) if isinstance(row, dict) else ["run"]
        if missing:
            raise ValueError(
                f"{file}: row {number} has no {missing[0]!r}; expected the table of a `dtag sweep`"
            )
    return rows


def _parquet(file: Path) -> list[Row]:
    if not arrow.is_installed():
        raise ValueError(f"{file}: {arrow.MISSING}, or give the table.jsonl beside it")
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file}: no Parquet file, or a damaged one: {error}") from error
