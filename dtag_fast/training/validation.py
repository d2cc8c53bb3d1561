"""Validation without a simulator: errors on episodes that are held out of the training."""

from __future__ import annotations

import numpy as np
from torch import Generator

from dtag_fast.algorithms import Algorithm, parallel, stream_seed
from dtag_fast.data import TrajectoryStore
from dtag_fast.training.metrics import WindowMeans

BATCHES = 32  # of the algorithm's own batch size


def split_episodes(
    store: TrajectoryStore, fraction: float, seed: int
) -> tuple[TrajectoryStore, TrajectoryStore]:
    """The episodes to train on and those held out, in the store's order.

    Args:
        fraction: of the episodes to hold out, drawn uniformly by `seed`; rounded, at least one on each side.
    Raises:
        ValueError: not between 0 and 1, or there is only one episode.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"holdout: expected a fraction between 0 and 1, got {fraction}")
    if store.num_episodes < 2:
        raise ValueError("holdout: expected at least 2 episodes to divide, the dataset has 1; leave it out")
    count = min(max(round(fraction * store.num_episodes), 1), store.num_episodes - 1)
    rng = np.random.default_rng(stream_seed(seed, "holdout"))
    held = np.zeros(store.num_episodes, bool)
    held[rng.choice(store.num_episodes, count, replace=False)] = True
    return store.select(np.flatnonzero(~held)), store.select(np.flatnonzero(held))


class Validation:
    """The same batches of held-out episodes at every call.

    Args:
        learner: whose errors are looked at. held_out: the episodes. seed: of the batches.
    """

    def __init__(self, learner: Algorithm, held_out: TrajectoryStore, seed: int):
        self._learner, self._seed = learner, stream_seed(seed, "validation")
        self._sampler = learner.make_sampler(held_out)
        self._sampler.share = parallel.rank(), parallel.world()

    def __call__(self) -> dict[str, float]:
        """Means over the batches.

        Raises:
            Diverged: one is not finite.
        """
        generator = Generator(self._learner.device).manual_seed(self._seed)
        means = WindowMeans()
        for _ in range(BATCHES):
            means.add(self._learner.validate(self._sampler.sample(generator)))
        return means.means()
