"""The folder of a suite's results: results.json, tables/ and figures/."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dtag_fast.experiments import plots
from dtag_fast.experiments.tables import Table
from dtag_fast.training.files import read_json, write_json

RESULTS = "results.json"
_SUFFIXES = {"tables": Table.SUFFIXES, "figures": plots.SUFFIXES}


def refuse_other(name: str, out: Path, is_ours: bool, runs: Path | None = None) -> None:
    """Refuse a folder that holds something else than the results of a suite; hidden files do not count.

    Args:
        is_ours: whether `out`, where it holds anything, is known to be a suite's.
        runs: folder of its pieces of work, which may lie in `out`.

    Raises:
        ValueError: it does.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, {out} is a file")
    if runs is not None and runs.absolute() == out.absolute():
        raise ValueError(f"runs: {runs} is the folder of the results; take another one, or one in it")
    if out.is_dir() and not is_ours:
        within = () if runs is None else (runs.absolute(), *runs.absolute().parents)
        known = (file.name.startswith(".") or file.absolute() in within for file in out.iterdir())
        if not all(known):
            raise ValueError(
                f"out: {out} holds files of something else; take another folder or move them away"
            )
    file = out / RESULTS
    if file.is_file() and _suite_of(file) != name:
        raise ValueError(f"out: {file} is not of the suite {name}; take another folder or move it away")


def _suite_of(results: Path) -> str | None:
    found = read_json(results)
    return found.get("suite") if isinstance(found, dict) else None


def refuse_unwritable(option: str, folder: Path) -> None:
    """Refuse a folder into which nothing can be written; leaves nothing there.

    Args:
        option: that names it. folder: need not exist yet.

    Raises:
        ValueError: neither it nor, where it is missing, the nearest folder above it can be written to.
    """
    wanted = folder.absolute()
    # os.path.exists, as Path.exists raises where a folder above may not be searched
    there = next(place for place in (wanted, *wanted.parents) if os.path.exists(place))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(
            f"{option}: nothing can be written to {folder} ({there}: {error.strerror}); take another folder"
        ) from error


def write_findings(
    out: Path,
    summary: dict[str, Any],
    tables: Mapping[str, Table],
    figures: Mapping[str, Any],
    label: str = "",
) -> list[Path]:
    """Write results.json, and tables and figures by name; returns the files. Of those that the results.json
    before it names, what is not among them now is removed.

    Args:
        summary: what results.json holds beside the tables and the names of the figures.
        label: of what the tables are, after the note of each.
    """
    out.mkdir(parents=True, exist_ok=True)
    results = out / RESULTS
    before = read_json(results) if results.is_file() else {}
    for kind, now in (("tables", tables), ("figures", figures)):
        for key in before.get(kind, ()):
            if key not in now:
                for suffix in _SUFFIXES[kind]:
                    (out / kind / f"{key}{suffix}").unlink(missing_ok=True)
    named = {"tables": {key: asdict(table) for key, table in tables.items()}, "figures": sorted(figures)}
    write_json(results, summary | named)
    files = [results]
    for key, table in tables.items():
        labelled = replace(table, note=f"{table.note} {label}".strip())
        files += labelled.save(out / "tables" / key)
    for key, figure in figures.items():
        files += plots.save(figure, out / "figures" / key)
    return files
