"""Action Gradient from 1 to 256 action dimensions: what a call costs, what it gains, and Adroit's 28."""

import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.reproduction import high_dim_figures, high_dim_tables
from dtag_fast.experiments.reproduction.benchmark_study import raises
from dtag_fast.experiments.reproduction.dimension_gain import DimensionGain
from dtag_fast.experiments.reproduction.high_dim_tables import Gain, Latency
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.refinement_latency import RefinementLatency
from dtag_fast.experiments.reproduction.scores import Goal, Score, gain_table, score_of, score_table
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.tasks import ADROIT
from dtag_fast.experiments.reproduction.work import Shelf

DIMS = tuple(2**k for k in range(9))  # A = 1, 2, 4, ..., 256
STATE_DIM = 17  # of the critics that are timed at every A
DOOR = (39, 28)  # S and A of Adroit's door
ACTIVATIONS = ("relu", "silu")
MOST_UPDATES = 20_000  # of the regressions: longer budgets are those of bootstrapped critics
SYNTHETIC = "synthetic"
LATENCY = RefinementLatency((*((STATE_DIM, size) for size in DIMS), DOOR))
GAIN = DimensionGain(action_dim=1, activation="relu", seed=1, updates=MOST_UPDATES)


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """Latencies and gains, which need no data, and Reinformer with and without AG on the tasks."""
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    found = [Goal(SYNTHETIC, f"latency on {d}", 0, replace(LATENCY, device=d)) for d in devices]
    updates = min(MOST_UPDATES, lab.budget.updates["iql"] // 10)
    for seed in lab.reported:
        for size in sorted((*DIMS, DOOR[1])):
            for activation in ACTIVATIONS:
                work = replace(GAIN, action_dim=size, activation=activation, seed=seed, updates=updates)
                found.append(Goal(SYNTHETIC, f"gain with {activation}, A = {size}", seed, work))
        for task in tasks:
            both = lab.refined(lab.training(task, "reinformer", seed), lab.training(task, "iql", seed))
            found += [Goal(task, "RF", seed, both), Goal(task, "RF+AG", seed, both, row="refined")]
    return found


def read(goal: Goal, shelf: Shelf) -> Latency | Gain | Score | None:
    """The row of a goal; None where its piece is missing."""
    if goal.task != SYNTHETIC:
        return score_of(goal, shelf)
    file, work = shelf.path(goal.work), goal.work
    if not file.is_file():
        return None
    content = json.loads(file.read_text())
    if isinstance(work, RefinementLatency):
        return Latency(device=work.device, steps=work.steps, **content)
    return Gain(work.action_dim, work.activation, work.seed, **content)


def report(rows: Sequence[Latency | Gain | Score], tasks: Sequence[str]) -> Findings:
    """Tables, figures and claims of all three parts, of those that there are rows of."""
    latencies = [row for row in rows if isinstance(row, Latency)]
    gains = [row for row in rows if isinstance(row, Gain)]
    scores = [row for row in rows if isinstance(row, Score)]
    tables, figures = {}, {}
    claims: list[Claim] = []
    if latencies:
        tables["latency"] = high_dim_tables.latency(latencies)
        figures["latency"] = high_dim_figures.latency(latencies)
        claims += high_dim_tables.latency_claims(latencies, STATE_DIM)
    if gains:
        tables["gain"] = high_dim_tables.gain(gains)
        tables["gain-settings"] = high_dim_tables.gain_settings(gains)
        figures["gain"] = high_dim_figures.gain(gains)
        claims += high_dim_tables.gain_claims(gains)
    if scores:
        tables["adroit"] = score_table(scores, tasks, ("RF", "RF+AG"), note="RF: Reinformer. Normalised.")
        tables["adroit-gain"] = gain_table(scores, tasks, (("RF", "RF+AG"),))
        claims.append(raises(scores, tasks, "RF", "RF+AG"))
    return Findings(tables, figures, claims)


STUDY = Study(
    title="1 to 256 action dimensions: latency, gain on a known optimum, Adroit's door",
    source="Adroit of D4RL, arXiv 2004.07219, for the tasks; the other parts are this project's own",
    tasks=ADROIT,
    goals=goals,
    report=report,
    read=read,
)
