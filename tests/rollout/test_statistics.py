"""Summaries against numbers worked out by hand or by theory."""

import math

import numpy as np
import pytest

from dtag_fast.rollout.statistics import bootstrap_interval, interquartile_mean, paired_difference, summarize


def test_summary_of_known_numbers():
    summary = summarize([1.0, 2.0, 3.0, 10.0])
    assert (summary.mean, summary.lowest, summary.highest) == (4.0, 1.0, 10.0)
    assert summary.std == pytest.approx(math.sqrt((9 + 4 + 1 + 36) / 4))  # divisor E
    assert summary.iqm == 2.5


@pytest.mark.parametrize(
    ("values", "iqm"),
    [
        ([7.0], 7.0),
        ([1.0, 5.0], 3.0),
        ([0.0, 1.0, 8.0], (0.25 * 0.0 + 1.0 + 0.25 * 8.0) / 1.5),
        (list(range(8)), 3.5),
        ([0.0, 0.0, 10.0, 20.0, 1000.0], (0.75 * 0.0 + 10.0 + 0.75 * 20.0) / 2.5),
    ],
)
def test_interquartile_mean_cuts_a_quarter_from_each_end(values, iqm):
    assert interquartile_mean(np.array(values)) == pytest.approx(iqm)
    assert interquartile_mean(np.array(values[::-1])) == pytest.approx(iqm)


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(size=40), resamples=500)
        covered += low <= 0.0 <= high
    assert 0.89 <= covered / 300 <= 0.98


def test_interval_is_reproducible_whatever_the_size_of_its_chunks():
    values = np.random.default_rng(3).exponential(size=300)  # 10,000 resamples come in several chunks
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(np.array([4.0])) == (4.0, 4.0)


def test_paired_difference_ignores_what_the_seeds_share():
    rng = np.random.default_rng(4)
    luck = rng.normal(0, 100, size=50)
    difference = paired_difference(luck + 1.0 + 0.1 * rng.normal(size=50), luck)
    assert difference.mean == pytest.approx(1.0, abs=0.05)
    assert 0.9 < difference.ci95[0] < difference.ci95[1] < 1.1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="values: expected at least one number"):
        summarize([])
    with pytest.raises(ValueError, match="baseline: expected 2 returns of the same seeds, got 3"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
