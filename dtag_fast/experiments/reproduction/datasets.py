"""What trainings learn from: data that lie on the machine, mazes collected here, and parts of either."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dtag_fast.algorithms import stream_seed
from dtag_fast.data import TrajectoryStore, load_dataset
from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.pointmaze import make_pointmaze
from dtag_fast.experiments.reproduction.estimates import MAZE_SECONDS
from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work


@dataclass(frozen=True)
class Maze(Work):
    """A walk through a PointMaze, as `dtag data make pointmaze-SIZE` collects it."""

    size: str
    steps: int
    seed: int = 0

    folder: ClassVar[str] = "datasets"
    suffix: ClassVar[str] = ""
    code: ClassVar[tuple[str, ...]] = ("data/pointmaze",)

    @property
    def label(self) -> str:
        return f"pointmaze-{self.size}-{self.steps}"

    @property
    def dataset_id(self) -> str:
        return f"pointmaze/{self.size}-{self.steps}-s{self.seed}-v0"

    @property
    def seconds(self) -> float:
        return MAZE_SECONDS * self.steps

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        with minari_root_at(path):
            make_pointmaze(
                self.size,
                self.steps,
                self.seed,
                self.dataset_id,
                progress=lambda done, total: progress(done / total),
            )


@dataclass(frozen=True)
class Data:
    """A dataset, or some of its episodes.

    Attributes:
        origin: what `load_dataset` takes, or a Maze. fraction: of the episodes, drawn uniformly by `seed`.
    """

    origin: str | Maze
    fraction: float = 1.0
    seed: int = 0

    @property
    def needs(self) -> tuple[Work, ...]:
        return () if isinstance(self.origin, str) else (self.origin,)

    def load(self, shelf: Shelf) -> TrajectoryStore:
        """Raises as `load_dataset`."""
        if isinstance(self.origin, str):
            store = load_dataset(self.origin)
        else:
            place = shelf.path(self.origin) / self.origin.dataset_id
            store = load_dataset(str(place), cache_dir=shelf.cache)
        if self.fraction == 1:
            return store
        count = max(1, round(self.fraction * store.num_episodes))
        rng = np.random.default_rng(stream_seed(self.seed, "fraction of the episodes"))
        return store.select(np.sort(rng.choice(store.num_episodes, count, replace=False)))
