"""Means over training seeds, with what a few seeds tell of them: intervals by Student's t."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dtag_fast.experiments.plots import Curve
from dtag_fast.sweep.elimination import t_quantile


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of independent numbers; None for a single one."""
    if len(values) < 2:
        return None
    return t_quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def with_interval(values: Sequence[float], sign: str = "") -> str:
    """Mean of one number or more; of several with its 95 % interval.

    Args:
        sign: "+" to write that of positive numbers too.
    """
    values = list(values)
    mean, half = statistics.fmean(values), half_width(values)
    if half is None:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ({mean - half:{sign}.1f} to {mean + half:{sign}.1f})"


def mean_over(x: Sequence[float], y: Sequence[float]) -> float:
    """Mean of a curve y (N,) over x (N,), N > 1, by the trapezoidal rule."""
    return float(np.trapezoid(y, x)) / (x[-1] - x[0])


def mean_curve(
    label: str,
    runs: Sequence[tuple[Sequence[float], Sequence[float]]],
    band: Literal["interval", "range"] = "interval",
) -> Curve:
    """The mean of several curves with its 95 % interval, or from the least of them to the greatest; a single
    one as it is, without.

    Args:
        runs: x (N,), ascending, and y (N,) of each; N may differ. Where their x are not the same, straight
            lines are drawn between their points and looked at in as many places as the shortest has points,
            evenly spaced over what all of them cover.
    Raises:
        ValueError: no curve, or two that have no place in common.
    """
    if not runs:
        raise ValueError(f"runs: expected at least one curve of {label}, got none")
    x = _common_places([np.asarray(place, float) for place, _ in runs], label)
    y = np.array([np.interp(x, *run) for run in runs])  # (R, N)
    mean = y.mean(axis=0)
    if len(runs) == 1:
        return Curve(label, x, mean)
    if band == "range":
        return Curve(label, x, mean, y.min(axis=0), y.max(axis=0))
    half = np.array([half_width(column) for column in y.T.tolist()])
    return Curve(label, x, mean, mean - half, mean + half)


def _common_places(places: list[np.ndarray], label: str) -> np.ndarray:
    if all(np.array_equal(places[0], other) for other in places[1:]):
        return places[0]
    first, last = max(x[0] for x in places), min(x[-1] for x in places)
    if first > last:
        raise ValueError(f"runs: one curve of {label} begins at {first:g}, after another ends at {last:g}")
    return np.linspace(first, last, min(len(x) for x in places))
