"""Online fine-tuning of policies that were trained offline."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dtag_fast.experiments.reproduction.estimates import EPISODE_SECONDS, update_seconds
from dtag_fast.experiments.reproduction.trainings import DIVERGED, Training, divergence
from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work
from dtag_fast.finetuning import finetune, online_preset
from dtag_fast.finetuning.curve import evaluated_target, evaluations, updates_each
from dtag_fast.rollout.run_evaluation import evaluation_scores
from dtag_fast.training.files import read_json, read_json_lines, write_json

RUN, CURVE = "run", "curve.json"  # in the folder of a fine-tuning
CHECKPOINT_EVERY = 2  # iterations: what a killed process may lose
STEP_SECONDS = 0.0015  # of an environment, played alone, with the policy's share
PUBLISHED_STEPS, PUBLISHED_UPDATES = 1_000, 300  # of an iteration


@dataclass(frozen=True)
class Finetuning(Work):
    """A run of `finetuning.finetune`, one thread: the run folder, and the curve of its evaluations.

    Attributes:
        policy: what it begins with, an algorithm that learns online; it goes on with the same seed.
        env_steps: to play in all. online: settings that are not those of the dataset's preset.
        eval_every: iterations between evaluations, one more before the first.
        episodes: of each evaluation, by the mean action. seed: of the first one, the same every time.
    """

    policy: Training
    env_steps: int
    online: tuple[tuple[str, Any], ...] = ()
    eval_every: int = 10
    episodes: int = 10
    seed: int = 0

    folder: ClassVar[str] = "finetunings"
    suffix: ClassVar[str] = ""
    code: ClassVar[tuple[str, ...]] = (
        *Training.code,
        "finetuning",
        "rollout",
        "experiments/reproduction/finetunings.py",
    )

    @property
    def label(self) -> str:
        return self.policy.label

    @property
    def needs(self) -> tuple[Work, ...]:
        return (self.policy, *self.policy.data.needs)

    @property
    def seconds(self) -> float:
        online, changes = dict(self.online), dict(self.policy.changes)
        each = online.get("updates_per_iteration", PUBLISHED_UPDATES) * updates_each(changes)
        iterations = self.env_steps / (online.get("steps_per_iteration") or PUBLISHED_STEPS)
        evaluated = (1 + iterations / self.eval_every) * self.episodes * EPISODE_SECONDS
        learned = iterations * each * update_seconds(self.policy.algorithm, changes)
        return self.env_steps * STEP_SECONDS + evaluated + learned

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        path.mkdir(parents=True, exist_ok=True)
        if diverged := divergence(shelf.path(self.policy)):
            write_json(path / CURVE, {"diverged": diverged})
            return
        store, run = self.policy.data.load(shelf), path / RUN

        def evaluate(step: int, run: Path) -> dict[str, float]:
            options = {"episodes": self.episodes, "seed": self.seed, "workers": 1, "env_processes": 0}
            return evaluation_scores(run / "checkpoints" / str(step), "cpu", options)

        try:
            finetune(
                shelf.path(self.policy),
                self.policy.algorithm,
                out=run,
                env_steps=self.env_steps,
                store=store,
                online=dataclasses.replace(online_preset(store.metadata), **dict(self.online)),
                seed=self.policy.seed,
                evaluate=evaluate,
                eval_every=self.eval_every,
                checkpoint_every=CHECKPOINT_EVERY,
                env_processes=0,
                resume=True,
                progress=lambda done, total, _metrics: progress(min(1.0, done / total)),
            )
        except FloatingPointError:
            if not (run / DIVERGED).is_file():
                raise
            write_json(path / CURVE, {"diverged": divergence(run)})
            return
        write_json(path / CURVE, curve_of(run))


def curve_of(run: Path) -> dict[str, Any]:
    """What a run that is over says: its evaluations, and how much it has played and learned.

    Raises:
        ValueError: no evaluation finished an episode.
    """
    about, log = read_json(run / "config.json"), read_json_lines(run / "metrics.jsonl")
    rounds = [entry for entry in log if "online/env_steps" in entry]
    each, target = updates_each(about["config"]), evaluated_target(log)
    return {
        "dataset": about["dataset"]["dataset_id"],
        "target_return": target,
        "evaluations": evaluations(log, target, each),
        "policy_updates": (log[-1]["step"] - log[0]["step"]) // each,
        "env_steps": rounds[-1]["online/env_steps"],
        "failed_episodes": rounds[-1]["online/failed_episodes"],
    }


def read_curve(finetuning: Finetuning, shelf: Shelf) -> dict[str, Any] | None:
    """What a fine-tuning wrote; None where it is not over."""
    file = shelf.path(finetuning) / CURVE
    return json.loads(file.read_text()) if file.is_file() else None
