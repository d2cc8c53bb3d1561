"""Studies on random data of Hopper, with a budget of a few updates and episodes."""

from dataclasses import replace
from pathlib import Path

from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.random_policy import make_random
from dtag_fast.executors.choice import InThisProcess
from dtag_fast.experiments.reproduction.budget import SMALL
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.study import Study
from dtag_fast.experiments.reproduction.study_runs import plan_study, run_study
from dtag_fast.experiments.reproduction.tasks import Source

TINY = replace(
    SMALL,
    updates=dict.fromkeys(SMALL.updates, 20) | {"cql": 2},
    episodes=2,
    tuning_episodes=1,
    maze_steps=1200,
    ag_lr=(0.01, 0.1),
    ag_steps=2,
)


def small_lab(folder: Path, seeds: int = 1, hopper: tuple[str, ...] = ()) -> Lab:
    """A lab whose Minari root is folder/datasets; random data stand for Hopper's of these qualities."""
    with minari_root_at(folder / "datasets"):
        for quality in hopper:
            make_random("Hopper-v5", 1500, 0, f"local/hopper/{quality}-v0", max_episode_steps=30)
        return Lab(TINY, Source.parse("local"), seeds)


def run_small(name: str, study: Study, lab: Lab, folder: Path, tasks: list[str]):
    """Plan and run a study into folder/out; its plan and its report."""
    runs = folder / "runs"
    with minari_root_at(folder / "datasets"), InThisProcess() as crew:
        plan = plan_study(study, lab, runs, tasks=tasks)
        return plan, run_study(name, study, lab, plan, runs=runs, out=folder / "out", crew=crew)
