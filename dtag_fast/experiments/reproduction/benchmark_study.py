"""The tables of Gym and Maze2D: imitators, token prediction, policy gradients and Action Gradient."""

from collections.abc import Callable, Sequence
from statistics import fmean

from dtag_fast.experiments.claims import Claim, on_most
from dtag_fast.experiments.reproduction import own_choice, quoted
from dtag_fast.experiments.reproduction.figures import dots
from dtag_fast.experiments.reproduction.lab import POLICIES, Lab
from dtag_fast.experiments.reproduction.scores import (
    Goal,
    Score,
    gain_table,
    gains_of,
    score_table,
    setting_table,
)
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.tasks import GYM, MAZE2D

Q_WEIGHT = 1.0  # of the policy-gradient term beside a squared error per action dimension
METHODS = ("BC", "DT", "RF", "DT+PG", "RF+PG", "AWAC", "IQL", "DT+AG", "RF+AG")
METHODS += tuple(map(own_choice.refined, POLICIES))
PAIRS = (("DT", "DT+AG"), ("RF", "RF+AG"), ("DT", "DT+PG"), ("RF", "RF+PG"))
QUOTED = ("BC", "DT", "AWAC", "IQL")

NOTE = (
    "Normalised scores of the last checkpoint, mean ± standard deviation over trainings. RF: Reinformer; "
    "PG: a term of Q in the training loss; AG: Action Gradient, own: its setting chosen on the checkpoint "
    "itself, not on the tuning seed. Columns that name a source are quoted: their "
    "data, sizes and simulators are others, so they enter no comparison."
)
GAIN_NOTE = "Normalised scores: mean and 95 % interval by Student's t over training seeds, seed by seed."


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """All methods on all tasks; IQL's critic is the one of every method that takes one."""
    found = []
    for task in tasks:
        for seed in lab.reported:
            iql = lab.training(task, "iql", seed)
            gradient = {"critic": iql, "q_weight": Q_WEIGHT}
            for name, algorithm in POLICIES.items():
                imitator = lab.training(task, algorithm, seed)
                both = lab.refined(imitator, iql)
                found.append(Goal(task, name, seed, both))
                found.append(Goal(task, f"{name}+AG", seed, both, row="refined"))
                found += own_choice.goals(lab, task, name, imitator, iql)
                policy = lab.training(task, algorithm, seed, **gradient)
                found.append(Goal(task, f"{name}+PG", seed, lab.plain(policy)))
            for name, policy in (
                ("BC", lab.training(task, "bc", seed)),
                ("AWAC", lab.training(task, "awac", seed)),
                ("IQL", iql),
            ):
                found.append(Goal(task, name, seed, lab.plain(policy)))
    return found


def report_with(
    all_tasks: tuple[str, ...], published_total: float
) -> Callable[[Sequence[Score], Sequence[str]], Findings]:
    """The report of a study.

    Args:
        all_tasks: of the published table. published_total: of Reinformer with Action Gradient over them.
    """
    others = quoted.corl(QUOTED, all_tasks)
    others["RF+AG, Action Gradient's paper"] = {"total": published_total}

    def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
        return Findings(
            tables={
                "scores": score_table(scores, tasks, METHODS, others, all_tasks, note=NOTE),
                "gains": gain_table(scores, tasks, PAIRS, note=GAIN_NOTE),
                "settings": setting_table(scores, tasks, ("DT", "RF", "DT+AG", "RF+AG")),
                **own_choice.tables(scores, tasks, tuple(POLICIES)),
            },
            figures={"scores": dots(scores, tasks, METHODS)},
            claims=[
                *(raises(scores, tasks, name, f"{name}+AG") for name in POLICIES),
                own_choice.claim(scores, tasks, tuple(POLICIES)),
            ],
        )

    return report


def raises(scores: Sequence[Score], tasks: Sequence[str], base: str, better: str) -> Claim:
    """Whether the mean gain over seeds is positive on most tasks."""
    gains = [gains_of(scores, task, base, better) for task in tasks]
    risen = [fmean(found.values()) > 0 for found in gains if found]
    return on_most(f"Action Gradient raises the mean score of {base} on most tasks", risen)


GYM_STUDY = Study(
    title="nine locomotion tasks: BC, DT, Reinformer, policy gradients, AWAC, IQL and Action Gradient",
    source="Action Gradient, arXiv 2510.05285, its table of Gym tasks",
    tasks=GYM,
    goals=goals,
    report=report_with(GYM, quoted.AG_TOTAL_GYM),
)
MAZE2D_STUDY = Study(
    title="three mazes: BC, DT, Reinformer, policy gradients, AWAC, IQL and Action Gradient",
    source="Action Gradient, arXiv 2510.05285, its table of Maze2D tasks",
    tasks=MAZE2D,
    goals=goals,
    report=report_with(MAZE2D, quoted.AG_TOTAL_MAZE2D),
)
