"""What a sweep's table says of every cell: one row per cell and episode in, statistics per cell out.

A table is `table.jsonl` or `table.parquet` as `dtag sweep` writes them. The rows with steps = 0 are the plain
policy, which every other cell is compared with on the seeds that both have played.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dtag_fast.data import arrow
from dtag_fast.rollout.statistics import Summary, paired_difference, summarize
from dtag_fast.training.files import read_json_lines

NAMES = ("table.jsonl", "table.parquet")  # in a sweep's folder; the first is what the second is made of
SUFFIXES = (".jsonl", ".parquet")
POLICY = ("run", "checkpoint_step", "env_id", "target_return")  # columns that name what AG is applied to
OPTIONS = ("critic", "optimizer", "reduce", "gradient", "radius", "radius_norm", "select")  # and how
_NEEDED = {*POLICY, *OPTIONS[:-2], "select", "steps", "lr", "seed", "episode_return"}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One n and lr: E episodes, their score, the paired gain over the plain policy, the mean Q gain.

    gain: None where no seed was played by both. q_gain: per step, in the critic's units; None without one.
    """

    steps: int
    lr: float
    episodes: int
    score: Summary
    gain: Summary | None
    q_gain: float | None


@dataclass(frozen=True)
class Panel:
    """All n and lr of one policy under one choice of the other options.

    Attributes:
        title: what tells it from the other panels, and how many episodes a cell has.
        env_id: played in. score_name: "normalised score", or "return" where a row has none.
        plain: the policy without Action Gradient, or None where the table has no such rows.
        cells: by lr and n, n > 0.
    """

    title: str
    env_id: str
    score_name: str
    plain: Cell | None
    cells: list[Cell]

    @property
    def steps(self) -> list[int]:
        """Every n > 0, ascending."""
        return sorted({cell.steps for cell in self.cells})

    @property
    def rates(self) -> list[float]:
        """Every lr, ascending."""
        return sorted({cell.lr for cell in self.cells})


def find_table(path: Path) -> Path | None:
    """The table that `path` is, or that the folder `path` holds; None if neither."""
    if path.is_dir():
        return next((path / name for name in NAMES if (path / name).is_file()), None)
    return path if path.suffix in SUFFIXES and path.is_file() else None


def sweep_panels(tables: Mapping[str, Path]) -> list[Panel]:
    """The panels of some tables, in the order of their rows.

    Args:
        tables: label -> table file.

    Raises:
        ValueError: a file is no such table, is damaged, or no cell of Action Gradient has a finished episode.
    """
    groups: dict[tuple, list[Row]] = {}  # panel -> its rows with steps > 0
    plain: dict[tuple, list[Row]] = {}  # policy -> its rows with steps = 0
    failed: dict[tuple, set[tuple]] = {}  # panel -> its episodes without an end
    finished: set[tuple] = set()  # an episode may have been played again
    for label, file in tables.items():
        for row in read_table(file):
            policy = (label, *(row[name] for name in POLICY))
            key = (*policy, *(row.get(name) for name in OPTIONS))
            episode = (*key, row["steps"], row["lr"], row["seed"])
            if row["episode_return"] is None:
                failed.setdefault(key, set()).add(episode)
                continue
            finished.add(episode)
            if row["steps"] == 0:
                plain.setdefault(policy, []).append(row)
            else:
                groups.setdefault(key, []).append(row)
    if not groups:
        raise ValueError(
            f"{', '.join(map(str, tables.values()))}: no finished episode with Action Gradient (steps > 0); "
            "let the sweep go on"
        )
    titles = _titles(list(groups), len(tables))
    return [
        _panel(
            titles[key], rows, plain.get(key[: len(POLICY) + 1], []), len(failed.get(key, set()) - finished)
        )
        for key, rows in groups.items()
    ]


def read_table(file: Path) -> list[Row]:
    """The rows of a table.

    Raises:
        ValueError: pyarrow is missing, the file is damaged, or it lacks a column.
    """
    rows = _parquet(file) if file.suffix == ".parquet" else read_json_lines(file)
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


def _panel(title: str, rows: Sequence[Row], plain: Sequence[Row], failed: int) -> Panel:
    has_scores = all(row.get("normalized_score") is not None for row in (*rows, *plain))
    column = "normalized_score" if has_scores else "episode_return"
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        cells.setdefault((row["lr"], row["steps"]), []).append(row)
    baseline = {row["seed"]: row[column] for row in plain}
    found = [_cell(cells[key], column, baseline) for key in sorted(cells)]
    counts = sorted({cell.episodes for cell in found})
    notes = [f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"]
    notes[0] += " episode" if counts == [1] else " episodes"
    notes += [f"{failed} failed"] if failed else []
    return Panel(
        title=f"{title} ({', '.join(notes)})",
        env_id=rows[0]["env_id"],
        score_name="normalised score" if has_scores else "return",
        plain=_cell(plain, column, {}) if plain else None,
        cells=found,
    )


def _cell(rows: Sequence[Row], column: str, baseline: Mapping[int, float]) -> Cell:
    mine = {row["seed"]: row for row in rows}
    seeds = sorted(mine)
    shared = [seed for seed in seeds if seed in baseline]
    q_gains = [mine[seed].get("mean_q_gain") for seed in seeds]
    return Cell(
        steps=rows[0]["steps"],
        lr=rows[0]["lr"],
        episodes=len(seeds),
        score=summarize(np.array([mine[seed][column] for seed in seeds])),
        gain=paired_difference(
            np.array([mine[seed][column] for seed in shared]), np.array([baseline[seed] for seed in shared])
        )
        if shared
        else None,
        q_gain=None if None in q_gains else float(np.mean(q_gains)),
    )


def _titles(keys: Sequence[tuple], tables: int) -> dict[tuple, str]:
    """Panel -> what tells it from the others; run and environment where there is but one."""
    names = ("table", *POLICY, *OPTIONS)
    values = [dict(zip(names, key, strict=True)) for key in keys]
    differ = [name for name in names if len({about[name] for about in values}) > 1]
    if tables > 1 and "table" in differ:
        differ.remove("run") if "run" in differ else None
    else:
        differ = [name for name in differ if name != "table"]
    plain_words = {"table", "run", "env_id", "optimizer"}
    titles = {}
    for key, about in zip(keys, values, strict=True):
        parts = [
            str(about[name]) if name in plain_words else f"{name}={_short(about[name])}" for name in differ
        ]
        titles[key] = ", ".join(parts) or f"{about['run']}, {about['env_id']}"
    return titles


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
