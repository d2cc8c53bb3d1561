"""Token prediction and Action Gradient: each alone, both, neither."""

from collections.abc import Sequence
from statistics import fmean

from dtag_fast.experiments.claims import Claim, on_most
from dtag_fast.experiments.reproduction import own_choice
from dtag_fast.experiments.reproduction.figures import dots
from dtag_fast.experiments.reproduction.lab import Lab
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

BASELINE = "DT"
PREDICTORS = ("RF", "ADT", "EDT")  # Reinformer, Autotuned and Elastic Decision Transformer
METHODS = tuple(
    method for name in (BASELINE, *PREDICTORS) for method in (name, f"{name}+AG", own_choice.refined(name))
)
NOTE = (
    "Normalised scores of the last checkpoint, mean ± standard deviation over trainings. DT is the baseline "
    "without token prediction; RF, ADT and EDT predict the token that DT is told. Own: with the setting that "
    "is best for the checkpoint itself, by episodes that are not reported; otherwise for the tuning seed."
)


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """Four policies, each alone and with Action Gradient on the critic of IQL."""
    found = []
    for task in tasks:
        for seed in lab.reported:
            iql = lab.training(task, "iql", seed)
            elastic = {"history_lengths": elastic_lengths(lab)}
            for name, policy, options in (
                ("DT", lab.training(task, "dt", seed), {}),
                ("RF", lab.training(task, "reinformer", seed), {}),
                ("ADT", lab.training(task, "adt", seed, critic=iql), {}),
                ("EDT", lab.training(task, "edt", seed), elastic),
            ):
                both = lab.refined(policy, iql, **options)
                found.append(Goal(task, name, seed, both))
                found.append(Goal(task, f"{name}+AG", seed, both, row="refined"))
                found += own_choice.goals(lab, task, name, policy, iql, **options)
    return found


def elastic_lengths(lab: Lab) -> tuple[int, ...]:
    """Histories that EDT chooses from: every second length up to what it was trained on."""
    longest = lab.budget.changes.get("edt", {}).get("context_len", 20)
    return tuple(range(longest, 0, -2))[::-1]


def report(scores: Sequence[Score], tasks: Sequence[str]) -> Findings:
    """Tables, and whether each of the two, and both together, gain over the baseline."""
    pairs = [(BASELINE, f"{BASELINE}+AG"), *((BASELINE, name) for name in PREDICTORS)]
    both = [(BASELINE, f"{name}+AG") for name in PREDICTORS]
    added = [(name, f"{name}+AG") for name in PREDICTORS]
    return Findings(
        tables={
            "scores": score_table(scores, tasks, METHODS, note=NOTE),
            "gains": gain_table(scores, tasks, pairs + both),
            "gains-of-ag": gain_table(scores, tasks, added),
            "settings": setting_table(scores, tasks, [m for m in METHODS if m.endswith("AG")]),
            **own_choice.tables(scores, tasks, (BASELINE, *PREDICTORS)),
        },
        figures={"scores": dots(scores, tasks, METHODS)},
        claims=[
            *(_both_are_best(scores, tasks, name) for name in PREDICTORS),
            own_choice.claim(scores, tasks, (BASELINE, *PREDICTORS)),
        ],
    )


def _both_are_best(scores: Sequence[Score], tasks: Sequence[str], predictor: str) -> Claim:
    """Whether predictor + AG has a higher mean than the baseline, and than either alone."""
    names = (BASELINE, predictor, f"{BASELINE}+AG", f"{predictor}+AG")
    best = []
    for task in tasks:
        found = [values_of(scores, task, name) for name in names]
        if all(found):
            means = [fmean(values.values()) for values in found]
            best.append(means[-1] == max(means))
    text = f"{predictor} with Action Gradient is better than either alone and than neither on most tasks"
    return on_most(text, best)


STUDY = Study(
    title="token prediction (Reinformer, ADT, EDT) and Action Gradient: neither, either, both",
    source="Action Gradient, arXiv 2510.05285, its ablation of TP and AG (section 4.4)",
    tasks=GYM + MAZE2D,
    goals=goals,
    report=report,
)
