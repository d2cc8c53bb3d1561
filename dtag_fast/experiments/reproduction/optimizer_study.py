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


def own_method(policy: str, optimizer: str) -> str:
    """The same with the step size of the checkpoint itself."""
    return own_choice.own(method(policy, optimizer))


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
                    found.append(Goal(task, own_method(name, label), seed, own, row="refined"))
    return found


def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
    """Scores and gains of each optimizer with either step size, and which is best how often."""
    methods = [m for name in POLICIES for m in (name, *(method(name, label) for label in OPTIMIZERS))]
    owns = list(map(own_choice.own, methods))
    return Findings(
        tables={
            "scores": score_table(scores, tasks, methods, note=NOTE),
            **_comparisons(scores, tasks, list(POLICIES), method),
            "settings": setting_table(scores, tasks, [m for m in methods if m not in POLICIES]),
            "own-scores": score_table(scores, tasks, owns, note=OWN_NOTE),
            **_comparisons(scores, tasks, list(map(own_choice.own, POLICIES)), own_method, "own-"),
            "own-settings": setting_table(
                scores, tasks, [own_method(*pair) for pair in _pairs()], own_choice.SETTING_NOTE
            ),
        },
        figures={"scores": dots(scores, tasks, methods), "own-scores": dots(scores, tasks, owns)},
        claims=[
            _plain_is_best(scores, tasks, method, "the tuning seed"),
            _plain_is_best(scores, tasks, own_method, "the checkpoint itself"),
        ],
    )


def _pairs() -> list[tuple[str, str]]:
    return [(name, label) for name in POLICIES for label in OPTIMIZERS]


def _comparisons(
    scores: Sequence[Score],
    tasks: Sequence[str],
    bases: Sequence[str],
    named: Callable[[str, str], str],
    prefix: str = "",
) -> dict[str, Table]:
    """What each optimizer gains over the policy alone, and over SGD.

    Args:
        bases: the policies alone. named: name of a policy with an optimizer. prefix: of the tables' names.
    """
    gains = [
        (base, named(name, label)) for base, name in zip(bases, POLICIES, strict=True) for label in OPTIMIZERS
    ]
    against = [(named(name, "SGD"), named(name, label)) for name, label in _pairs() if label != "SGD"]
    return {
        f"{prefix}gains": gain_table(scores, tasks, gains),
        f"{prefix}against-sgd": gain_table(scores, tasks, against),
    }


def _plain_is_best(
    scores: Sequence[Score], tasks: Sequence[str], named: Callable[[str, str], str], chosen_on: str
) -> Claim:
    """Whether the highest mean is SGD's, with or without momentum, in most cases that have all four."""
    best = []  # of each case: those with the highest mean, more than one where they tie
    for task in tasks:
        for name in POLICIES:
            found = {label: values_of(scores, task, named(name, label)) for label in OPTIMIZERS}
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
