"""Action Gradient against policy gradients in training and AWAC, with and without token prediction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dtag_fast.experiments.claims import Claim, on_most
from dtag_fast.experiments.reproduction.figures import dots
from dtag_fast.experiments.reproduction.lab import POLICIES, Lab
from dtag_fast.experiments.reproduction.scores import (
    NONE,
    Goal,
    Score,
    gain_table,
    lost_of,
    score_of,
    score_table,
    values_of,
)
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.tasks import GYM, MAZE2D
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.experiments.tables import Table
from dtag_fast.rollout import Candidates
from dtag_fast.training.files import read_json_lines

Q_WEIGHTS = (0.3, 1.0, 3.0)  # of the term of Q beside the imitation loss
GRADIENTS = tuple(f"{name}+PG {weight:g}" for name in POLICIES for weight in Q_WEIGHTS)
METHODS = ("DT", "RF", "AWAC", "QT", "QT, 50 actions", *GRADIENTS, "DT+AG", "RF+AG")
NOTE = (
    "Normalised scores of the last checkpoint, mean ± standard deviation over trainings. PG w: a term of Q "
    "of weight w in the training loss; AG: Action Gradient; QT, 50 actions: one of 50 candidates, drawn by "
    "the Q of its own critic."
)
SIGNS = ("q", "action_distance", "at_bounds")  # that a training logs of its term of Q


@dataclass(frozen=True)
class Trained:
    """A score, and what the training logged last of its term of Q (see algorithms/q_term.py); None without.

    Attributes:
        q: mean of the policy's actions, in the critic's units. action_distance: mean |a - a_data| over an
            action's dimensions. at_bounds: share of the dimensions at their bounds.
    """

    score: Score
    q: float | None
    action_distance: float | None
    at_bounds: float | None


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """Policies alone, with a term of Q of several weights, with Action Gradient; AWAC; QT, whose critic is
    trained along, with one action a step and as it is published, with one of 50 that its critic chooses."""
    found = []
    for task in tasks:
        for seed in lab.reported:
            iql = lab.training(task, "iql", seed)
            for name, algorithm in POLICIES.items():
                both = lab.refined(lab.training(task, algorithm, seed), iql)
                found.append(Goal(task, name, seed, both))
                found.append(Goal(task, f"{name}+AG", seed, both, row="refined"))
                for weight in Q_WEIGHTS:
                    policy = lab.training(task, algorithm, seed, critic=iql, q_weight=weight)
                    found.append(Goal(task, f"{name}+PG {weight:g}", seed, lab.plain(policy)))
            found.append(Goal(task, "AWAC", seed, lab.plain(lab.training(task, "awac", seed))))
            qt = lab.training(task, "qt", seed)
            found.append(Goal(task, "QT", seed, lab.plain(qt)))
            chosen = lab.plain(qt, candidates=Candidates())
            found.append(Goal(task, f"QT, {chosen.candidates.count} actions", seed, chosen))
    return found


def read(goal: Goal, shelf: Shelf) -> Trained | None:
    """The score with the last record of the training."""
    score = score_of(goal, shelf)
    if score is None:
        return None
    signs = dict.fromkeys(SIGNS)
    if goal.method in GRADIENTS and score.diverged is None:
        for record in read_json_lines(shelf.path(goal.work.policy) / "metrics.jsonl"):
            signs |= {name: record[f"train/{name}"] for name in SIGNS if f"train/{name}" in record}
    return Trained(score, **signs)


def report(rows: Sequence[Trained], tasks: Sequence[str]) -> Findings:
    """Scores, gains, and the signs of divergence of the terms of Q."""
    scores = [row.score for row in rows]
    pairs = [(name, better) for name in POLICIES for better in METHODS if better.startswith(f"{name}+")]
    return Findings(
        tables={
            "scores": score_table(scores, tasks, METHODS, note=NOTE),
            "gains": gain_table(scores, tasks, pairs),
            "divergence": _signs(rows, tasks),
        },
        figures={"scores": dots(scores, tasks, METHODS)},
        claims=[_unstable(scores, tasks), _better_than_gradients(scores, tasks)],
    )


def _signs(rows: Sequence[Trained], tasks: Sequence[str]) -> Table:
    """What the trainings with a term of Q logged at their end."""
    cells = []
    for task in tasks:
        for method in GRADIENTS:
            mine = [r for r in rows if (r.score.task, r.score.method) == (task, method)]
            kept = [[getattr(r, name) for r in mine if getattr(r, name) is not None] for name in SIGNS]
            lost = sum(r.score.diverged is not None for r in mine)
            numbers = [f"{fmean(values):.3g}" if values else NONE for values in kept]
            cells.append([task, method, *numbers, f"{lost} of {len(mine)}"])
    header = ["task", "method", "Q of its actions", "|a - a_data|", "share at bounds", "diverged"]
    return Table(header, cells, text_columns=2, note="At the end of training, means over training seeds.")


def _unstable(scores: Sequence[Score], tasks: Sequence[str]) -> Claim:
    """Whether more trainings of RF+PG diverge than of RF+AG or, where as many do, the standard deviation over
    the seeds that both have is larger."""
    gradient, refined = f"RF+PG {Q_WEIGHTS[1]:g}", "RF+AG"
    wider = []
    for task in tasks:
        lost = [lost_of(scores, task, method) for method in (gradient, refined)]
        found = [values_of(scores, task, method) for method in (gradient, refined)]
        both = sorted(found[0].keys() & found[1].keys())
        if lost[0] != lost[1]:
            wider.append(lost[0] > lost[1])
        elif len(both) > 1:
            spreads = [stdev(values[seed] for seed in both) for values in found]
            wider.append(spreads[0] > spreads[1])
    text = "token prediction with a policy gradient varies more over training seeds than with Action Gradient"
    return on_most(text, wider, f" tasks, at weight {Q_WEIGHTS[1]:g}; half by chance")


def _better_than_gradients(scores: Sequence[Score], tasks: Sequence[str]) -> Claim:
    """Whether RF+AG has a higher mean than RF+PG of every weight; where all seeds of one diverged, it has."""
    better = []
    for task in tasks:
        refined = values_of(scores, task, "RF+AG")
        methods = [f"RF+PG {weight:g}" for weight in Q_WEIGHTS]
        gradients = [values_of(scores, task, method) for method in methods]
        known = [found or lost_of(scores, task, m) for m, found in zip(methods, gradients, strict=True)]
        if refined and all(known):
            best = max((fmean(found.values()) for found in gradients if found), default=-math.inf)
            better.append(fmean(refined.values()) > best)
    text = "Reinformer with Action Gradient is better than with a policy gradient of any of the weights"
    return on_most(text, better, " tasks")


STUDY = Study(
    title="Action Gradient, policy gradients in training, AWAC and QT, with and without token prediction",
    source="Action Gradient, arXiv 2510.05285, its comparison with policy gradients and AWAC",
    tasks=GYM + MAZE2D,
    goals=goals,
    report=report,
    read=read,
)
