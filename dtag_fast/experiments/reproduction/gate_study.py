"""Whether a gate on the ensemble's disagreement keeps many steps of Action Gradient from doing harm."""

from collections.abc import Sequence
from itertools import product
from statistics import fmean

from dtag_fast.experiments.claims import on_most
from dtag_fast.experiments.plots import Curve, learning_curves
from dtag_fast.experiments.reproduction import critic_study, steps_study
from dtag_fast.experiments.reproduction.figures import over_steps
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.scores import NONE, Goal, Score, gain_cell, gains_of
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.trainings import Training
from dtag_fast.experiments.tables import Table
from dtag_fast.rollout import AGSetting

BASE = "RF"
STEPS = (10, 30, 100)
LR = (0.01, 0.03, 0.1)
GATES = (None, 0.99, 0.9)  # quantiles of the members' disagreement over the data; None: no gate
NOTE = (
    "Gains in normalised score over the policy alone on the same episodes, mean and 95 % interval by "
    "Student's t over training seeds. Gate: quantile of the members' standard deviation over the critic's "
    "data, beyond which no iterate is executed. Nothing is chosen."
)


def method(gate: float | None, lr: float, n: int) -> str:
    """Name of a cell."""
    return f"{BASE}+AG lr={lr:g} n={n}" + ("" if gate is None else f" gate {gate:g}")


def ensemble(lab: Lab, task: str, seed: int) -> Training:
    """The largest ensemble among the critics of `critic_study`, with which the training is shared."""
    iql = [kind for kind in critic_study.critics(lab.budget).values() if kind[0] == "iql"]
    algorithm, changes = max(iql, key=lambda kind: kind[1].get("members", 0))
    return lab.training(task, algorithm, seed, holdout=critic_study.HOLDOUT, **changes)


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """Every number of steps with every step size, behind every gate, on the same episodes."""
    cells = list(product(LR, STEPS))
    settings = tuple(AGSetting(n, lr) for lr, n in cells)
    found = []
    for task in tasks:
        for seed in lab.reported:
            policy, critic = lab.training(task, "reinformer", seed), ensemble(lab, task, seed)
            for gate in GATES:
                swept = lab.swept(policy, critic, settings, gate=gate)
                if gate is None:
                    found.append(Goal(task, BASE, seed, swept))
                for place, cell in enumerate(cells, start=1):
                    found.append(Goal(task, method(gate, *cell), seed, swept, row=place))
    return found


def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
    """Gains by step size and n beside each other for the gates, and two claims about the most steps."""
    rows, panels, saved, kept = [], {}, [], []
    for task, lr in product(tasks, LR):
        for n in STEPS:
            cells = [gain_cell(scores, task, BASE, method(gate, lr, n)) for gate in GATES]
            if set(cells) == {NONE}:
                continue
            rows.append([task, f"{lr:g}", str(n), *cells])
            gains = [gains_of(scores, task, BASE, method(gate, lr, n)) for gate in GATES]
            if n == STEPS[-1] and all(gains):
                free, *gated = (fmean(g.values()) for g in gains)
                if free < 0:
                    saved += [gain >= 0 for gain in gated]
                elif free > 0:
                    kept += [gain >= 0.9 * free for gain in gated]
        curves = [_curve(scores, task, gate, lr) for gate in GATES]
        if found := [curve for curve in curves if curve is not None]:
            panels[f"{task}, step size {lr:g}"] = found
    header = ["task", "step size", "n", *(_gate_name(gate) for gate in GATES)]
    figures = {}
    if panels:
        figures["gates"] = learning_curves(panels, score_name="score", x_name=steps_study.X_NAME, log_x=True)
    return Findings(
        tables={"gates": Table(header, rows, text_columns=1, note=NOTE)},
        figures=figures,
        claims=[
            on_most(
                f"where {STEPS[-1]} steps end below the policy alone, with a gate they do not",
                saved,
                " combinations of task, step size and gate",
            ),
            on_most(
                f"where {STEPS[-1]} steps gain, 90 % of it is there with a gate",
                kept,
                " combinations of task, step size and gate",
            ),
        ],
    )


def _gate_name(gate: float | None) -> str:
    return "no gate" if gate is None else f"gate at {gate:g}"


def _curve(scores: Sequence[Score], task: str, gate: float | None, lr: float) -> Curve | None:
    methods = {0: BASE} | {n: method(gate, lr, n) for n in STEPS}
    return over_steps(scores, task, methods, _gate_name(gate))


STUDY = Study(
    title="a gate on the ensemble's disagreement: whether many steps do harm behind it",
    source="an open question of Action Gradient, arXiv 2510.05285",
    tasks=critic_study.TASKS,
    goals=goals,
    report=report,
)
