"""Rewards given out every M-th step: by the definition, step by step."""

import numpy as np
import pytest

from dtag_fast.data import TrajectoryStore
from dtag_fast.data.delayed_rewards import delayed


def given_out(rewards, every):
    """The definition as a loop over one episode."""
    owed, found = 0.0, []
    for t, reward in enumerate(rewards, start=1):
        owed += float(reward)
        due = t % every == 0 or t == len(rewards)
        found.append(owed if due else 0.0)
        owed = 0.0 if due else owed
    return found


@pytest.mark.parametrize("every", [1, 2, 3, 5, 100])
def test_rewards_are_summed_and_all_else_stays(make_store, every):
    store = make_store((5, 1, 8, 3, 10, 1, 25))
    changed = delayed(store, every)
    for index in range(store.num_episodes):
        before, after = store.episode(index), changed.episode(index)
        assert np.allclose(after.rewards, given_out(before.rewards, every), rtol=1e-6, atol=1e-6)
        assert np.count_nonzero(after.rewards) == -(-len(before.rewards) // every)
        for name in ("observations", "actions", "terminations", "truncations"):
            assert np.array_equal(getattr(before, name), getattr(after, name))
    assert changed.rewards.dtype == np.float32
    assert np.allclose(store.episode_returns, changed.episode_returns, rtol=1e-6, atol=1e-6)


def test_it_says_that_it_is_other_data(make_episodes):
    metadata = {"dataset_id": "set", "fingerprint": "abc", "notes": ["odd"]}
    store = TrajectoryStore.from_episodes(make_episodes((4, 3)), metadata)
    changed = delayed(store, 2)
    assert changed.metadata["fingerprint"] == "abc delayed 2" and changed.metadata["dataset_id"] == "set"
    assert changed.metadata["notes"][0] == "odd" and "every 2 steps" in changed.metadata["notes"][1]
    assert store.metadata == metadata and delayed(store, 1) is store


@pytest.mark.parametrize("every", [0, -1, 2.0, True, "5"])
def test_a_delay_is_a_whole_number_of_steps(make_store, every):
    with pytest.raises(ValueError, match=r"every: expected a whole number of steps of at least 1 .* got"):
        delayed(make_store((3,)), every)
