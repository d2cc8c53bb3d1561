"""Critics of several kinds beside one policy, each with its error on held-out episodes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dtag_fast.experiments.reproduction import own_choice
from dtag_fast.experiments.reproduction.budget import Budget
from dtag_fast.experiments.reproduction.critic_error import CriticError
from dtag_fast.experiments.reproduction.critic_report import BASE, CriticFit, refined_by, report
from dtag_fast.experiments.reproduction.evaluations import read
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.scores import Goal, Score, score_of
from dtag_fast.experiments.reproduction.study import Study
from dtag_fast.experiments.reproduction.work import Shelf

TASKS = ("hopper-medium", "hopper-medium-replay", "halfcheetah-medium-replay", "maze2d-umaze")
HOLDOUT = 0.1  # of the episodes
EXPECTILES = (0.5, 0.7, 0.9, 0.99)
MIDDLE = 0.7  # expectile of the ensembles and of LayerNorm


def critics(budget: Budget) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> algorithm and settings."""
    # Action Gradient climbs Q, which IQL's own policy has no part in.
    iql = {"policy": False, "expectile": MIDDLE}
    found = {f"IQL {tau:g}": ("iql", iql | {"expectile": tau}) for tau in EXPECTILES}
    for members in (4, 10) if budget.name == "full" else (4,):
        found[f"IQL {MIDDLE:g}, {members} members"] = ("iql", iql | {"members": members})
    found[f"IQL {MIDDLE:g}, LayerNorm"] = ("iql", iql | {"layer_norm": True})
    return found | {"TD3+BC": ("td3bc", {}), "AWAC": ("awac", {}), "CQL": ("cql", {})}


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """One policy of each task and seed, all critics beside it."""
    found = []
    for task in tasks:
        for seed in lab.reported:
            policy = lab.training(task, "reinformer", seed)
            found.append(Goal(task, BASE, seed, lab.plain(policy)))
            for name, (algorithm, changes) in critics(lab.budget).items():
                critic = lab.training(task, algorithm, seed, holdout=HOLDOUT, **changes)
                found.append(Goal(task, name, seed, CriticError(critic)))
                refined = lab.refined(policy, critic)
                found.append(Goal(task, refined_by(name), seed, refined, row="refined"))
                own = lab.refined(policy, critic, own=True)
                found.append(Goal(task, own_choice.own(refined_by(name)), seed, own, row="refined"))
    return found


def row_of(goal: Goal, shelf: Shelf) -> CriticFit | Score | None:
    """A critic's fit, or the score of an evaluation; None where it is missing."""
    if not isinstance(goal.work, CriticError):
        return score_of(goal, shelf)
    if not shelf.path(goal.work).is_file():
        return None
    found = read(goal.work, shelf)
    fit = CriticFit(goal.task, goal.method, goal.seed, updates=goal.work.critic.updates)
    if "diverged" in found:
        return replace(fit, diverged=found["diverged"].get("update"))
    names = ("steps", "rank", "rank_other_actions", "explained", "error", "bias")
    return replace(fit, **{name: found[name] for name in names})


STUDY = Study(
    title="critics of several kinds: what Action Gradient gains, against the error on held-out returns",
    source="Action Gradient, arXiv 2510.05285, its open question of the critic's kind and accuracy",
    tasks=TASKS,
    goals=goals,
    report=report,
    read=row_of,
)
