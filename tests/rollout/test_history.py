"""Windows against a literal history that grows, for rollouts that start, pause and end independently."""

import numpy as np
import pytest
import torch

from dtag_fast.rollout.batches import fill_up
from dtag_fast.rollout.history import History
from dtag_fast.rollout.policy import SequencePolicy


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_windows_equal_a_growing_history(padding, k):
    rng, n = np.random.default_rng(k), 4
    history = History(n, k, state_dim=3, action_dim=2, padding=padding)
    grown = [{"states": [], "actions": [], "returns": []} for _ in range(n)]
    for _ in range(60):
        if rng.random() < 0.2:
            ended = np.flatnonzero(rng.random(n) < 0.5)
            history.reset(ended)
            for row in ended:
                grown[row] = {"states": [], "actions": [], "returns": []}
        rows = np.flatnonzero(rng.random(n) < 0.7)
        if rows.size == 0:
            continue
        r = rows.size
        states, actions = rng.normal(size=(r, 3)).astype("f4"), rng.normal(size=(r, 2)).astype("f4")
        returns, predicted = rng.normal(size=(2, r)).astype("f4")
        history.begin(rows, states, returns)
        for i, row in enumerate(rows):
            grown[row]["states"].append(states[i])
            grown[row]["actions"].append(np.zeros(2, "f4"))
            grown[row]["returns"].append(returns[i])
        window = history.window(rows)
        for i, row in enumerate(rows):
            assert_window(window, i, grown[row], k, padding)
        history.set_returns(rows, predicted[:, None])
        history.set_actions(rows, actions)
        for i, row in enumerate(rows):
            grown[row]["actions"][-1], grown[row]["returns"][-1] = actions[i], predicted[i]
            assert_window(history.window(rows), i, grown[row], k, padding)


def assert_window(window, i, grown, k, padding):
    length = len(grown["states"])
    real = min(length, k)
    columns = slice(k - real, k) if padding == "left" else slice(0, real)
    expected_mask = np.zeros(k, bool)
    expected_mask[columns] = True
    assert (window.mask[i] == expected_mask).all()
    assert (window.timesteps[i][columns] == np.arange(length - real, length)).all()
    assert (window.states[i][columns] == np.array(grown["states"][-real:])).all()
    assert (window.actions[i][columns] == np.array(grown["actions"][-real:])).all()
    assert (window.returns_to_go[i, :, 0][columns] == np.array(grown["returns"][-real:])).all()
    for tensor in (window.states, window.actions, window.returns_to_go, window.timesteps):
        assert (tensor[i][~expected_mask] == 0).all()


def test_returns_to_go_fall_by_the_scaled_reward(make_policy):
    policy = make_policy("dt", context_len=4).model  # return_scale 10
    actor = SequencePolicy(policy, 2, np.array([50.0, 30.0]), reward_scale=2.0, reward_shift=-1.0)
    observations, active = np.zeros((2, 3), "f4"), np.ones(2, bool)
    rewards = np.array([[3.0, 1.0], [4.0, 1.0], [5.0, 9.0]])
    for reward in rewards:
        actor.act(observations, active)
        actor.record(np.zeros((2, 2), "f4"), reward, active)
    actor.act(observations, active)
    spent = np.concatenate([np.zeros((1, 2)), np.cumsum(2.0 * rewards - 1.0, axis=0)])
    expected = (np.array([50.0, 30.0]) - spent) / 10.0  # (4, 2)
    window = actor.history.window(np.arange(2))
    assert np.allclose(window.returns_to_go[..., 0].T, expected, atol=1e-6)


def test_the_executed_action_and_the_predicted_return_stay_in_the_history(make_policy):
    model = make_policy("reinformer", context_len=3).model
    actor = SequencePolicy(model, 1)
    observations, active = np.ones((1, 3), "f4"), np.ones(1, bool)
    actor.act(observations, active)
    first = actor.history.window(np.arange(1)).returns_to_go[0, 0].item()
    executed = np.array([[0.25, -0.75]], "f4")
    actor.record(executed, np.array([5.0]), active)
    actor.act(observations, active)
    window = actor.history.window(np.arange(1))
    assert (window.actions[0, 0] == executed[0]).all()
    assert window.returns_to_go[0, 0].item() == first != 0.0


def test_inactive_rollouts_are_left_alone(make_policy):
    actor = SequencePolicy(make_policy("dt").model, 3, 50.0)
    observations = np.ones((3, 3), "f4")
    actions = actor.act(observations, np.array([True, False, True]))
    assert (actions[1] == 0).all() and (actions[0] == actions[2]).all() and (actions[0] != 0).any()
    assert actor.history.lengths.tolist() == [1, 0, 1]
    assert (actor.act(observations, np.zeros(3, bool)) == 0).all()


def test_a_restarted_rollout_forgets(make_policy):
    model = make_policy("dt").model
    actor = SequencePolicy(model, 2, 50.0)
    observations, active = np.full((2, 3), 0.3, "f4"), np.ones(2, bool)
    fresh = actor.act(observations, active)
    for _ in range(4):
        actor.record(np.full((2, 2), 0.9, "f4"), np.array([7.0, 7.0]), active)
        later = actor.act(observations, active)
    actor.reset(np.array([False, True]), 50.0)
    again = actor.act(observations, np.array([False, True]))
    assert np.allclose(again[1], fresh[1], atol=1e-6) and not np.allclose(later[1], fresh[1], atol=1e-4)
    with pytest.raises(ValueError, match="needs a finite return to aim for, got None"):
        actor.reset(active)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_computing_only_what_is_new_changes_nothing(policy, batch_invariant):
    """Also where rollouts pause, restart, and the model is trained in the middle of an episode."""
    model, rng, n = policy.model, np.random.default_rng(0), 5
    target = 50.0 if model.takes_target_return else None
    actors = [SequencePolicy(model, n, target, incremental=new) for new in (True, False)]
    actors[0].batch_invariant = batch_invariant
    ages = set()
    for step in range(14):
        over = rng.random(n) < 0.15
        for actor in actors:
            actor.reset(over, target)
        if step == 9:
            with torch.no_grad():
                model.action_head.weight.mul_(-0.5)
                model.embed_state.bias.add_(0.3)
        active = rng.random(n) < 0.8
        observations, rewards = rng.normal(size=(n, 3)).astype("f4"), rng.normal(size=n)
        chosen = [actor.act(observations, active) for actor in actors]
        assert np.allclose(*chosen, rtol=1e-4, atol=1e-5)
        ages |= set(actors[0].history.lengths[active].tolist())
        for actor in actors:
            actor.record(chosen[0] * 0.9, rewards, active)
    assert {1, 2, 3, 4, 5} <= ages  # K is 3


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match='padding: expected "left" or "right", got \'middle\''):
        History(1, 1, 1, 1, padding="middle")


@pytest.mark.parametrize(("count", "filled"), [(1, 8), (8, 8), (9, 16)])
def test_batches_are_filled_up_with_the_first_row(count, filled):
    rows = fill_up(np.arange(5, 5 + count))
    assert rows.tolist() == [*range(5, 5 + count), *[5] * (filled - count)]
