"""The optimizer on the action: SGD, momentum, Adam, RMSprop, each with its best step size."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from dtag_fast import SGD, Adam, RMSprop
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.reproduction import critic_study, own_choice
from dtag_fast.experiments.reproduction.figures import dots
from dtag_fast.experiments.reproduction.lab import POLICIES, Lab
from dtag_fast.experiments.reproduction.scores import (
    SETTING_NOTE,
    Goal,
    Score,
    gain_table,
    score_table,
    setting_table,
    values_of,
)
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.tasks import GYM, MAZE2D
from dtag_fast.experiments.tables import Table

OPTIMIZERS = {"SGD": "sgd", "momentum": SGD(momentum=0.9), "Adam": Adam(), "RMSprop": RMSprop()}
PLAIN = {"SGD", "momentum"}
TIE = 1e-6  # points: sums of the same returns in another order differ by less
NOTE = "Each optimizer with its own best step size of the tuning seed. Mean ± standard deviation over seeds."
OWN_NOTE = (
    "Each optimizer with the step size, and where one is asked for the return, that is best for the "
    "checkpoint itself, by episodes that are not reported. Mean ± standard deviation over seeds."
)


def method(policy: str, optimizer: str) -> str:
    """Name of a policy refined with one of the OPTIMIZERS."""
    return f"{policy}+AG {optimizer}"


METHODS = [m for name in POLICIES for m in (name, *(method(name, label) for label in OPTIMIZERS))]


def goals(lab: Lab, tasks: Sequence[str], critic: str, holdout: float | None = None) -> list[Goal]:
    """Each optimizer with the step size that is best for it, on the tuning seed and on the checkpoint.

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
                    own = lab.refined(policy, judge, settings, own=True)
                    if label == "SGD":
                        found.append(Goal(task, name, seed, both))
                        found.append(Goal(task, own_choice.own(name), seed, own))
                    found.append(Goal(task, method(name, label), seed, both, row="refined"))
                    found.append(Goal(task, own_choice.own(method(name, label)), seed, own, row="refined"))
    return found


def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
    """Scores and gains of each optimizer with either step size, and which is best how often."""
    tables = _tables(scores, tasks, str, NOTE, SETTING_NOTE)
    own = _tables(scores, tasks, own_choice.own, OWN_NOTE, own_choice.SETTING_NOTE)
    return Findings(
        tables=tables | {f"own-{name}": table for name, table in own.items()},
        figures={
            "scores": dots(scores, tasks, METHODS),
            "own-scores": dots(scores, tasks, list(map(own_choice.own, METHODS))),
        },
        claims=[
            _plain_is_best(scores, tasks, str, "the tuning seed"),
            _plain_is_best(scores, tasks, own_choice.own, "the checkpoint itself"),
        ],
    )


def _tables(
    scores: Sequence[Score],
    tasks: Sequence[str],
    named: Callable[[str], str],
    note: str,
    setting_note: str,
) -> dict[str, Table]:
    """Of step sizes chosen one way. named: METHODS as they are called with it."""
    refined = [named(method(name, label)) for name in POLICIES for label in OPTIMIZERS]
    gains = [(named(name), named(method(name, label))) for name in POLICIES for label in OPTIMIZERS]
    against = [
        (named(method(name, "SGD")), named(method(name, label)))
        for name in POLICIES
        for label in OPTIMIZERS
        if label != "SGD"
    ]
    return {
        "scores": score_table(scores, tasks, list(map(named, METHODS)), note=note),
        "gains": gain_table(scores, tasks, gains),
        "against-sgd": gain_table(scores, tasks, against),
        "settings": setting_table(scores, tasks, refined, setting_note),
    }


def _plain_is_best(
    scores: Sequence[Score], tasks: Sequence[str], named: Callable[[str], str], chosen_on: str
) -> Claim:
    """Whether the highest mean is SGD's, with or without momentum, in most cases that have all four."""
    best = []  # of each case: those with the highest mean, more than one where they tie
    for task in tasks:
        for name in POLICIES:
            found = {label: values_of(scores, task, named(method(name, label))) for label in OPTIMIZERS}
            if all(found.values()):
                means = {label: fmean(values.values()) for label, values in found.items()}
                highest = max(means.values()) - TIE
                best.append({label for label, mean in means.items() if mean >= highest})
    counts = ", ".join(f"{label} {sum(label in labels for labels in best)}" for label in OPTIMIZERS)
    ties = sum(len(labels) > 1 for labels in best)
    tied = f", {ties} of them shared" if ties else ""
    return Claim(
        "SGD, with or without momentum, is the best optimizer on most tasks and policies, with step sizes "
        f"chosen on {chosen_on}",
        sum(bool(labels & PLAIN) for labels in best) > len(best) / 2,
        f"{counts} of {len(best)}{tied}; half by chance",
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
