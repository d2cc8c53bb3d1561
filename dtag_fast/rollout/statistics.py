"""Summaries of episode returns: mean, spread, bootstrap interval, interquartile mean, paired differences."""

from dataclasses import dataclass

import numpy as np

BOOTSTRAP_SEED = 0  # fixed: the same returns always give the same interval
BOOTSTRAP_RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """Statistics of E numbers, in their units.

    mean, std (population form, divisor E, as the papers of this family report it), ci95 = (low, high) of the
    mean by percentile bootstrap, iqm = mean of the middle half (Agarwal et al., 2021), lowest, highest.
    """

    mean: float
    std: float
    ci95: tuple[float, float]
    iqm: float
    lowest: float
    highest: float


def summarize(values: np.ndarray) -> Summary:
    """Summary of `values` (E,), E >= 1.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values: expected at least one number in one dimension, got shape {values.shape}")
    return Summary(
        mean=float(values.mean()),
        std=float(values.std()),
        ci95=bootstrap_interval(values),
        iqm=interquartile_mean(values),
        lowest=float(values.min()),
        highest=float(values.max()),
    )


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = BOOTSTRAP_RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (E,): (low, high) with `level` in (0, 1).

    One value gives the interval (value, value): nothing is known of the spread, and none is made up.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, 1_000_000 // values.size)  # 8 MB of draws at a time
    means = np.empty(resamples)
    for start in range(0, resamples, rows_at_once):
        stop = min(start + rows_at_once, resamples)
        means[start:stop] = values[rng.integers(values.size, size=(stop - start, values.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of `values` (E,): a quarter of the weight is cut from each end.

    Where E is not a multiple of four, the values on the edges count in part, so E = 1, 2, 3 have an IQM too.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    edges = (
        np.arange(ordered.size + 1) / ordered.size
    )  # value i covers the probability [edges[i], edges[i+1]]
    weights = np.clip(edges[1:], 0.25, 0.75) - np.clip(edges[:-1], 0.25, 0.75)
    return float((weights * ordered).sum() / weights.sum())


def paired_difference(values: np.ndarray, baseline: np.ndarray) -> Summary:
    """Summary of `values - baseline`, both (E,) returns of the same seeds in the same order.

    Raises:
        ValueError: different lengths.
    """
    values, baseline = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if values.shape != baseline.shape:
        raise ValueError(
            f"baseline: expected {values.shape[0]} returns of the same seeds, got {baseline.shape[0]}"
        )
    return summarize(values - baseline)
