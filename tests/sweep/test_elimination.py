"""Successive elimination: which arms go, which stay, how often the best one is lost."""

import numpy as np
import pytest

from dtag_fast.sweep.elimination import clearly_worse, t_quantile

# Student, 1908; as in any statistics table.
TABLE = [(0.975, 1, 12.7062), (0.975, 4, 2.7764), (0.995, 9, 3.2498), (0.95, 2, 2.9200), (0.9995, 30, 3.6460)]


@pytest.mark.parametrize(("probability", "degrees", "expected"), TABLE)
def test_t_quantiles_are_those_of_the_table(probability, degrees, expected):
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-4)


def test_an_arm_is_dropped_by_its_paired_difference_and_not_by_its_own_spread(rng):
    luck = rng.normal(0, 100, 8)  # of the start, the same for all arms
    noise = np.tile([1.0, -1.0], 4)
    returns = {"good": luck + 10, "near": luck + 9.9 + noise, "bad": luck + noise}
    worse = clearly_worse(returns, arms=3, looks=1)
    assert set(worse) == {"bad"} and worse["bad"][0] < -10 < worse["bad"][1] < 0
    alone = {name: rng.permutation(values) for name, values in returns.items()}
    assert clearly_worse(alone, arms=3, looks=1) == {}


def test_the_interval_is_the_one_of_the_formula():
    returns = {"a": np.array([5.0, 7.0, 6.0, 8.0]), "b": np.array([1.0, 2.0, 2.5, 2.0])}
    difference = returns["b"] - returns["a"]
    reach = t_quantile(1 - 0.05 / (2 * 4 * 3), 3) * difference.std(ddof=1) / 2
    assert clearly_worse(returns, arms=5, looks=3) == (
        {"b": (difference.mean() - reach, difference.mean() + reach)} if difference.mean() + reach < 0 else {}
    )
    assert set(clearly_worse(returns, arms=2, looks=1)) == {"b"}


def test_one_episode_or_one_arm_decides_nothing():
    assert clearly_worse({"a": np.array([5.0]), "b": np.array([-100.0])}, arms=2, looks=1) == {}
    assert clearly_worse({"a": np.array([5.0, 6.0])}, arms=2, looks=1) == {}


def test_the_best_arm_is_lost_in_no_more_than_one_sweep_of_twenty(rng):
    """Twelve arms of equal mean, the hardest case, looked at three times: any of them may be called best."""
    lost, sweeps = 0, 600
    for _ in range(sweeps):
        returns = rng.normal(0, 1, (12, 20))
        left = dict(enumerate(returns))
        for end in (5, 10, 15):
            gone = clearly_worse({arm: values[:end] for arm, values in left.items()}, arms=12, looks=3)
            left = {arm: values for arm, values in left.items() if arm not in gone}
        lost += 0 not in left
    assert lost / sweeps <= 0.05
