"""Stopping clearly worse arms early: successive elimination on paired differences.

Successive elimination (Even-Dar, Mannor, Mansour 2006, JMLR 7, "Action Elimination and Stopping Conditions
for the Multi-Armed Bandit and Reinforcement Learning Problems", algorithm 3): all arms that are left are
played equally often, and after each round those are dropped whose confidence interval lies below the
leader's. Here the samples of two arms are returns of the same seeds, so the interval is one of their paired
difference, by Student's t, as returns have no known bounds for Hoeffding's inequality.
"""

import math
from collections.abc import Hashable, Mapping
from functools import lru_cache

import numpy as np

LEVEL = 0.95  # of all comparisons of a sweep together


def clearly_worse(
    returns: Mapping[Hashable, np.ndarray], arms: int, looks: int, level: float = LEVEL
) -> dict[Hashable, tuple[float, float]]:
    """Arms whose difference to the leader has an interval entirely below zero.

    The interval is d +- t s / sqrt(E) over the E paired differences, mean d, deviation s (divisor E - 1),
    with t of E - 1 degrees of freedom at 1 - (1 - level) / (2 (arms - 1) looks): Bonferroni over the
    comparisons.

    Args:
        returns: arm -> (E,) returns of the same E seeds in the same order, for the arms still played. The
            leader is the one of the highest mean, the first on ties.
        arms: how many there were at the start, >= 2. looks: how often a sweep decides, >= 1.

    Returns:
        arm -> (low, high) of its difference to the leader, for the arms to drop; none with E = 1, as nothing
        is known of the spread.
    """
    if len(returns) < 2 or len(next(iter(returns.values()))) < 2:
        return {}
    leader = max(returns, key=lambda arm: returns[arm].mean())
    tail = (1 - level) / (2 * (arms - 1) * looks)
    worse = {}
    for arm, mine in returns.items():
        difference = mine - returns[leader]
        n = difference.size
        reach = t_quantile(1 - tail, n - 1) * difference.std(ddof=1) / math.sqrt(n)
        if difference.mean() + reach < 0:
            worse[arm] = (float(difference.mean() - reach), float(difference.mean() + reach))
    return worse


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: int) -> float:
    """t with P(T <= t) = probability in [0.5, 1), T of Student's distribution with `degrees` >= 1.

    Bisection on the angle of `_t_cdf`, to the last bits.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = (low + high) / 2
        if _t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _t_cdf(angle: float, degrees: int) -> float:
    """P(T <= sqrt(degrees) tan(angle)): the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, cosine if degrees > 1 else 0.0) if odd else (1.0, 1.0)
    for k in range(2 + odd, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + inside / 2
