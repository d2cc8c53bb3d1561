"""Episodes straight from Minari's Arrow and Parquet storage.

One folder per episode holds a table of T + 1 rows and metadata.json; actions, rewards and flags have one row
of padding at the end. The columns become NumPy arrays without Minari's objects in between.
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dtag_fast.data.catalog import read_metadata

_REMEDY = "download or make the dataset again"
MISSING = "needs the package pyarrow, which is missing; pip install 'dtag_fast[arrow]'"


def is_installed() -> bool:
    """Whether pyarrow can be imported."""
    return importlib.util.find_spec("pyarrow") is not None


def episode_files(folder: str | os.PathLike) -> list[str]:
    """Data files of the episode in `folder`, in the order they were written; none without a folder."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith("part-")]
    except FileNotFoundError:
        return []
    return [os.path.join(folder, name) for name in sorted(names, key=lambda name: (len(name), name))]


def read_episodes(
    path: Path, number: int, state_paths: Sequence[str], name: str, form: str
) -> Iterator[tuple[np.ndarray, ...]]:
    """The arrays of the episodes in the order of Episode, not yet checked.

    Args:
        path: folder of the dataset's data.
        number: of episodes.
        state_paths: "observations", or "observations/<key>" of a Dict, that side by side make up the state.
        name: of the dataset, for errors.
        form: "arrow" or "parquet".

    Raises:
        ValueError: pyarrow is missing, or an episode or one of its columns is missing or damaged.
    """
    if not is_installed():
        raise ValueError(f"{name}: stored in Minari's {form} format, which {MISSING}")
    import pyarrow

    for index in range(number):
        where = f"{name}: episode {index}"
        files = episode_files(path / str(index))
        if not files:
            raise ValueError(
                f"{where}: missing from {path}, though the metadata counts {number} episodes; {_REMEDY}"
            )
        try:
            table = _read_table(files, form)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{where}: can not be read ({error}); the file is damaged, {_REMEDY}") from error
        yield _read_episode(table, state_paths, where, _steps(path / str(index)))


def _read_table(files: Sequence[str], form: str):
    import pyarrow

    if form == "parquet":
        from pyarrow import parquet

        tables = [parquet.ParquetFile(file).read(use_threads=False) for file in files]
    else:
        tables = []
        for file in files:
            with pyarrow.memory_map(file) as source:
                tables.append(pyarrow.ipc.open_file(source).read_all())
    return tables[0] if len(tables) == 1 else pyarrow.concat_tables(tables)


def _steps(folder: Path) -> int | None:
    """Steps that the episode's own metadata counts; None where it does not."""
    try:
        return int(read_metadata(folder)["total_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_episode(table, state_paths: Sequence[str], where: str, steps: int | None) -> tuple[np.ndarray, ...]:
    states = [_values(table, path, where) for path in state_paths]
    if len(states) > 1:
        if any(part.ndim != 2 for part in states):
            shapes = ", ".join(f"{path} {part.shape}" for path, part in zip(state_paths, states, strict=True))
            raise ValueError(f"{where}: observations: expected entries (T + 1, n), got {shapes}")
        states = [np.concatenate(states, axis=1)]
    if steps is not None and steps != table.num_rows - 1:
        raise ValueError(
            f"{where}: its metadata counts {steps} steps, its table has {table.num_rows} rows; {_REMEDY}"
        )
    others = [
        _values(table, key, where)[:-1] for key in ("actions", "rewards", "terminations", "truncations")
    ]
    return (states[0], *others)


def _values(table, path: str, where: str) -> np.ndarray:
    """A column, or an entry of a column of structs, as (rows,) or (rows, n)."""
    import pyarrow

    column, *entries = path.split("/")
    if column not in table.column_names:
        raise ValueError(
            f"{where}: {column}: this column is missing; the episode has {', '.join(table.column_names)}"
        )
    array = table.column(column)
    array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    for entry in entries:
        names = [field.name for field in array.type] if pyarrow.types.is_struct(array.type) else []
        if entry not in names:
            raise ValueError(
                f"{where}: {path}: this entry is missing; {column} has {', '.join(names) or 'none'}"
            )
        array = array.flatten()[names.index(entry)]
    width = None
    if pyarrow.types.is_fixed_size_list(array.type):
        width, rows = array.type.list_size, len(array)
        empty = array.null_count
        array = array.flatten()
    else:
        rows, empty = len(array), 0
    numbers = pyarrow.types.is_boolean(array.type) or pyarrow.types.is_primitive(array.type)
    if array.null_count or empty or not numbers:
        gaps = " with gaps" if array.null_count or empty else ""
        raise ValueError(f"{where}: {path}: expected numbers in every row, got {array.type}{gaps}")
    values = array.to_numpy(zero_copy_only=False)
    return values if width is None else values.reshape(rows, width)
