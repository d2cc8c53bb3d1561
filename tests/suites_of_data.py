"""A budget and data as small as can be, for suites that train on datasets."""

import dataclasses
from pathlib import Path

from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.random_policy import make_random
from dtag_fast.executors.choice import InThisProcess
from dtag_fast.experiments.reproduction.budget import SMALL
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.study import Study
from dtag_fast.experiments.reproduction.study_runs import plan_study, run_study
from dtag_fast.experiments.reproduction.tasks import Source

DATASET = "local/hopper/medium-v0"
_ONLINE_SIZES = {
    "context_len": 3,
    "eval_context_len": 2,
    "d_model": 8,
    "n_layer": 1,
    "n_head": 2,
    "batch_size": 4,
}
TINY = dataclasses.replace(
    SMALL,
    updates=dict.fromkeys(SMALL.updates, 2),
    changes=SMALL.changes | {"odt": _ONLINE_SIZES, "td3-odt": _ONLINE_SIZES | {"critic_hidden": (8,)}},
    episodes=2,
    tuning_episodes=2,
    maze_steps=900,
    env_steps=100,
    online={"episodes_per_iteration": 1, "steps_per_iteration": 20, "updates_per_iteration": 2},
    eval_every=2,
    ag_steps=2,
    ag_lr=(0.01, 0.1),
)


def make_data(root: Path, dataset_id: str = DATASET) -> Path:
    """A Minari root that holds one dataset, random episodes of a hopper under the name of a D4RL task."""
    with minari_root_at(root):
        make_random("Hopper-v5", 300, 0, dataset_id)
    return root


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
