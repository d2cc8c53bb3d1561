"""Trainings of policies and critics."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dtag_fast.algorithms.registry import preset_config
from dtag_fast.experiments.reproduction.datasets import Data
from dtag_fast.experiments.reproduction.estimates import update_seconds
from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work
from dtag_fast.training import train
from dtag_fast.training.files import read_json, write_text

LOG_EVERY = 100  # updates, or fewer: the last record is of the last update
CHECKPOINT_EVERY = 1_000  # updates: what a killed process may lose
DIVERGED = "diverged.json"  # `train` writes it where a loss is not finite


@dataclass(frozen=True)
class Training(Work):
    """A run of `training.train`, one thread.

    Attributes:
        task: for its name. changes: settings that are not those of the dataset's preset.
        critic: what it learns from. holdout: fraction of the episodes kept from it.
    """

    task: str
    data: Data
    algorithm: str
    updates: int
    seed: int
    changes: tuple[tuple[str, Any], ...] = ()
    critic: "Training | None" = None
    holdout: float | None = None

    folder: ClassVar[str] = "trainings"
    suffix: ClassVar[str] = ""
    code: ClassVar[tuple[str, ...]] = (
        "algorithms",
        "data",
        "models",
        "ops",
        "training",
        "experiments/reproduction/datasets.py",
        "experiments/reproduction/trainings.py",
    )

    @property
    def label(self) -> str:
        return f"{self.task}-{self.algorithm}-s{self.seed}"

    @property
    def needs(self) -> tuple[Work, ...]:
        return self.data.needs if self.critic is None else (*self.data.needs, self.critic)

    @property
    def origins(self) -> frozenset[str]:
        own = {self.data.origin} if isinstance(self.data.origin, str) else ()
        return super().origins.union(own)

    @property
    def seconds(self) -> float:
        term_of_q = 1.8 if self.critic is not None else 1.0
        return self.updates * term_of_q * update_seconds(self.algorithm, dict(self.changes))

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        if self.critic is not None and (file := shelf.path(self.critic) / DIVERGED).is_file():
            path.mkdir(parents=True, exist_ok=True)
            write_text(path / DIVERGED, file.read_text())
            return
        store = self.data.load(shelf)
        config = dataclasses.replace(preset_config(self.algorithm, store.metadata), **dict(self.changes))
        try:
            train(
                self.algorithm,
                store,
                out=path,
                config=config,
                updates=self.updates,
                critic=None if self.critic is None else shelf.path(self.critic),
                seed=self.seed,
                log_every=math.gcd(self.updates, LOG_EVERY),
                checkpoint_every=CHECKPOINT_EVERY,
                keep_last=1,
                holdout=self.holdout,
                validate_every=None if self.holdout is None else self.updates,
                resume=True,
                progress=lambda done, total, _metrics: progress(done / total),
            )
        except FloatingPointError:
            # A result: some methods are told to diverge. What is left has no checkpoint of this moment.
            if not (path / DIVERGED).is_file():
                raise


def divergence(run: Path) -> dict[str, Any] | None:
    """What diverged in a training, or in that of its critic: "metric", "value" and "update", the number of
    the first update that may have; None where nothing did."""
    file = run / DIVERGED
    if not file.is_file():
        return None
    found = read_json(file)
    return {"metric": found["metric"], "value": found["value"], "update": found["batches"][0]["update"]}
