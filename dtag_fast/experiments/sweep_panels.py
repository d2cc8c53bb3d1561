"""The panels of a sweep's figures: rows of its tables in, statistics per cell out.

The rows with steps = 0 and one start are the plain policy, which every other cell is compared with on the
seeds that both have played.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dtag_fast.experiments.sweep_tables import POLICY, RAW, SHARED, Row, SweepTable, nothing_to_draw
from dtag_fast.models.behaviour import Behaviour
from dtag_fast.rollout.settings import is_plain_record
from dtag_fast.rollout.statistics import Summary, paired_difference, summarize


class Rule(NamedTuple):
    """What decides how far a step goes: a step size, or the weight and radius of a behaviour."""

    lr: float | None = None
    weight: float | None = None
    radius: float | None = None

    @classmethod
    def of(cls, row: Row) -> "Rule":
        return cls(row["lr"], row.get("behaviour_weight"), row.get("behaviour_radius"))

    @property
    def is_regularised(self) -> bool:
        return self.weight is not None

    @property
    def order(self) -> tuple[float, ...]:
        """Step sizes ascending, then radii and weights."""
        return (1, self.radius, self.weight) if self.is_regularised else (0, self.lr)

    @property
    def value(self) -> str:
        """As `dtag sweep` takes it: "0.03" of a step size, "0.4" or "0.4:0.5" of a weight and a radius."""
        if not self.is_regularised:
            return f"{self.lr:g}"
        return f"{self.weight:g}" + (f":{self.radius:g}" if self.radius != Behaviour.radius else "")

    @property
    def label(self) -> str:
        """For legends."""
        return f"{'weight' if self.is_regularised else 'lr'}={self.value}"


@dataclass(frozen=True)
class Cell:
    """One n and rule: E episodes, their score, the paired gain over the plain policy, the mean Q gain.

    gain: None where no seed was played by both. q_gain: per step, in the critic's units; None without one.
    """

    steps: int
    rule: Rule
    episodes: int
    score: Summary
    gain: Summary | None
    q_gain: float | None


@dataclass(frozen=True)
class Panel:
    """All n, lr and weights of one policy under one choice of the other options.

    Attributes:
        title: what tells it from the other panels, and how many episodes a cell has.
        env_id: played in. score_name: "normalised score", or "return" where a row has none.
        plain: the policy without Action Gradient, or None where the table has no such rows.
        unclimbed: n = 0: with one start the plain policy, with several the best of them by Q alone. Likewise.
        cells: by rule and n, n > 0.
    """

    title: str
    env_id: str
    score_name: str
    plain: Cell | None
    unclimbed: Cell | None
    cells: list[Cell]

    @property
    def steps(self) -> list[int]:
        """Every n > 0, ascending."""
        return sorted({cell.steps for cell in self.cells})

    @property
    def rules(self) -> list[Rule]:
        """Every lr, ascending, and then every weight."""
        return sorted({cell.rule for cell in self.cells}, key=lambda rule: rule.order)

    @property
    def rates(self) -> list[float]:
        """Every lr, ascending."""
        return [rule.lr for rule in self.rules if not rule.is_regularised]


def sweep_panels(tables: Mapping[str, SweepTable], apart: bool = False) -> list[Panel]:
    """The panels of some tables, in the order of their rows.

    Rows that are regularised by a behaviour have no optimizer, gradient or radius of their own, so they are
    part of every panel of the same policy, critic, reduction and selection, as the plain policy is.

    Args:
        tables: label -> table.
        apart: give them panels of their own instead, each after the last panel that they belong to.

    Raises:
        ValueError: no cell of Action Gradient has a finished episode.
    """
    groups: dict[_Key, list[Row]] = {}  # panel -> its rows with steps > 0
    plain: dict[tuple, list[Row]] = {}  # policy -> its rows without Action Gradient
    unclimbed: dict[tuple, list[Row]] = {}  # beginning of panels -> rows of several starts with steps = 0
    failed: dict[_Key, set[tuple]] = {}  # panel -> its episodes without an end
    finished: set[tuple] = set()  # an episode may have been played again
    for label, table in tables.items():
        for row in table.rows:
            key = _Key.of(label, row)
            episode = (*key, row["steps"], Rule.of(row), row["seed"])
            if row["episode_return"] is None:
                failed.setdefault(key, set()).add(episode)
                continue
            finished.add(episode)
            if is_plain_record(row):
                plain.setdefault(key.policy, []).append(row)
            elif row["steps"] == 0:  # the best by F has no line of its own to begin
                if key.raw is not None:
                    unclimbed.setdefault(key.beginning, []).append(row)
            else:
                groups.setdefault(key, []).append(row)
    if not groups:
        raise ValueError(nothing_to_draw(tables.values()))
    titles = _titles(list(groups), len(tables))
    panels = []
    for key, members in _together(list(groups), apart).items():
        rows = [row for member in members for row in groups[member]]
        lost = sum(len(failed.get(member, set()) - finished) for member in members)
        baseline = plain.get(key.policy, [])
        beginning = baseline if key.has_one_start else unclimbed.get(key.beginning, [])
        panels.append(_panel(titles[key], rows, baseline, beginning, lost))
    return panels


class _Key(NamedTuple):
    """What the rows of a panel have in common.

    policy: label of the table and the columns of POLICY. shared: those of SHARED. raw: those of RAW, None
    for rows that are regularised.
    """

    policy: tuple
    shared: tuple
    raw: tuple | None

    @classmethod
    def of(cls, label: str, row: Row) -> "_Key":
        raw = None if Rule.of(row).is_regularised else tuple(row.get(name) for name in RAW)
        policy, shared = (tuple(row[name] for name in names) for names in (POLICY, SHARED))
        return cls((label, *policy), shared, raw)

    @property
    def beginning(self) -> tuple:
        """What rows with steps = 0 have in common with it, which select nothing."""
        return self.policy, tuple(self._how[name] for name in SHARED if name != "select")

    @property
    def has_one_start(self) -> bool:
        return self._how["starts"] == 1

    @property
    def _how(self) -> dict[str, Any]:
        return dict(zip(SHARED, self.shared, strict=True))

    def joins(self, other: "_Key") -> bool:
        """Whether these are the regularised rows to rows like `other`."""
        return self.raw is None and other.raw is not None and self[:2] == other[:2]


def _together(keys: Sequence[_Key], apart: bool) -> dict[_Key, list[_Key]]:
    """Panel -> the keys whose rows it has, in the order of the panels."""
    found: dict[_Key, list[_Key]] = {}
    for key in keys:
        if any(key.joins(other) for other in keys):
            continue  # has its place with those
        joining = [other for other in keys if other.joins(key)]
        found[key] = [key] if apart else [key, *joining]
        for other in joining if apart else ():
            found.pop(other, None)
            found[other] = [other]
    return found


def _panel(
    title: str, rows: Sequence[Row], plain: Sequence[Row], unclimbed: Sequence[Row], failed: int
) -> Panel:
    has_scores = all(row.get("normalized_score") is not None for row in (*rows, *plain, *unclimbed))
    column = "normalized_score" if has_scores else "episode_return"
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        cells.setdefault((Rule.of(row).order, row["steps"]), []).append(row)
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
        unclimbed=_cell(unclimbed, column, {}) if unclimbed else None,
        cells=found,
    )


def _cell(rows: Sequence[Row], column: str, baseline: Mapping[int, float]) -> Cell:
    mine = {row["seed"]: row for row in rows}
    seeds = sorted(mine)
    shared = [seed for seed in seeds if seed in baseline]
    q_gains = [mine[seed].get("mean_q_gain") for seed in seeds]
    return Cell(
        steps=rows[0]["steps"],
        rule=Rule.of(rows[0]),
        episodes=len(seeds),
        score=summarize(np.array([mine[seed][column] for seed in seeds])),
        gain=paired_difference(
            np.array([mine[seed][column] for seed in shared]), np.array([baseline[seed] for seed in shared])
        )
        if shared
        else None,
        q_gain=None if None in q_gains else float(np.mean(q_gains)),
    )


def _titles(keys: Sequence[_Key], tables: int) -> dict[_Key, str]:
    """Panel -> what tells it from the others; run and environment where there is but one."""
    abouts = [_about(key) for key in keys]
    names = ("table", *POLICY, *SHARED, *RAW)
    differ = [n for n in names if len({about[n] for about in abouts if n in about}) > 1]
    if tables > 1 and "table" in differ:
        differ.remove("run") if "run" in differ else None
    else:
        differ = [name for name in differ if name != "table"]
    plain_words = {"table", "run", "env_id", "optimizer"}
    titles = {}
    for key, about in zip(keys, abouts, strict=True):
        parts = [
            str(about[name]) if name in plain_words else f"{name}={_short(about[name])}"
            for name in differ
            if name in about
        ]
        if key.raw is None and not set(RAW).isdisjoint(differ):
            parts.append("regularised")
        titles[key] = ", ".join(parts) or f"{about['run']}, {about['env_id']}"
    return titles


def _about(key: _Key) -> dict[str, Any]:
    """Column -> what the rows of a panel have there; regularised ones have none of RAW."""
    values = dict(zip(("table", *POLICY, *SHARED), (*key.policy, *key.shared), strict=True))
    return values if key.raw is None else values | dict(zip(RAW, key.raw, strict=True))


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
