"""The demonstration: from no data at all to scores with and without Action Gradient.

1. Toy (toy.py): reward 1 - a^2, data only where |a| > 0.5.
2. PointMaze-UMaze under D4RL's maze2d protocol: a waypoint controller collects data, then a Decision
   Transformer, a Reinformer and an IQL critic are trained side by side, and both policies are evaluated with
   and without Action Gradient.

n and the step size of the reported table are fixed in the config, not chosen by result; the sweep over n runs
on other episodes. Finished pieces of an earlier run with the same configuration and code are used again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from dtag_fast.data import load_dataset
from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.pointmaze import env_spec, make_pointmaze, maze_of
from dtag_fast.experiments.comparison import compare_policies
from dtag_fast.experiments.demo_config import CRITIC, POLICIES, SIZE, DemoConfig, training_settings
from dtag_fast.experiments.demo_figures import draw_figures
from dtag_fast.experiments.reuse import Found, Pieces, code_fingerprint, write_json
from dtag_fast.experiments.threads import one_thread
from dtag_fast.experiments.toy import run_toy
from dtag_fast.experiments.workers import TrainJob, train_all

DATASET_ID = f"pointmaze/{SIZE}-v0"


class Reporter(Protocol):
    """Where the demonstration tells how far it is."""

    def stage(self, title: str) -> None:
        """A new part begins."""

    def say(self, text: str) -> None:
        """One sentence about what was decided or found."""

    def progress(self, task: str, done: int, total: int) -> None:
        """`task` of the present stage has done `done` of `total`."""


def run_demo(config: DemoConfig, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Run everything, or what is missing, and write it under `out`.

    Writes results.json, plots/*.png and *.svg, the dataset (datasets/, a Minari root), the runs (dt/,
    reinformer/, iql/) and the recipes by which they are reused.

    Returns:
        What results.json holds: config, toy, dataset, table (rows policy x {without, with AG}), sweep, plots,
        and the seconds each stage took in this call.

    Raises:
        ValueError: something that is not the demonstration's own stands in `out`.
    """
    return _Demo(config, out, reporter).run()


class _Demo:
    """One call of run_demo. Every stage is a method that makes its piece or finds it made."""

    def __init__(self, config: DemoConfig, out: Path, reporter: Reporter):
        self.config, self.out, self.reporter = config, out, reporter
        self.pieces = Pieces(out)
        self.seconds: dict[str, float] = {}
        self.versions = {"torch": torch.__version__}

    def run(self) -> dict[str, Any]:
        with self._timed("toy"):
            toy = self.toy()
        with self._timed("collect"):
            dataset, dataset_recipe = self.dataset()
        with self._timed("train"):
            recipes = self.train(dataset, dataset_recipe)
        with self._timed("evaluate"):
            evaluation = self.evaluate(recipes)
        with self._timed("sweep"):
            sweep = self.sweep(recipes)
        self.reporter.stage("Figures")
        with self._timed("figures"):
            plots = draw_figures(self.out / "plots", toy, evaluation, sweep)
        store = load_dataset(str(dataset), cache_dir=self.out / "cache")
        results = {
            "config": asdict(self.config),
            "machine": {"cpus": os.cpu_count(), **self.versions},
            "toy": [
                {key: run[key] for key in ("seed", "imitator_distance", "refined_distance")} for run in toy
            ],
            "dataset": {
                "id": DATASET_ID,
                "steps": store.num_steps,
                "episodes": store.num_episodes,
                "mean_return": float(store.episode_returns.mean()),
                "best_return": float(store.episode_returns.max()),
            },
            "references": {key: store.metadata[key] for key in ("ref_min_score", "ref_max_score")},
            "table": evaluation,
            "sweep": sweep,
            "plots": [file.relative_to(self.out).as_posix() for file in plots],
            "seconds": {stage: round(value, 1) for stage, value in self.seconds.items()},
        }
        write_json(self.out / "results.json", results)
        return results

    # Stages

    def toy(self) -> list[dict]:
        """One dict of a ToyResult and its distances per seed."""
        config = self.config
        self.reporter.stage("Toy: reward 1 - a^2, data only where |a| > 0.5")
        recipe = {
            "config": asdict(config.toy),
            "seeds": config.toy_seeds,
            "code": code_fingerprint("experiments", "models", "data", "ops"),
            **self.versions,
        }

        def make() -> list[dict]:
            results = []
            for seed in range(config.toy_seeds):
                with one_thread():
                    result = run_toy(seed, config.toy)
                distances = {
                    "imitator_distance": result.imitator_distance,
                    "refined_distance": result.refined_distance,
                }
                results.append(asdict(result) | distances)
                self.reporter.progress("seeds", seed + 1, config.toy_seeds)
            return results

        return self._json_piece("toy.json", recipe, make)

    def dataset(self) -> tuple[Path, dict]:
        """The folder of the Minari dataset, and its recipe."""
        steps, seed = self.config.collect_steps, self.config.seed
        self.reporter.stage(
            f"Data: a waypoint controller walks {steps:,} steps through {maze_of(SIZE).env_id}"
        )
        recipe = {"size": SIZE, "steps": steps, "seed": seed, "code": code_fingerprint("data/pointmaze")}
        if not self._reusable("datasets", recipe):
            root = self.pieces.begin("datasets", recipe)
            with minari_root_at(root):
                make_pointmaze(
                    SIZE,
                    steps,
                    seed,
                    DATASET_ID,
                    progress=lambda done, total: self.reporter.progress("steps", done, total),
                )
            self.pieces.finish("datasets", recipe)
        return self.pieces.path("datasets") / DATASET_ID, recipe

    def train(self, dataset: Path, dataset_recipe: dict) -> dict[str, dict]:
        """Train what is not trained yet; returns the recipe of each run."""
        self.reporter.stage("Training: two policies and a critic side by side, one thread each")
        # Read here once, so that the workers find the converted dataset and do not all convert it.
        store = load_dataset(str(dataset), cache_dir=self.out / "cache")
        code = code_fingerprint("algorithms", "data", "models", "training")
        recipes, jobs = {}, []
        for name, (algorithm_config, updates) in training_settings(self.config, store.metadata).items():
            recipe = recipes[name] = {
                "algorithm": name,
                "config": asdict(algorithm_config),
                "updates": updates,
                "seed": self.config.seed,
                "dataset": dataset_recipe,
                "code": code,
                **self.versions,
            }
            found = self._look(name, recipe)
            if found is Found.FINISHED:
                continue
            resume = found is Found.BEGUN
            run = self.pieces.begin(name, recipe, keep=resume)
            jobs.append(
                TrainJob(
                    name=name,
                    algorithm=name,
                    dataset=str(dataset),
                    cache_dir=self.out / "cache",
                    out=run,
                    config=algorithm_config,
                    updates=updates,
                    seed=self.config.seed,
                    resume=resume,
                )
            )
        train_all(jobs, self.reporter.progress)
        for job in jobs:
            self.pieces.finish(job.name, recipes[job.name])
        return recipes

    def evaluate(self, recipes: dict[str, dict]) -> list[dict]:
        """Rows of the reported table: each policy without and with Action Gradient, on the same episodes."""
        c = self.config
        self.reporter.stage(f"Evaluation: {c.episodes} episodes, without and with Action Gradient")
        return self._compare("evaluation.json", recipes, (0, c.ag_steps), c.episodes, c.evaluation_seed)

    def sweep(self, recipes: dict[str, dict]) -> list[dict]:
        """The same over n, on other episodes."""
        c = self.config
        self.reporter.stage(f"Sweep over n: {c.sweep_episodes} other episodes per policy and n")
        return self._compare("sweep.json", recipes, c.sweep_steps, c.sweep_episodes, c.sweep_seed)

    # What the stages share

    def _compare(
        self, name: str, recipes: dict, steps: tuple[int, ...], episodes: int, seed: int
    ) -> list[dict]:
        lr = self.config.ag_lr
        recipe = {
            "steps": steps,
            "lr": lr,
            "episodes": episodes,
            "seed": seed,
            "environment": env_spec(maze_of(SIZE)),
            "runs": recipes,
            "code": code_fingerprint("ops", "rollout", "experiments"),
        }

        def make() -> list[dict]:
            return compare_policies(
                {key: self.out / key for key in POLICIES},
                self.out / CRITIC,
                steps=steps,
                lr=lr,
                episodes=episodes,
                seed=seed,
                progress=self.reporter.progress,
            )

        return self._json_piece(name, recipe, make)

    def _json_piece(self, name: str, recipe: dict, make: Callable[[], list[dict]]) -> list[dict]:
        path = self.pieces.path(name)
        if not self._reusable(name, recipe):
            self.pieces.begin(name, recipe)
            write_json(path, make())
            self.pieces.finish(name, recipe)
        return json.loads(path.read_text())

    def _reusable(self, name: str, recipe: dict) -> bool:
        return self._look(name, recipe) is Found.FINISHED

    def _look(self, name: str, recipe: dict) -> Found:
        found, difference = self.pieces.look(name, recipe)
        if found is Found.FINISHED:
            self.reporter.say(f"{name}: taken from an earlier run with the same configuration and code")
        elif found is Found.BEGUN:
            self.reporter.say(f"{name}: an earlier run was interrupted; going on with it")
        elif found is Found.OTHER:
            self.reporter.say(f"{name}: an earlier run differs in {difference}; made anew")
        return found

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began
