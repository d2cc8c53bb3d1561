"""What there is to draw under the paths that `dtag plot` is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dtag_fast.experiments.curves import is_evaluation, is_run
from dtag_fast.experiments.sweep_tables import NAMES, find_table


@dataclass(frozen=True)
class Sources:
    """What was found, each once, in the order of the paths and then of their names.

    Attributes:
        runs: folders with metrics. evaluations: JSON files of `dtag evaluate`.
        named_tables, found_tables: what a sweep is called by (its folder or file) -> its table; the first
            were given themselves, the second lie in a folder that was given.
    """

    runs: list[Path]
    evaluations: list[Path]
    named_tables: dict[Path, Path]
    found_tables: dict[Path, Path]


def find_sources(paths: Sequence[Path]) -> Sources:
    """Look at each path, and into each folder that is no sweep's own.

    Raises:
        ValueError: a path is none of these and holds none of them.
    """
    named = {path: table for path in paths if not is_run(path) and (table := find_table(path)) is not None}
    runs: list[Path] = []
    evaluations: list[Path] = []
    found: dict[Path, Path] = {}
    for path in paths:
        if path in named:
            continue
        mine = [folder for folder in [path, *_folders_with(path, "metrics.jsonl")] if is_run(folder)]
        files = [file for file in [path, *sorted(path.rglob("*.json"))] if is_evaluation(file)]
        tables = {folder: find_table(folder) for name in NAMES for folder in _folders_with(path, name)}
        if not (mine or files or tables):
            raise ValueError(
                f"runs: {path} is neither a run folder with metrics.jsonl, nor a JSON file of `dtag "
                "evaluate`, nor a sweep's table.jsonl or table.parquet or its folder, nor does it hold one"
            )
        runs += mine
        evaluations += files
        found |= tables
    given = {table.resolve() for table in named.values()}
    found = {folder: table for folder, table in found.items() if table.resolve() not in given}
    return Sources(list(dict.fromkeys(runs)), list(dict.fromkeys(evaluations)), named, found)


def _folders_with(path: Path, name: str) -> list[Path]:
    """Folders below `path`, itself included, that hold a file of this name."""
    return sorted(file.parent for file in path.rglob(name))
