"""Cuts after a step limit and at jumps, whatever blocks a record comes in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtag_fast.data.splitting import LimitCuts, jumps


def limit_cuts_one_by_one(ends, limit):
    cuts, age = [], 0
    for end in ends:
        age += 1
        cuts.append(age == limit and not end)
        age = 0 if end or age == limit else age
    return cuts


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 9),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_limit_counts_from_the_last_end_across_blocks(ends, limit, borders):
    ends = np.array(ends, bool)
    cutter = LimitCuts(limit)
    found = np.concatenate([cutter.of(block) for block in np.split(ends, sorted(borders))])
    np.testing.assert_array_equal(found, limit_cuts_one_by_one(ends.tolist(), limit))


def test_jumps_are_farther_than_rounding():
    here = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], np.float32)
    there = here + np.array([[0.0, 0.0], [4e-6, 4e-6], [1e-4, 0.0]], np.float32)
    assert jumps(here, there).tolist() == [False, False, True]


@pytest.mark.parametrize("rows", [0, 1])
def test_jumps_of_hardly_any_rows(rows):
    assert jumps(np.zeros((rows, 3)), np.zeros((rows, 3))).tolist() == [False] * rows
