"""What a dataset is like, in numbers."""

from dataclasses import dataclass

import numpy as np

from dtag_fast.data.scores import NormalizedScore, normalized_score
from dtag_fast.data.store import ARRAYS, TrajectoryStore

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Summary:
    """Facts about a store.

    Attributes:
        episodes, steps, state_dim, action_dim: sizes.
        size: bytes of the arrays, on disk and, where all of them are touched, in memory.
        return_mean, return_std: of the undiscounted episode returns.
        return_quantiles, length_quantiles: at QUANTILES, the first and last are minimum and maximum.
        terminated, truncated: episodes whose last step is a termination, or else a truncation.
        score: normalised mean return with its references, None where the task has none.
    """

    episodes: int
    steps: int
    state_dim: int
    action_dim: int
    size: int
    return_mean: float
    return_std: float
    return_quantiles: tuple[float, ...]
    length_quantiles: tuple[float, ...]
    terminated: int
    truncated: int
    score: NormalizedScore | None


def summarize(store: TrajectoryStore) -> Summary:
    """Summary of a store."""
    returns, last = store.episode_returns, store.offsets[1:] - 1
    terminated = store.terminations[last]
    return Summary(
        episodes=store.num_episodes,
        steps=store.num_steps,
        state_dim=store.state_dim,
        action_dim=store.action_dim,
        size=sum(getattr(store, name).nbytes for name in ARRAYS),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        return_quantiles=tuple(np.quantile(returns, QUANTILES).tolist()),
        length_quantiles=tuple(np.quantile(store.episode_lengths, QUANTILES).tolist()),
        terminated=int(terminated.sum()),
        truncated=int((store.truncations[last] & ~terminated).sum()),
        score=normalized_score(float(returns.mean()), store.metadata),
    )
