"""From evaluations to scores of methods on tasks, and to tables of them over training seeds."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dtag_fast.experiments import over_seeds as intervals
from dtag_fast.experiments.reproduction.evaluations import read
from dtag_fast.experiments.reproduction.work import Shelf, Work
from dtag_fast.experiments.tables import Table
from dtag_fast.rollout.settings import is_plain_record

NONE = "-"
NOTHING_CHOSEN = "none: diverged on the tuning seed"
SETTING_NOTE = (
    "Chosen on the tuning seed. In brackets: what it gained there over the policy alone, on the episodes "
    "that it was chosen by."
)
# a name alone, or with fields that may hold tuples: Adam(betas=(0.9, 0.999), eps=1e-08)
_OPTIMIZER = re.compile(r" optimizer=\w+(\((?:[^()]|\([^()]*\))*\))?")


@dataclass(frozen=True)
class Goal:
    """A number that a suite reports: a method on a task, of one training seed.

    Attributes:
        work: that holds it; an Evaluation where `score_of` reads it.
        row: of the evaluation. "plain": its policy alone; "refined": with the setting of Action Gradient that
            was chosen for it; a number: with that one of its settings.
    """

    task: str
    method: str
    seed: int
    work: Work
    row: Literal["plain", "refined"] | int = "plain"


@dataclass(frozen=True)
class Score:
    """What came of a goal.

    Attributes:
        score: normalised, None where the task has no references. mean_return: undiscounted. q_gain: mean rise
            of the critic's Q over the policy's action; None without a critic. setting: label of the row
            without its target return.
        episodes: that were finished. target_return: that was asked for, None where none is.
        diverged: update at which the training diverged; then there are no numbers.
        dataset: id of the policy's data.
        tuning_gain: what the setting had over the policy alone where it was chosen, in the unit of `value`;
            None where nothing of Action Gradient was chosen.
    """

    task: str
    method: str
    seed: int
    score: float | None
    mean_return: float | None
    q_gain: float | None
    setting: str
    episodes: int
    target_return: float | None
    diverged: int | None = None
    dataset: str = ""
    tuning_gain: float | None = None

    @property
    def value(self) -> float | None:
        """The score, or the mean return where there is none."""
        return self.mean_return if self.score is None else self.score


def score_of(goal: Goal, shelf: Shelf) -> Score | None:
    """What the evaluation of a goal says; None where it is missing or no episode of the row was finished.

    Where all trainings that choose a setting, or the return to ask for, diverged, a score without numbers
    says so.
    """
    if not shelf.path(goal.work).is_file():
        return None
    found = read(goal.work, shelf)
    if "diverged" in found:
        return _without_numbers(goal, "diverged", found["diverged"]["update"])
    is_plain = goal.row == "plain" or (goal.row != "refined" and goal.work.settings[goal.row].is_plain)
    if "critic_diverged" in found and not is_plain:
        return _without_numbers(goal, "diverged", found["critic_diverged"]["update"])
    if found["chosen"] is not None and not _was_chosen(found, goal.row):
        return _without_numbers(goal, NOTHING_CHOSEN)
    row = _row(found, "plain" if "critic_diverged" in found else goal.row)
    if row is None or row["mean"] is None:
        return None
    gains = row["mean_q_gain"]
    return Score(
        task=goal.task,
        method=goal.method,
        seed=goal.seed,
        score=row["normalized"] and row["normalized"]["mean"],
        mean_return=row["mean"],
        q_gain=None if gains is None else statistics.fmean(gains),
        setting=row["label"].partition(" target=")[0],
        episodes=len(row["returns"]),
        target_return=row["target_return"],
        dataset=found["policy"]["dataset_id"] or "",
        tuning_gain=_tuning_gain(goal, found, row["normalized"]) if goal.row == "refined" else None,
    )


def _without_numbers(goal: Goal, setting: str, diverged: int | None = None) -> Score:
    return Score(goal.task, goal.method, goal.seed, None, None, None, setting, 0, None, diverged)


def _was_chosen(found: dict[str, Any], which: str | int) -> bool:
    """Whether what this row asks to be chosen elsewhere was: a setting, or one return of several."""
    if which == "refined":
        return found["chosen"]["setting"] is not None
    returns = {row["target_return"] for row in found["settings"]}
    return found["chosen"]["target_return"] is not None or len(returns) == 1


def _tuning_gain(goal: Goal, found: dict[str, Any], references: dict[str, Any] | None) -> float | None:
    """Of the setting that was chosen, from the means of all that it was chosen from."""
    chosen = found["chosen"]
    if chosen is None or chosen["setting"] is None:
        return None
    offered = goal.work.chosen_by[0].settings
    plain = next((place for place, setting in enumerate(offered) if setting.is_plain), None)
    ends = [None if place is None else chosen["means"][place] for place in (plain, chosen["setting"])]
    if None in ends:
        return None
    scale = 1.0 if references is None else 100 / (references["ref_max"] - references["ref_min"])
    return (ends[1] - ends[0]) * scale


def _row(found: dict[str, Any], which: str | int) -> dict[str, Any] | None:
    """A row for the first target return; of Action Gradient's the last, where what was chosen stands."""
    if isinstance(which, int):
        return found["settings"][which * (len(found["settings"]) // found["settings_asked"])]
    first = found["settings"][:: len(found["settings"]) // found["settings_asked"]]
    rows = [row for row in first if is_plain_record(row["setting"]) != (which == "refined")]
    return rows[-1] if rows else None


def over_seeds(values: Sequence[float]) -> str:
    """Mean ± standard deviation (divisor N - 1) over training seeds; a single number as it is."""
    if not values:
        return NONE
    mean = statistics.fmean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def with_interval(values: Sequence[float]) -> str:
    """Mean and its 95 % interval by Student's t over training seeds."""
    return intervals.with_interval(values, "+") if values else NONE


def values_of(scores: Sequence[Score], task: str, method: str) -> dict[int, float]:
    """Seed -> value."""
    return {s.seed: s.value for s in scores if (s.task, s.method) == (task, method) and s.value is not None}


def gains_of(scores: Sequence[Score], task: str, base: str, better: str) -> dict[int, float]:
    """Seed -> what the second method has over the first, for seeds of which both have a value."""
    before, after = values_of(scores, task, base), values_of(scores, task, better)
    return {seed: after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())}


def score_table(
    scores: Sequence[Score],
    tasks: Sequence[str],
    methods: Sequence[str],
    quoted: dict[str, dict[str, float]] | None = None,
    quoted_tasks: Sequence[str] = (),
    note: str = "",
) -> Table:
    """A row for every task and one for the totals of their means; a column for every method.

    There is no total of a method that lacks a task, or has returns and not scores of one.

    Args:
        quoted: heading, which names the source -> task, or "total" -> number that others report.
        quoted_tasks: over which the quoted totals are.
    """
    quoted = quoted or {}

    def row(name: str, key: str, cells: list[str]) -> list[str]:
        return [name, *cells, *(f"{c[key]:g}" if key in c else NONE for c in quoted.values())]

    rows = [row(task, task, [score_cell(scores, task, method) for method in methods]) for task in tasks]
    if len(tasks) > 1:
        cells = []
        for method in methods:
            found = [values_of(scores, task, method) for task in tasks]
            whole = all(found) and _are_normalised([s for s in scores if s.method == method])
            cells.append(f"{sum(statistics.fmean(f.values()) for f in found):.1f}" if whole else NONE)
        whole = set(tasks) == set(quoted_tasks)
        rows.append(row(f"total of these {len(tasks)}", "total" if whole else "", cells))
    if quoted and set(tasks) != set(quoted_tasks):
        name = f"total of all {len(quoted_tasks)}"
        rows.append(row(name, "total", [NONE] * len(methods)))
    return Table(["task", *methods, *quoted], rows, note=note)


def score_cell(scores: Sequence[Score], task: str, method: str) -> str:
    """Mean ± standard deviation over training seeds, whether they are returns, and how many diverged."""
    mine = [s for s in scores if (s.task, s.method) == (task, method)]
    text = over_seeds(list(values_of(mine, task, method).values()))
    if text != NONE and not _are_normalised(mine):
        text += " (returns)"
    lost = sum(s.diverged is not None for s in mine)
    return text if not lost else f"{text}, {lost} of {len(mine)} diverged"


def _are_normalised(scores: Sequence[Score]) -> bool:
    return not any(s.score is None and s.value is not None for s in scores)


def lost_of(scores: Sequence[Score], task: str, *methods: str) -> int:
    """How many training seeds have no number of one of the methods because a training diverged."""
    mine = [s for s in scores if s.task == task and s.method in methods and s.diverged is not None]
    return len({s.seed for s in mine})


def gain_table(
    scores: Sequence[Score], tasks: Sequence[str], pairs: Sequence[tuple[str, str]], note: str = ""
) -> Table:
    """What the second method of each pair has over the first, runs of the same seed beside each other."""
    rows = [[task, *(gain_cell(scores, task, *pair, count=True) for pair in pairs)] for task in tasks]
    return Table(["task", *(f"{better} - {base}" for base, better in pairs)], rows, note=note)


def gain_cell(scores: Sequence[Score], task: str, base: str, better: str, *, count: bool = False) -> str:
    """What the second method has over the first, with its interval and how many seeds diverged.

    Args:
        count: also tell in how many seeds it is above 0.
    """
    gains = list(gains_of(scores, task, base, better).values())
    text = with_interval(gains)
    if count and gains:
        text += f", {sum(gain > 0 for gain in gains)} of {len(gains)} up"
    lost = lost_of(scores, task, base, better)
    return f"{text}, {lost} diverged" if lost else text


def chosen_in_words(scores: Sequence[Score]) -> str:
    """Settings, the returns asked for and in brackets what was gained where they were chosen; each once, of
    trainings that did not diverge."""
    found = []
    for score in scores:
        if score.diverged is None:
            asked = "" if score.target_return is None else f", return {score.target_return:g}"
            gained = "" if score.tuning_gain is None else f" ({score.tuning_gain:+.1f})"
            found.append(_OPTIMIZER.sub("", score.setting) + asked + gained)
    return "; ".join(dict.fromkeys(found)) or NONE


def setting_table(
    scores: Sequence[Score], tasks: Sequence[str], methods: Sequence[str], note: str = SETTING_NOTE
) -> Table:
    """Which setting was chosen for each task and method, and what it gained over the policy alone where it
    was chosen; one for each training seed where they differ. An optimizer stands in the name of its method.
    """

    rows = [
        [task, *(chosen_in_words([s for s in scores if (s.task, s.method) == (task, m)]) for m in methods)]
        for task in tasks
    ]
    return Table(["task", *methods], rows, note=note, text_columns=99)
