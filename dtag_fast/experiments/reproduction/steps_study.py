"""The number of Action Gradient steps with the step size: where it helps less, where it collapses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from dtag_fast.experiments.claims import on_most
from dtag_fast.experiments.plots import Curve, learning_curves
from dtag_fast.experiments.reproduction.figures import over_steps
from dtag_fast.experiments.reproduction.lab import POLICIES, Lab
from dtag_fast.experiments.reproduction.scores import NONE, Goal, Score, gains_of, lost_of
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.tasks import MAZE2D
from dtag_fast.experiments.tables import Table
from dtag_fast.rollout import AGSetting

STEPS = (*range(1, 16), 20, 30, 50, 100)
LR = (0.003, 0.01, 0.03, 0.1)
X_NAME = "n, Action Gradient steps"
PUBLISHED_MOST = 15  # steps in the paper's ablation
SHOWN = (10, PUBLISHED_MOST, STEPS[-1])  # n whose gains the table has


def selections(policy: str) -> tuple[str, ...]:
    """Which iterate is executed: the best, and for Reinformer the last as well."""
    return ("best", "last") if policy == "RF" else ("best",)


def _method(policy: str, select: str, lr: float, n: int) -> str:
    """Name of a cell of the ablation."""
    return policy if n == 0 else f"{policy} {select} lr={lr:g} n={n}"


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """Every number of steps with every step size, on the same episodes; DT executes the best iterate only."""
    found = []
    for task in tasks:
        for seed in lab.reported:
            iql = lab.training(task, "iql", seed)
            for name, algorithm in POLICIES.items():
                cells = list(product(selections(name), LR, STEPS))
                settings = tuple(AGSetting(n, lr, select=select) for select, lr, n in cells)
                swept = lab.swept(lab.training(task, algorithm, seed), iql, settings)
                found.append(Goal(task, name, seed, swept))
                for place, cell in enumerate(cells, start=1):
                    found.append(Goal(task, _method(name, *cell), seed, swept, row=place))
    return found


def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
    """A row for every task, policy, selection and step size, and how the gain goes over n."""
    rows, panels, diminish, collapse = [], {}, [], []
    for task, name in product(tasks, POLICIES):
        for select in selections(name):
            gains = {lr: _gains(scores, task, name, select, lr) for lr in LR}
            for lr, found in gains.items():
                lost = lost_of(scores, task, name, *(_method(name, select, lr, n) for n in STEPS))
                if not found and not lost:
                    continue
                rows.append([task, name, select, f"{lr:g}", *_cells(found, lost)])
                if select == "best" and (adds := _later_steps_add(found)) is not None:
                    diminish.append(not adds)
                if select == "last" and lr == LR[-1] and STEPS[-1] in found:
                    collapse.append(found[STEPS[-1]] < 0)
            if curves := [found for lr in gains if (found := _curve(scores, task, name, select, lr))]:
                panels[f"{task}, {name}, {select}"] = curves
    header = ["task", "policy", "executed", "step size", "best n", "gain there", "90 % of it at n"]
    header += [f"gain at n={n}" for n in SHOWN] + ["below 0 from n"]
    note = "Gains in normalised score over the policy alone on the same episodes, means over training seeds."
    return Findings(
        tables={"steps": Table(header, rows, text_columns=3, note=note)},
        figures={"steps": learning_curves(panels, score_name="score", x_name=X_NAME, log_x=True)}
        if panels
        else {},
        claims=[
            on_most(
                f"where up to {PUBLISHED_MOST} steps gain, more add less than a tenth to the gain of "
                f"{PUBLISHED_MOST}",
                diminish,
                " combinations of task, policy and step size; somewhat more than half by chance",
            ),
            on_most(
                f"{STEPS[-1]} of Reinformer's largest steps, the last iterate executed, end below the policy "
                "alone",
                collapse,
                " tasks",
            ),
        ],
    )


@dataclass(frozen=True)
class _Shape:
    """How a gain goes over n: the best n and its gain, the first n with 90 % of that, the first n beyond the
    best one where the policy alone is better."""

    best: int
    gain: float
    enough: int
    below: int | None


def _cells(gains: dict[int, float], lost: int) -> list[str]:
    """From the best n on, of gains by n and the number of training seeds that diverged."""
    shown = [f"{gains[n]:+.1f}" if n in gains else NONE for n in SHOWN]
    if not gains:
        return [NONE, f"{NONE}, {lost} diverged", NONE, *shown, NONE]
    shape = _shape(gains)
    gain = f"{shape.gain:+.1f}" + (f", {lost} diverged" if lost else "")
    enough = str(shape.enough) if shape.gain > 0 else NONE
    return [str(shape.best), gain, enough, *shown, NONE if shape.below is None else str(shape.below)]


def _shape(gains: dict[int, float]) -> _Shape:
    """Of gains by n, ascending."""
    best = max(gains, key=gains.get)
    enough = next(n for n, gain in gains.items() if gain >= 0.9 * gains[best] or n == best)
    below = next((n for n, gain in gains.items() if n > best and gain < 0), None)
    return _Shape(best, gains[best], enough, below)


def _later_steps_add(gains: dict[int, float]) -> bool | None:
    """Whether the mean gain of more steps than published is above 1.1 times that of as many as published;
    None where the mean gain up to there is not above 0, or n is missing on either side."""
    early = [gain for n, gain in gains.items() if n <= PUBLISHED_MOST]
    late = [gain for n, gain in gains.items() if n > PUBLISHED_MOST]
    if not late or PUBLISHED_MOST not in gains or fmean(early) <= 0:
        return None
    return fmean(late) > 1.1 * max(gains[PUBLISHED_MOST], 0.0)


def _gains(scores: Sequence[Score], task: str, policy: str, select: str, lr: float) -> dict[int, float]:
    """n -> mean over seeds of what n steps gain, as far as it is known."""
    found = {n: gains_of(scores, task, policy, _method(policy, select, lr, n)) for n in STEPS}
    return {n: fmean(gains.values()) for n, gains in found.items() if gains}


def _curve(scores, task: str, policy: str, select: str, lr: float) -> Curve | None:
    methods = {n: _method(policy, select, lr, n) for n in (0, *STEPS)}
    return over_steps(scores, task, methods, f"step size {lr:g}")


STUDY = Study(
    title="the number of Action Gradient steps with the step size: where it helps less, where it collapses",
    source="Action Gradient, arXiv 2510.05285, its ablation of n and the step size",
    tasks=(
        "halfcheetah-medium",
        "halfcheetah-medium-replay",
        "hopper-medium",
        "hopper-medium-replay",
        *MAZE2D,
    ),
    goals=goals,
    report=report,
)
