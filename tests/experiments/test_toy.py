"""The toy: Action Gradient reaches the optimum that nobody showed, and the imitator does not."""

import numpy as np
import pytest

from dtag_fast.experiments.toy import ToyConfig, demonstrations, reward, run_toy

SMALL = ToyConfig(episodes=256, imitator_updates=300, critic_updates=400, batch_size=64)


def test_data_stays_outside_the_gap_and_on_one_side_per_episode():
    store = demonstrations(300, 4, np.random.default_rng(0))
    actions = store.actions.reshape(300, 4)
    assert np.abs(actions).min() >= 0.5 and np.abs(actions).max() <= 1.0
    assert (np.sign(actions) == np.sign(actions[:, :1])).all()
    assert {-1.0, 1.0} == set(np.sign(actions[:, 0]).tolist())
    np.testing.assert_allclose(store.rewards, reward(store.actions[:, 0]), atol=1e-6)
    assert not store.observations.any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_action_gradient_finds_the_optimum_that_the_imitator_misses(seed):
    result = run_toy(seed, SMALL)
    assert result.imitator_distance > 0.4
    assert result.refined_distance < 0.05
    assert {-1.0, 1.0} == set(np.sign(result.imitated).tolist())  # it copies either side, as its history says
    # The critic's Q of what is executed never falls below that of the imitator's action.
    value = np.interp([result.imitated, result.refined], result.grid, result.critic)
    assert (value[1] >= value[0]).all()
    assert np.allclose(result.paths[0], result.imitated)


def test_same_seed_same_numbers():
    short = ToyConfig(episodes=64, imitator_updates=10, critic_updates=10, prompts=8)
    assert run_toy(3, short) == run_toy(3, short)
    assert run_toy(3, short).imitated != run_toy(4, short).imitated
