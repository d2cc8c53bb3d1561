"""Policies of discrete actions in CartPole: one-hot rows in the history, numbers for the environment."""

from functools import cache

import cartpole
import gymnasium
import numpy as np
import pytest
import torch

from dtag_fast import refine
from dtag_fast.algorithms import create
from dtag_fast.algorithms.registry import lookup
from dtag_fast.data import DiscreteActions
from dtag_fast.rollout import AGSetting, Environments, SequencePolicy, evaluate
from dtag_fast.rollout.captured import CapturedStep
from dtag_fast.rollout.reference import play_episode
from dtag_fast.training import LoadedPolicy, RunInfo

TWO = DiscreteActions(2)
LIMIT = 80  # steps of an episode


class Shifted(gymnasium.ActionWrapper):
    """CartPole whose actions are 5 and 6."""

    def __init__(self):
        super().__init__(gymnasium.make(cartpole.ENV_ID))
        self.action_space = gymnasium.spaces.Discrete(2, start=5)

    def action(self, action):
        assert self.action_space.contains(action)
        return action - 5


@pytest.fixture(scope="module", autouse=True)
def shifted():
    gymnasium.register("DtagTest/Shifted-v0", entry_point=Shifted)
    yield
    del gymnasium.registry["DtagTest/Shifted-v0"]


@cache
def trained(kind):
    """A network after a hundred updates on the script's episodes: it pushes to both sides."""
    sizes = {"context_len": 3, "d_model": 16, "n_layer": 2, "n_head": 2, "max_timestep": 600}
    config = lookup(kind).config(**sizes, timestep_std=0.02, batch_size=32, lr=1e-2, warmup=10)
    store = cartpole.scripted_store(4, steps=100)
    learner = create(kind, store, config)
    sampler, generator = learner.make_sampler(store), torch.Generator().manual_seed(0)
    for _ in range(100):
        learner.update(sampler.sample(generator))
    return learner.model.eval()


def make_policy(kind, space=TWO, env_id=cartpole.ENV_ID) -> LoadedPolicy:
    model = trained(kind)
    info = RunInfo(
        algorithm=kind,
        kind="policy",
        step=100,
        seed=0,
        state_dim=4,
        action_dim=space.n,
        state_mean=model.normalizer.mean.tolist(),
        state_std=model.normalizer.std.tolist(),
        action_low=[],
        action_high=[],
        best_return=100.0,
        context_len=3,
        return_scale=model.config.return_scale,
        target_returns=[100.0] if kind == "dt" else [],
        env_id=env_id,
        max_episode_steps=LIMIT,
        discrete_actions=space.to_dict(),
    )
    return LoadedPolicy(model, info)


@pytest.mark.parametrize("kind", ["dt", "reinformer"])
@pytest.mark.parametrize("incremental", [True, False])
def test_a_batch_plays_as_the_loop_of_one_environment_does(kind, incremental):
    """Also with `record` and `numbers` as a user would write it."""
    model, info = make_policy(kind)
    target = info.target_returns[0] if info.target_returns else None
    n, envs = 4, [gymnasium.make(cartpole.ENV_ID, max_episode_steps=LIMIT) for _ in range(4)]
    states = np.stack([env.reset(seed=seed)[0] for seed, env in enumerate(envs)])
    policy = SequencePolicy(model, n, target, incremental=incremental, batch_invariant=True)
    active, taken = np.ones(n, bool), [[] for _ in range(n)]
    while active.any():
        actions = policy.act(states, active)
        assert ((actions == 0) | (actions == 1)).all() and (actions.sum(1) == active).all()
        rewards, were = np.zeros(n), active.copy()
        for row in np.flatnonzero(active):
            number = TWO.numbers(actions[row])
            taken[row].append(int(number))
            states[row], rewards[row], terminated, truncated, _ = envs[row].step(number)
            active[row] = not (terminated or truncated)
        policy.record(actions, rewards, were)
    assert len({action for episode in taken for action in episode}) == 2
    for seed, env in enumerate(envs):
        trace = play_episode(model, env, seed, target, discrete=TWO)
        assert [int(a.argmax()) for a in trace.actions] == taken[seed]


@pytest.mark.parametrize("kind", ["dt", "reinformer"])
def test_a_captured_step_acts_as_the_policy(kind):
    """Without its graph, on the CPU."""
    model, info = make_policy(kind)
    target = info.target_returns[0] if info.target_returns else None
    rng, everyone = np.random.default_rng(0), np.ones(3, bool)
    plain = SequencePolicy(model, 3, target)
    captured = CapturedStep(SequencePolicy(model, 3, target), None, capture=False)
    for _ in range(8):
        states = rng.normal(size=(3, 4)).astype(np.float32)
        actions = plain.act(states, everyone)
        np.testing.assert_array_equal(captured.act(states, everyone, np.zeros(3, np.int64)).actions, actions)
        for policy in (plain, captured.policy):
            policy.record(actions, np.ones(3), everyone)


@pytest.mark.parametrize("kind", ["dt", "reinformer"])
def test_evaluation_equals_the_loop_of_one_environment(kind):
    policy = make_policy(kind)
    (result,) = evaluate(policy, episodes=5, seed=10, max_envs=3).settings
    target = policy.info.target_returns[0] if policy.info.target_returns else None
    env = gymnasium.make(cartpole.ENV_ID, max_episode_steps=LIMIT)
    expected = [
        play_episode(policy.model, env, 10 + e, target, discrete=TWO).episode_return for e in range(5)
    ]
    assert result.returns == expected and min(result.lengths) > 3


def test_the_first_action_of_the_space_counts():
    plain = evaluate(make_policy("dt"), episodes=3).settings[0].returns
    policy = make_policy("dt", DiscreteActions(2, start=5), "DtagTest/Shifted-v0")
    assert evaluate(policy, episodes=3).settings[0].returns == plain


@pytest.mark.parametrize(
    ("space", "env_id", "sentence"),
    [
        (
            DiscreteActions(3),
            cartpole.ENV_ID,
            r"Discrete\(2\), the policy's are Discrete\(3\); evaluate",
        ),
        (
            DiscreteActions(2, start=1),
            cartpole.ENV_ID,
            r"Discrete\(2\), the policy's are Discrete\(2, start=1\)",
        ),
        (None, cartpole.ENV_ID, r"Discrete\(2\), the policy's are continuous"),
        (TWO, "Pendulum-v1", r"Box\(.*\), the policy's are Discrete\(2\)"),
    ],
)
def test_an_environment_of_other_actions_is_refused(space, env_id, sentence):
    with pytest.raises(ValueError, match=f"^actions: the environment takes {sentence}"):
        Environments(lambda: gymnasium.make(env_id), 2, 4, discrete=space)


def test_action_gradient_is_refused(make_critic):
    policy, critic = make_policy("dt"), make_critic()
    for given in (
        {"critic": critic},
        {"critic": critic, "settings": [AGSetting(5)]},
        {"settings": [AGSetting(5)]},
    ):
        with pytest.raises(
            ValueError, match=r"climbs a critic over continuous .* are Discrete\(2\); evaluate it"
        ):
            evaluate(policy, **given)
    for numbers in (np.zeros((1,), np.int64), torch.zeros(1, dtype=torch.int64)):
        with pytest.raises(
            TypeError, match=r"^actions: .*, unless they are discrete: Action Gradient climbs"
        ):
            refine(critic.critic, torch.zeros(1, 3), numbers)


def test_numbers_in_place_of_rows_are_refused():
    policy = SequencePolicy(make_policy("dt").model, 2, 500.0)
    policy.act(np.zeros((2, 4), np.float32), np.ones(2, bool))
    with pytest.raises(ValueError, match=r"executed_actions: expected \(2, 2\), .* got \(2,\)"):
        policy.record(np.array([0, 1]), np.ones(2), np.ones(2, bool))
