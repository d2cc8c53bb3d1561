"""The folder of a suite's results: results.json, tables/ and figures/."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dtag_fast.experiments import plots
from dtag_fast.experiments.tables import Table
from dtag_fast.training.files import read_json

RESULTS = "results.json"


def refuse_other(name: str, out: Path, is_ours: bool) -> None:
    """Refuse a folder that holds something else than the results of a suite.

    Args:
        is_ours: whether `out`, where it holds anything, is known to be a suite's.

    Raises:
        ValueError: it does.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, {out} is a file")
    if out.is_dir() and any(out.iterdir()) and not is_ours:
        raise ValueError(f"out: {out} holds files of something else; take another folder or move them away")
    file = out / RESULTS
    if file.is_file() and read_json(file).get("suite") != name:
        raise ValueError(f"out: {file} is not of the suite {name}; take another folder or move it away")


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
    out: Path, tables: Mapping[str, Table], figures: Mapping[str, Any], label: str = ""
) -> list[Path]:
    """Write tables and figures by name; returns the files.

    Args:
        label: of what the tables are, after the note of each.
    """
    files = []
    for key, table in tables.items():
        labelled = replace(table, note=f"{table.note} {label}".strip())
        files += labelled.save(out / "tables" / key)
    for key, figure in figures.items():
        files += plots.save(figure, out / "figures" / key)
    return files
