"""Policies of the present state, behaviour cloning's and IQL's own, in an evaluation."""

import math

import numpy as np
import pytest
import torch

from dtag_fast.rollout import AGSetting, ReactivePolicy, evaluate, grid
from dtag_fast.rollout.reference import autograd_action_gradient

KINDS = ("bc", "iql")


@pytest.fixture(params=KINDS)
def reactive(request, make_policy):
    return make_policy(request.param)


def literal_episode(model, env, seed, improve):
    """Actions and return of one episode, one state at a time."""
    actions, rewards, (observation, _), over = [], [], env.reset(seed=seed), False
    while not over:
        state = torch.from_numpy(observation)[None]
        with torch.no_grad():
            action = model(state)
            action = action[0] if isinstance(action, tuple) else action
            action = action if improve is None else improve(state, action)
        actions.append(action[0].numpy())
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
        over = terminated or truncated
    return np.array(actions), sum(rewards)


@pytest.mark.parametrize("ag_steps", [0, 4])
def test_actions_are_those_of_the_literal_loop(reactive, critic, counting, new_env, ag_steps):
    settings = [AGSetting(ag_steps, lr=0.3)]
    result = evaluate(reactive, critic=critic, settings=settings, episodes=12, max_envs=5, workers=1)
    (found,) = result.settings
    played = {}
    for event in counting.CountingEnv.events:
        if event[0] == "step":
            played.setdefault(event[1], []).append(event[3])
    improve = autograd_action_gradient(critic.critic, ag_steps, 0.3, -1.0, 1.0) if ag_steps else None
    moved = 0.0
    assert found.target_return is None and found.seeds == list(range(12))
    for seed, wanted in zip(found.seeds, found.returns, strict=True):
        batched = np.array(played[seed])
        actions, episode_return = literal_episode(reactive.model, new_env(), seed, improve)
        assert np.allclose(batched, actions, atol=2e-5)
        assert math.isclose(episode_return, wanted, rel_tol=1e-5)
        plain, _ = literal_episode(reactive.model, new_env(), seed, None)
        moved = max(moved, np.abs(plain - actions).max())
    assert (moved > 1e-3) == (ag_steps > 0)
    assert result.wall_time.not_captured is not None


def test_the_same_bits_whatever_is_played_beside(reactive, critic):
    options = {"critic": critic, "settings": grid((0, 3), (0.3,)), "episodes": 9}
    one = evaluate(reactive, max_envs=8, workers=1, **options)
    many = evaluate(reactive, max_envs=16, workers=2, **options)
    for a, b in zip(one.settings, many.settings, strict=True):
        assert np.allclose(a.returns, b.returns, rtol=1e-5)
    again = evaluate(reactive, max_envs=16, workers=2, **options)
    assert [s.returns for s in many.settings] == [s.returns for s in again.settings]


def test_rows_that_wait_are_zero_and_none_remembers(reactive):
    actor = ReactivePolicy(reactive.model, 3, batch_invariant=True)
    observations, active = np.random.default_rng(0).normal(size=(3, 3)), np.array([True, False, True])
    first = actor.act(observations, active)
    assert first.dtype == np.float32 and (first[1] == 0).all() and (first[[0, 2]] != 0).all()
    actor.record(np.ones((3, 2), np.float32), np.ones(3), active)
    assert np.array_equal(actor.act(observations, active), first)
    assert not reactive.model.training
    assert (actor.act(observations, np.zeros(3, bool)) == 0).all()


def test_what_makes_no_sense_is_refused(reactive):
    name = type(reactive.model).__name__
    with pytest.raises(ValueError, match=f"target_returns: {name} acts on none; leave them out"):
        evaluate(reactive, target_returns=[1.0])
    with pytest.raises(ValueError, match=f"target_return: {name} looks at the present state alone, got 3"):
        ReactivePolicy(reactive.model, 2).reset(np.ones(2, bool), 3.0)
    reactive.model.layers[0].weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="policy: it gave an action that is not finite"):
        evaluate(reactive, episodes=1)
