"""Behaviour cloning: one update by hand, which episodes it imitates, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.bc import Config, steps_of_best
from dtag_fast.data import Episode, TrajectoryStore, Transitions

SMALL = Config(hidden=(16, 16), batch_size=32)


def test_one_update_by_hand():
    """No hidden layer, one state and action: a = tanh(w s + b), AdamW's first step has the length lr."""
    last = np.array([False, True])
    episode = Episode(np.zeros((3, 1)), np.zeros((2, 1)), np.ones(2), last, ~last & last)
    store = TrajectoryStore.from_episodes([episode], {"action_low": [-1.0], "action_high": [1.0]})
    learner = create("bc", store, Config(hidden=(), lr=0.1, warmup=2, weight_decay=0.5))
    head = learner.model.action_head
    head.weight.data.fill_(0.5)
    head.bias.data.fill_(-0.25)
    learner.model.normalizer.std.fill_(1.0)
    states, actions = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.4], [-1.0]])
    rest = torch.zeros(2, 1)
    metrics = learner.update(Transitions(states, actions, rest, states, rest, rest))
    # errors tanh(0.25) - 0.4 = -0.1550813, tanh(-1.25) + 1 = 0.1517164; their mean square:
    assert metrics["loss"].item() == pytest.approx(0.0235340, abs=1e-6)
    # d/dw: e1 (1 - tanh^2 0.25) s1 + e2 (1 - tanh^2 1.25) s2 = -0.145779 - 0.085087
    # d/db: e1 (1 - tanh^2 0.25) + e2 (1 - tanh^2 1.25) = -0.145779 + 0.042544
    assert metrics["grad_norm"].item() == pytest.approx(np.hypot(0.230866, 0.103235), abs=1e-5)
    # AdamW: decay by 1 - 0.05 / 2, then a first step as long as the rate, half of it in the warm-up
    assert head.weight.item() == pytest.approx(0.5 * 0.975 + 0.05, abs=1e-5)
    assert head.bias.item() == pytest.approx(-0.25 * 0.975 + 0.05, abs=1e-5)


def test_states_are_standardised_by_the_policy_itself(store):
    learner = create("bc", store, SMALL)
    mean, std = store.state_statistics()
    assert torch.equal(learner.model.normalizer.mean, torch.from_numpy(mean))
    assert torch.equal(learner.model.normalizer.std, torch.from_numpy(std))
    states = learner.make_sampler(store).transitions.states
    np.testing.assert_array_equal(states.numpy(), store.observations[store.state_rows])


@pytest.mark.parametrize(
    ("fraction", "lengths"),
    [
        (1.0, [30, 7, 2, 50]),
        (0.01, [30]),
        (0.33, [30]),
        (0.34, [30, 7]),
        (0.43, [30, 7, 2]),
        (0.44, [30, 7, 2, 50]),
    ],
)
def test_the_best_episodes_are_imitated(store, fraction, lengths):
    """In the order of their returns (10.7, 5.9, 1.9, -0.05) the episodes have 30, 7, 2 and 50 of 89 steps."""
    sampler = create("bc", store, dataclasses.replace(SMALL, best_fraction=fraction)).make_sampler(store)
    assert len(sampler.transitions.states) == sum(lengths)


def test_steps_of_the_best_are_theirs_wherever_they_stand():
    def episode(length, reward):
        last = np.arange(length) == length - 1
        return Episode(
            np.zeros((length + 1, 1)), np.zeros((length, 1)), np.full(length, reward), last, ~last & last
        )

    store = TrajectoryStore.from_episodes(
        [episode(2, 1.0), episode(1, -9.0), episode(3, 5.0), episode(2, 2.0)]
    )
    assert steps_of_best(store, 0.3).tolist() == [3, 4, 5]
    assert steps_of_best(store, 0.5).tolist() == [3, 4, 5, 6, 7]
    assert steps_of_best(store, 0.8).tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_a_short_run_learns_the_recorded_actions(store):
    learner = create("bc", store, dataclasses.replace(SMALL, lr=1e-2, warmup=20))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    losses = [learner.update(sampler.sample(g))["loss"].item() for _ in range(400)]
    assert losses[0] > 0.3
    learner.model.eval()
    t = sampler.transitions
    assert (learner.model.act(t.states) - t.actions).square().mean() < 0.02
    assert np.mean(losses[-20:]) < 0.1  # with dropout


def test_bad_settings_are_refused(store):
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"best_fraction: expected a number in \(0, 1\], got {wrong}"):
            Config(best_fraction=wrong)
    with pytest.raises(ValueError, match=r"dropout: expected a probability in \[0, 1\), got 1"):
        create("bc", store, Config(dropout=1.0))
