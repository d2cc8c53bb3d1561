"""Whether several starts, drawn from a stochastic policy, do more than as many more steps."""

from collections.abc import Sequence
from statistics import fmean

from dtag_fast.experiments.claims import on_most
from dtag_fast.experiments.reproduction.figures import dots
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.scores import (
    NONE,
    Goal,
    Score,
    gain_table,
    score_table,
    setting_table,
    values_of,
)
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.tables import Table
from dtag_fast.rollout import grid

POLICIES = {"RF": "reinformer", "ODT": "odt"}  # those that actions can be drawn from
SHORT, MORE_STEPS, MORE_STARTS, NO_STEPS = "n=10", "n=40", "4 x n=10", "best of 40"
ARMS = {SHORT: (1, 10), MORE_STEPS: (1, 40), MORE_STARTS: (4, 10), "20 x n=2": (20, 2), NO_STEPS: (40, 0)}
SPREADS = (0.1, 0.3, 1.0)  # of the draws, to choose from
NOTE = (
    "M x n: M starts, the policy's own action and draws from its distribution, and n steps from each. Every "
    "arm but the first takes 40 gradients, or looks at 40 values of Q without climbing. Each with the step "
    "size, and the spread of its draws, that are best for it on the tuning seed. Mean ± standard deviation "
    "over trainings."
)


def method(policy: str, arm: str) -> str:
    """Name of a policy refined in one of the ARMS."""
    return f"{policy}+AG {arm}"


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """Each policy alone and in every arm."""
    found = []
    for task in tasks:
        for seed in lab.reported:
            iql = lab.training(task, "iql", seed)
            for name, algorithm in POLICIES.items():
                policy = lab.training(task, algorithm, seed)
                for arm, (starts, n) in ARMS.items():
                    settings = grid((n,), lab.budget.ag_lr, starts=(starts,), spread=SPREADS)
                    both = lab.refined(policy, iql, tuple(settings))
                    if arm == SHORT:
                        found.append(Goal(task, name, seed, both))
                    found.append(Goal(task, method(name, arm), seed, both, row="refined"))
    return found


def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
    """Scores, gains and gains in Q of every arm, and whether starts are ahead of steps."""
    methods = [m for name in POLICIES for m in (name, *(method(name, arm) for arm in ARMS))]
    pairs = [(name, method(name, arm)) for name in POLICIES for arm in ARMS]
    against = [(method(name, MORE_STEPS), method(name, arm)) for name in POLICIES for arm in ARMS]
    against = [(base, other) for base, other in against if base != other]
    refined = [better for _, better in pairs]
    return Findings(
        tables={
            "scores": score_table(scores, tasks, methods, note=NOTE),
            "gains": gain_table(scores, tasks, pairs),
            "against-steps": gain_table(scores, tasks, against),
            "q-gains": _q_gains(scores, tasks, refined),
            "settings": setting_table(scores, tasks, refined),
        },
        figures={"scores": dots(scores, tasks, methods)},
        claims=[
            on_most(
                "four starts of 10 steps are better than one of 40",
                _ahead(scores, tasks, MORE_STARTS, MORE_STEPS),
                " tasks and policies",
            ),
            on_most(
                "climbing is better than taking the best of as many draws",
                _ahead(scores, tasks, MORE_STEPS, NO_STEPS),
                " tasks and policies",
            ),
        ],
    )


def _ahead(scores: Sequence[Score], tasks: Sequence[str], better: str, base: str) -> list[bool]:
    """Whether the mean of one arm is above another's, for tasks and policies that have both."""
    found = []
    for task in tasks:
        for name in POLICIES:
            values = [values_of(scores, task, method(name, arm)) for arm in (better, base)]
            if all(values):
                found.append(fmean(values[0].values()) > fmean(values[1].values()))
    return found


def _q_gains(scores: Sequence[Score], tasks: Sequence[str], methods: Sequence[str]) -> Table:
    """What the critic thinks of it: mean rise of Q over the policy's own action."""

    def cell(task: str, name: str) -> str:
        found = [s.q_gain for s in scores if (s.task, s.method) == (task, name) and s.q_gain is not None]
        return f"{fmean(found):.3g}" if found else NONE

    note = "Rise of Q over the policy's action, in the units of the critic, means over trainings."
    return Table(["task", *methods], [[t, *(cell(t, m) for m in methods)] for t in tasks], note=note)


STUDY = Study(
    title="starts drawn from a stochastic policy against more steps, at the same number of gradients",
    source="an open question of Action Gradient, arXiv 2510.05285",
    tasks=(
        "hopper-medium",
        "hopper-medium-replay",
        "hopper-medium-expert",
        "halfcheetah-medium-replay",
        "maze2d-umaze",
    ),
    goals=goals,
    report=report,
)
