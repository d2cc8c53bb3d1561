"""Episodes as the original Decision Transformer's pickles hold them."""

from collections.abc import Iterable

import numpy as np

from dtag_fast.data import Episode


def trajectories(episodes: Iterable[Episode]) -> list[dict[str, np.ndarray]]:
    """A dict of arrays with T rows for each episode."""
    return [
        {
            "observations": e.observations[:-1].copy(),
            "next_observations": e.observations[1:].copy(),
            "actions": e.actions,
            "rewards": e.rewards,
            "terminals": e.terminations,
        }
        for e in episodes
    ]
