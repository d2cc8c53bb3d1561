"""What a sweep found: statistics of every cell, the best one and what its choice cost, and the JSON of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dtag_fast.rollout.results import write_json
from dtag_fast.rollout.statistics import Summary, paired_difference, summarize
from dtag_fast.sweep.cells import Cell, setting_columns
from dtag_fast.sweep.table import Row

FORMAT_VERSION = 1


@dataclass(frozen=True)
class CellResult:
    """One cell over the episodes of the sweep that it was played for.

    Attributes:
        episodes: how many; fewer than asked for where it was stopped early or a job failed, possibly 0.
        returns: undiscounted, None without episodes. score: normalised, None without references.
        paired: difference to the plain policy of the same checkpoint and target on the seeds that both were
            played for; None for that itself.
        mean_q_gain: what refinement added to Q, averaged over episodes; None without a critic.
        dropped: (episodes it was judged by, interval of its difference to the leader then), None where it was
            not stopped early.
    """

    cell: Cell
    episodes: int
    returns: Summary | None
    score: Summary | None
    paired: Summary | None
    mean_q_gain: float | None
    dropped: tuple[int, tuple[float, float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        content = {name: value for name, value in asdict(self).items() if name != "cell"}
        named = {"checkpoint_step": self.cell.checkpoint_step, "target_return": self.cell.target_return}
        return {"label": self.cell.label} | named | setting_columns(self.cell.setting) | content


@dataclass(frozen=True)
class Confirmation:
    """The best cell and the plain policy once more, on seeds that had no part in the choice."""

    first_seed: int
    episodes: int
    best: CellResult
    plain: CellResult


@dataclass(frozen=True)
class SweepResult:
    """Result of `sweep`.

    Attributes:
        cells: in the order asked for.
        episodes: asked for per cell, with seeds seed .. seed + episodes - 1.
        baseline_added: whether the plain policy was not among the settings.
        played: episodes that this call played; the others were in the table. in_table: (cells, episodes) of
            the whole table, which may hold more than was asked for now.
        failures: one sentence per job that failed, and per episode that its environment did not let finish;
            these episodes are missing.
        confirmation: None where it was not asked for.
        no_parquet: None, or why there is no table.parquet.
        not_normalized: as in `EvaluationResult`.
        gate_limit: of the gate around the critic, in units of Q; None without one.
    """

    run: str
    out: Path
    env_id: str
    seed: int
    episodes: int
    cells: list[CellResult]
    baseline_added: bool
    played: int
    in_table: tuple[int, int]
    failures: list[str]
    confirmation: Confirmation | None
    no_parquet: str | None
    not_normalized: str | None = None
    gate_limit: float | None = None

    @property
    def best(self) -> CellResult | None:
        """The cell of the highest mean return, the earliest on ties, of those played to the end.

        Its own episodes chose it, so it flatters; see `confirmation`. None where no cell is complete.
        """
        return best_of(self.cells, self.episodes)

    def last_and_best(self) -> list[tuple[CellResult, CellResult]]:
        """For every setting and target: its cell at the last checkpoint, and at the best one."""
        found: dict[tuple, list[CellResult]] = {}
        for result in self.cells:
            found.setdefault(result.cell.key[1:], []).append(result)
        return [
            (max(group, key=lambda r: r.cell.checkpoint_step), best)
            for group in found.values()
            if (best := best_of(group, self.episodes)) is not None
        ]

    @property
    def choice(self) -> str:
        """One sentence: which cell is best, and by how many evaluations it was chosen."""
        best = self.best
        if best is None:
            return "no setting has all its episodes, so none is called the best"
        step = f"step {best.cell.checkpoint_step:,}, " if self._checkpoints > 1 else ""
        used = sum(result.episodes for result in self.cells)
        text = (
            f"best: {step}{best.cell.label}, return {best.returns.mean:.1f}: "
            f"best of {len(self.cells)} settings, chosen by these same {self.episodes} episodes "
            f"({used:,} evaluation episodes in all)"
        )
        more = self.in_table[1] - used
        return text + (f"; the table holds {more:,} more episodes of earlier sweeps" if more > 0 else "")

    @property
    def _checkpoints(self) -> int:
        return len({result.cell.checkpoint_step for result in self.cells})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        best, confirmed = self.best, self.confirmation
        return {
            "format_version": FORMAT_VERSION,
            "run": self.run,
            "env_id": self.env_id,
            "seed": self.seed,
            "episodes": self.episodes,
            "gate_limit": self.gate_limit,
            "tuning": {
                "cells": len(self.cells),
                "episodes": sum(result.episodes for result in self.cells),
                "cells_in_table": self.in_table[0],
                "episodes_in_table": self.in_table[1],
            },
            "best": best and best.to_dict(),
            "choice": self.choice,
            "confirmation": confirmed
            and {
                "first_seed": confirmed.first_seed,
                "episodes": confirmed.episodes,
                "best": confirmed.best.to_dict(),
                "plain": confirmed.plain.to_dict(),
            },
            "failures": self.failures,
            "not_normalized": self.not_normalized,
            "last_and_best": [
                {"last": last.to_dict(), "best": best.to_dict()} for last, best in self.last_and_best()
            ],
            "cells": [result.to_dict() for result in self.cells],
        }

    def to_json(self, path: str | os.PathLike) -> None:
        """Write `to_dict` as JSON; the file appears whole or not at all."""
        write_json(path, self.to_dict())


def best_of(results: Sequence[CellResult], episodes: int) -> CellResult | None:
    """The highest mean of the cells that have all `episodes` and were not stopped early; None without any."""
    complete = [r for r in results if r.episodes >= episodes and r.dropped is None]
    return max(complete, key=lambda r: r.returns.mean, default=None)


def cell_result(
    cell: Cell,
    rows: Mapping[tuple[tuple, int], Row],
    seeds: Sequence[int],
    dropped: tuple[int, tuple[float, float]] | None = None,
) -> CellResult:
    """Statistics of a cell's rows with these seeds."""
    mine = [rows[cell.key, seed] for seed in seeds if (cell.key, seed) in rows]
    if not mine:
        return CellResult(cell, 0, None, None, None, None, dropped)
    paired = None
    if not cell.setting.is_plain:
        plain = cell.baseline.key
        both = [row for row in mine if (plain, row["seed"]) in rows]
        if both:
            theirs = [rows[plain, row["seed"]]["episode_return"] for row in both]
            paired = paired_difference([row["episode_return"] for row in both], theirs)
    scores, gains = ([row[name] for row in mine] for name in ("normalized_score", "mean_q_gain"))
    return CellResult(
        cell=cell,
        episodes=len(mine),
        returns=summarize(np.array([row["episode_return"] for row in mine])),
        score=None if None in scores else summarize(np.array(scores)),
        paired=paired,
        mean_q_gain=None if None in gains else float(np.mean(gains)),
        dropped=dropped,
    )
