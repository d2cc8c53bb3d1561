"""The optimizer on the action: SGD, momentum, Adam, RMSprop, each with its best step size."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean

from dtag_fast import SGD, Adam, RMSprop
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.reproduction import critic_study
from dtag_fast.experiments.reproduction.figures import dots
from dtag_fast.experiments.reproduction.lab import POLICIES, Lab
from dtag_fast.experiments.reproduction.scores import (
    Goal,
    Score,
    gain_table,
    score_table,
    setting_table,
    values_of,
)
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.tasks import GYM, MAZE2D

OPTIMIZERS = {"SGD": "sgd", "momentum": SGD(momentum=0.9), "Adam": Adam(), "RMSprop": RMSprop()}


def goals(lab: Lab, tasks: Sequence[str], critic: str, holdout: float | None = None) -> list[Goal]:
    """Each optimizer with the step size that is best for it on the tuning seed.

    Args:
        critic: algorithm that trains it. holdout: of its training.
    """
    found = []
    for task in tasks:
        for seed in lab.reported:
            judge = lab.training(task, critic, seed, holdout=holdout)
            for name, algorithm in POLICIES.items():
                policy = lab.training(task, algorithm, seed)
                for label, optimizer in OPTIMIZERS.items():
                    settings = lab.step_sizes(optimizer=(optimizer,))
                    both = lab.refined(policy, judge, settings)
                    if label == "SGD":
                        found.append(Goal(task, name, seed, both))
                    found.append(Goal(task, f"{name}+AG {label}", seed, both, row="refined"))
    return found


def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
    """Scores and gains of each optimizer, and which is best how often."""
    methods = [m for name in POLICIES for m in (name, *(f"{name}+AG {label}" for label in OPTIMIZERS))]
    pairs = [(name, f"{name}+AG {label}") for name in POLICIES for label in OPTIMIZERS]
    against = [
        (f"{name}+AG SGD", f"{name}+AG {label}") for name in POLICIES for label in list(OPTIMIZERS)[1:]
    ]
    counts = {label: 0 for label in OPTIMIZERS}
    compared = 0
    for task in tasks:
        for name in POLICIES:
            means = {
                label: fmean(found.values())
                for label in OPTIMIZERS
                if (found := values_of(scores, task, f"{name}+AG {label}"))
            }
            if len(means) == len(OPTIMIZERS):
                compared += 1
                counts[max(means, key=means.get)] += 1
    plain = counts["SGD"] + counts["momentum"]
    note = (
        "Each optimizer with its own best step size of the tuning seed. Mean ± standard deviation over seeds."
    )
    return Findings(
        tables={
            "scores": score_table(scores, tasks, methods, note=note),
            "gains": gain_table(scores, tasks, pairs),
            "against-sgd": gain_table(scores, tasks, against),
            "settings": setting_table(scores, tasks, [better for _, better in pairs]),
        },
        figures={"scores": dots(scores, tasks, methods)},
        claims=[
            Claim(
                "SGD, with or without momentum, is the best optimizer on most tasks and policies",
                compared > 0 and plain > compared / 2,
                ", ".join(f"{label} {count}" for label, count in counts.items())
                + f" of {compared}; half by chance",
            )
        ],
    )


STUDY = Study(
    title="the optimizer on the action: SGD, momentum, Adam, RMSprop, each with its best step size",
    source="Action Gradient, arXiv 2510.05285, its comparison of optimizers",
    tasks=GYM + MAZE2D,
    goals=partial(goals, critic="iql"),
    report=report,
)
CONSERVATIVE_STUDY = Study(
    title="whether an adaptive optimizer helps with a conservative critic: the same with CQL's",
    source="an open question of Action Gradient, arXiv 2510.05285",
    tasks=critic_study.TASKS,
    goals=partial(goals, critic="cql", holdout=critic_study.HOLDOUT),  # the critics of that suite
    report=report,
)
