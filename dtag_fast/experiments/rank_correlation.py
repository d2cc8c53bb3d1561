"""Spearman's rank correlation."""

from collections.abc import Sequence

import numpy as np


def rank_correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """Correlation of the ranks of x (N,) and y (N,), equal values sharing their mean rank; in [-1, 1].

    None where all values of one of them are equal.
    """
    first, second = ranks(np.asarray(x)), ranks(np.asarray(y))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) from 1 for the smallest; equal values have the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
