"""Predictors for Stable-Baselines3's loops and the environment that refines actions."""

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from dtag_fast import refine
from dtag_fast.data import DiscreteActions
from dtag_fast.interop import (
    ForeignCritic,
    PolicyPredictor,
    RecordRewards,
    RefineActions,
    RefinedPredictor,
    load_critic,
)
from dtag_fast.models import (
    AutotunedDecisionTransformer,
    AutotunedDecisionTransformerConfig,
    DecisionTransformer,
    DecisionTransformerConfig,
    DeterministicPolicy,
    Reinformer,
    ReinformerConfig,
    TwinCritic,
)
from dtag_fast.models.critics import mlp_layers
from dtag_fast.rollout.reference import autograd_action_gradient, play_episode
from dtag_fast.training import LoadedCritic, LoadedPolicy, RunInfo
from dtag_fast.training.checkpoint import save_checkpoint

S, A, TARGET = 3, 2, 20.0
STEPS, LR = 4, 0.3


class Arm(gymnasium.Env):
    """State (a number that remembers the actions, t, a number of the seed); rewards of its own scale.

    Lasts 3 to 8 steps, by the seed of the episode; unseeded resets go on with seed + 100.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (S,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (A,), np.float32)

    def __init__(self, goal: bool = False):
        self.goal, self.last_seed = goal, None
        if goal:
            vector = spaces.Box(-np.inf, np.inf, (1,), np.float64)
            parts = ("achieved_goal", "desired_goal")
            self.observation_space = spaces.Dict(
                {"observation": spaces.Box(-np.inf, np.inf, (2,), np.float64)} | dict.fromkeys(parts, vector)
            )

    def reset(self, *, seed=None, options=None):
        seed = self.last_seed + 100 if seed is None else seed
        super().reset(seed=seed)
        self.last_seed, self.t, self.memory, self.lasts = seed, 0, 0.3 * (seed % 5) - 0.5, 3 + seed * 7 % 6
        return self._see(), {}

    def step(self, action):
        assert np.shape(action) == (A,) and (np.abs(action) <= 1).all()
        self.t += 1
        self.memory = 0.7 * self.memory + float(action[0]) - 0.4 * float(action[1])
        return self._see(), 1.3 + 2.0 * self.memory, self.t == self.lasts, False, {"t": self.t}

    def _see(self):
        seen = np.array([self.memory, 0.1 * self.t, self.last_seed % 3], np.float32)
        if not self.goal:
            return seen
        return {"observation": seen[:2].astype(float), "desired_goal": seen[2:].astype(float)} | {
            "achieved_goal": np.full(1, 9.0)
        }


class Venv:
    """The vector environment of Stable-Baselines3 without it: what ends is reset within the step."""

    def __init__(self, envs):
        self.envs = envs

    def reset(self, seeds):
        return np.stack([env.reset(seed=seed)[0] for env, seed in zip(self.envs, seeds, strict=True)])

    def step(self, actions):
        observations, rewards, dones = [], [], []
        for env, action in zip(self.envs, actions, strict=True):
            observation, reward, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                observation, _ = env.reset()
            observations.append(observation)
            rewards.append(reward)
            dones.append(terminated or truncated)
        return np.stack(observations), np.array(rewards), np.array(dones)

    def get_attr(self, name):
        return [env.get_wrapper_attr(name) for env in self.envs]


def info_of(kind="policy", **about):
    known = {
        "algorithm": "dt",
        "kind": kind,
        "step": 1,
        "seed": 0,
        "state_dim": S,
        "action_dim": A,
        "state_mean": [0.0] * S,
        "state_std": [1.0] * S,
        "action_low": [-1.0] * A,
        "action_high": [1.0] * A,
        "best_return": 1.0,
        "target_returns": [TARGET],
    }
    return RunInfo(**(known | about))


def policy_of(kind="dt", state_dim=S, action_dim=A, **about):
    sizes = {"state_dim": state_dim, "action_dim": action_dim, "context_len": 4, "d_model": 16, "n_layer": 2}
    sizes |= {"n_head": 2, "max_timestep": 300, "return_scale": 7.0}
    mean, std = torch.linspace(-0.5, 0.5, state_dim), torch.linspace(0.5, 1.5, state_dim)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if kind == "reinformer":
            model = Reinformer(ReinformerConfig(**sizes), mean, std)
        elif kind == "adt":
            config = AutotunedDecisionTransformerConfig(**sizes, value_hidden=(8, 8))
            model = AutotunedDecisionTransformer(config, mean, std)
        elif kind == "bc":
            model = DeterministicPolicy(state_dim, action_dim, (16,), 0.0, state_mean=mean, state_std=std)
        else:
            model = DecisionTransformer(DecisionTransformerConfig(**sizes), mean, std)
        for parameter in model.parameters():
            parameter.data.mul_(2)
    if kind != "dt":
        about = {"target_returns": []} | about
    return LoadedPolicy(model.eval(), info_of(state_dim=state_dim, action_dim=action_dim, **about))


def critic_of(state_dim=S, action_dim=A, **about):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        critic = TwinCritic(state_dim, action_dim, (16, 16)).eval().requires_grad_(False)
    return LoadedCritic(critic, info_of("critic", state_dim=state_dim, action_dim=action_dim, **about))


def predictor_of(policy, venv, critic=None):
    takes = policy.model.takes_target_return
    predictor = PolicyPredictor(policy, rewards=venv if takes else None)
    return RefinedPredictor(predictor, critic, steps=STEPS, lr=LR) if critic else predictor


def reference(policy, seed, critic=None, make=Arm):
    target = TARGET if policy.model.takes_target_return else None
    improve = None
    if critic is not None:
        improve = autograd_action_gradient(critic.critic, STEPS, LR, -1.0, 1.0)
    return play_episode(policy.model, make(), seed, target, improve)


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("kind", ["dt", "reinformer", "adt"])
def test_episodes_of_a_vector_are_those_of_the_one_environment_loop(kind, refined):
    """Five environments, episodes of different length, three in each: actions and returns agree."""
    policy, critic = policy_of(kind), critic_of() if refined else None
    venv = Venv([RecordRewards(Arm()) for _ in range(5)])
    predictor, seeds = predictor_of(policy, venv, critic), list(range(5))
    observations, state, starts = venv.reset(seeds), None, np.ones(5, bool)
    played, actions = [[] for _ in range(5)], [[] for _ in range(5)]
    while any(seed < 300 for seed in seeds):
        given, state = predictor.predict(observations, state=state, episode_start=starts)
        assert given.shape == (5, A) and given.dtype == np.float32
        observations, rewards, starts = venv.step(given)
        for i in range(5):
            played[i].append(rewards[i])
            actions[i].append(given[i])
            if starts[i] and seeds[i] < 300:
                expected = reference(policy, seeds[i], critic)
                np.testing.assert_allclose(actions[i], expected.actions, rtol=1e-3, atol=1e-3)
                assert sum(played[i]) == pytest.approx(expected.episode_return, rel=1e-3, abs=1e-3)
                played[i], actions[i] = [], []
                seeds[i] += 100


def test_what_the_policy_earned_moves_its_actions():
    """The check above can fail: other rewards, or a history with actions that were not executed, differ."""
    policy, seed = policy_of("dt"), 3
    expected = reference(policy, seed).actions

    def actions(rewards):
        env = RecordRewards(Arm())
        predictor = PolicyPredictor(policy, rewards=rewards or env)
        observation, state, start, made = env.reset(seed=seed)[0], None, [True], []
        for _ in range(len(expected)):
            action, state = predictor.predict(observation, state, start)
            observation, start = env.step(action)[0], [False]
            made.append(action)
        return np.array(made)

    np.testing.assert_allclose(actions(None), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(actions(lambda: np.zeros(1)) - expected).max() > 1e-2


def test_a_target_for_each_episode():
    policy, seeds, targets = policy_of(), [1, 2], [5.0, 60.0]
    venv = Venv([RecordRewards(Arm()) for _ in seeds])
    predictor = PolicyPredictor(policy, target_return=targets, rewards=venv)
    first, _ = predictor.predict(venv.reset(seeds), None, np.ones(2, bool))
    for i, seed in enumerate(seeds):
        expected = play_episode(policy.model, Arm(), seed, targets[i], max_steps=1).actions[0]
        np.testing.assert_allclose(first[i], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="one for each of 3 episodes, got 2"):
        predictor.predict(np.zeros((3, S)), None, np.ones(3, bool))


def test_a_policy_of_the_present_state_needs_no_state_and_no_rewards():
    policy, critic = policy_of("bc"), critic_of()
    observations = np.random.default_rng(0).normal(size=(4, S))
    plain, _ = PolicyPredictor(policy).predict(observations)
    one, _ = PolicyPredictor(policy).predict(observations[0])
    with torch.no_grad():
        expected = policy.model.act(torch.as_tensor(observations, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(plain, expected, rtol=1e-6, atol=1e-6)
    assert one.shape == (A,)
    np.testing.assert_allclose(one, expected[0], rtol=1e-5, atol=1e-6)
    refined, _ = RefinedPredictor(policy, critic, steps=STEPS, lr=LR).predict(observations)
    climbed = refine(critic.critic, observations.astype("f4"), expected, steps=STEPS, lr=LR)
    np.testing.assert_allclose(refined, climbed, rtol=1e-5, atol=1e-5)
    assert np.abs(refined - plain).max() > 1e-2


def test_run_folders(tmp_path):
    policy, critic = policy_of("bc"), critic_of()
    for name, (module, info) in (("model", policy), ("critic", critic)):
        save_checkpoint(tmp_path / name, info, {name: module}, {})
    observations = np.random.default_rng(0).normal(size=(4, S)).astype(np.float32)
    by_folders = RefinedPredictor(tmp_path / "model", tmp_path / "critic", steps=STEPS, lr=LR)
    expected, _ = RefinedPredictor(policy, critic, steps=STEPS, lr=LR).predict(observations)
    np.testing.assert_array_equal(by_folders.predict(observations)[0], expected)
    env = RefineActions(Arm(), tmp_path / "critic", steps=STEPS, lr=LR)
    observation, _ = env.reset(seed=0)
    given = np.array([0.2, -0.1], np.float32)
    executed = env.step(given)[-1]["executed_action"]
    np.testing.assert_array_equal(executed, refine(critic.critic, observation, given, steps=STEPS, lr=LR))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        RefinedPredictor(policy, tmp_path / "nothing")


@pytest.mark.parametrize("refined", [False, True])
def test_goal_observations_are_those_of_the_policy_s_data(refined):
    keys = ["observation", "desired_goal"]
    policy, critic = policy_of(observation_keys=keys), critic_of(observation_keys=keys)
    env = RecordRewards(Arm(goal=True))
    predictor = predictor_of(policy, env, critic if refined else None)
    observation, state, start, made, over = env.reset(seed=4)[0], None, [True], [], False
    while not over:
        action, state = predictor.predict(observation, state, start)
        observation, _, over, _, _ = env.step(action)
        start = [False]
        made.append(action)
    expected = reference(policy, 4, critic if refined else None).actions
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-3)


def test_discrete_actions_are_numbers():
    two = DiscreteActions(2)
    sizes = {"state_dim": 4, "action_dim": 2, "context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = DecisionTransformer(DecisionTransformerConfig(**sizes, max_timestep=50, discrete=True)).eval()
    about = {"state_dim": 4, "discrete_actions": two.to_dict(), "action_low": [], "action_high": []}
    env = RecordRewards(gymnasium.make("CartPole-v1"))
    predictor = PolicyPredictor(LoadedPolicy(model, info_of(**about)), rewards=env)
    observation, state, start, made, over = env.reset(seed=3)[0], None, [True], [], False
    while not over:
        action, state = predictor.predict(observation, state, start)
        observation, _, over, _, _ = env.step(action)
        start = [False]
        made.append(int(action))
    expected = play_episode(model, gymnasium.make("CartPole-v1"), 3, TARGET, discrete=two).actions
    assert made == two.numbers(np.array(expected)).tolist()


def test_a_callable_and_an_object_with_predict():
    critic, observations = critic_of(), np.random.default_rng(0).normal(size=(6, S))
    low, high = np.array([-0.5, -2.0], np.float32), np.array([0.5, 2.0], np.float32)

    def policy(states):
        return np.tanh(np.asarray(states, np.float32)[..., :A]) * 0.5

    class Model:
        action_space = spaces.Box(low, high)

        def predict(self, observation, state=None, episode_start=None, deterministic=True):
            return policy(observation), (state, episode_start, deterministic)

    class OfObservations:
        def predict(self, x):
            return policy(x)

    climb = {"steps": STEPS, "lr": LR}
    states = observations.astype(np.float32)
    for given, bounds in ((policy, (-1.0, 1.0)), (OfObservations(), (-1.0, 1.0)), (Model(), (low, high))):
        predictor = RefinedPredictor(given, critic.critic, **climb)
        many, passed = predictor.predict(observations, "s", np.ones(6, bool), False)
        expected = refine(critic.critic, states, policy(states), bounds=bounds, **climb)
        np.testing.assert_allclose(many, expected, rtol=1e-5, atol=1e-5)
        one, _ = predictor.predict(observations[1])
        assert one.shape == (A,)
        np.testing.assert_allclose(one, expected[1], rtol=1e-4, atol=1e-5)
        if not isinstance(given, Model):
            assert passed == "s"
        else:
            assert passed[0] == "s" and passed[1].all() and passed[2] is False
    other = RefinedPredictor(Model(), critic.critic, bounds=(-0.1, 0.1), **climb).predict(observations)[0]
    assert np.abs(other).max() <= np.float32(0.1)


def test_bounds_of_a_foreign_critic():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        member = mlp_layers(S + A, (16,), 1)
    bounds = np.array([-3.0, -0.2], np.float32), np.array([3.0, 0.2], np.float32)
    critic = ForeignCritic([member], "by hand", S, A, bounds=bounds)
    predictor = RefinedPredictor(lambda s: np.zeros((len(s), A), np.float32), critic, steps=40, lr=9.0)
    actions, _ = predictor.predict(np.random.default_rng(1).normal(size=(20, S)))
    assert (actions >= bounds[0]).all() and (actions <= bounds[1]).all() and np.abs(actions[:, 0]).max() > 1


def test_observations_of_a_normalizer_are_put_back():
    class Normalizer:
        def unnormalize_obs(self, observation):
            return observation * 3.0 + 1.0

    critic, raw = critic_of(), np.random.default_rng(0).normal(size=(6, S))
    seen = (raw - 1.0) / 3.0
    actions = np.zeros((6, A), np.float32)
    climb = {"steps": STEPS, "lr": LR}
    expected = refine(critic.critic, raw.astype(np.float32), actions, **climb)
    predictor = RefinedPredictor(lambda s: actions, critic, normalizer=Normalizer(), **climb)
    np.testing.assert_allclose(predictor.predict(seen)[0], expected, rtol=1e-4, atol=1e-5)
    own = PolicyPredictor(policy_of("bc"), normalizer=Normalizer())
    np.testing.assert_allclose(
        own.predict(seen)[0], PolicyPredictor(policy_of("bc")).predict(raw)[0], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="has its own; give it there"):
        RefinedPredictor(own, critic, normalizer=Normalizer())


def test_the_state_is_good_for_the_next_call_alone():
    venv = Venv([RecordRewards(Arm()) for _ in range(2)])
    predictor, starts = PolicyPredictor(policy_of(), rewards=venv), np.ones(2, bool)
    observations = venv.reset([0, 1])
    with pytest.raises(ValueError, match="episode_start: expected"):
        predictor.predict(observations)
    with pytest.raises(ValueError, match=r"state: .*episode 1 goes on"):
        predictor.predict(observations, None, [True, False])
    with pytest.raises(ValueError, match=r"episode_start: expected \(2,\)"):
        predictor.predict(observations, None, np.ones(3, bool))
    actions, state = predictor.predict(observations, None, starts)
    observations, _, over = venv.step(actions)
    _, later = predictor.predict(observations, state, over)
    with pytest.raises(ValueError, match="expected that of the last predict, number 2, got that of number 1"):
        predictor.predict(observations, state, over)
    with pytest.raises(ValueError, match=r"environment 0 has made 1 steps of its episode, .* for 2 actions"):
        predictor.predict(observations, later, over)
    with pytest.raises(ValueError, match="state: expected what the last predict gave, got tuple"):
        predictor.predict(observations, (1,), over)
    with pytest.raises(ValueError, match="expected those of 2 episodes"):
        predictor.predict(observations[:1], later, over[:1])
    with pytest.raises(ValueError, match="deterministic: expected True"):
        predictor.predict(observations, None, starts, deterministic=False)
    with pytest.raises(ValueError, match=r"S = 3 as in the training data, got shape \(2, 4\)"):
        predictor.predict(np.zeros((2, 4)), None, starts)


@pytest.mark.parametrize(
    ("error", "sentence", "make"),
    [
        (ValueError, "wrap each environment in RecordRewards", lambda: PolicyPredictor(policy_of())),
        (
            ValueError,
            "does not ask for them",
            lambda: PolicyPredictor(policy_of("bc"), rewards=RecordRewards(Arm())),
        ),
        (
            ValueError,
            "with a RecordRewards around each",
            lambda: PolicyPredictor(policy_of(), rewards=Arm()),
        ),
        (TypeError, "rewards: expected an environment", lambda: PolicyPredictor(policy_of(), rewards=3)),
        (
            ValueError,
            "has several, 1, 2; choose one",
            lambda: PolicyPredictor(policy_of(target_returns=[1.0, 2.0]), rewards=RecordRewards(Arm())),
        ),
        (
            ValueError,
            "expected finite numbers",
            lambda: PolicyPredictor(policy_of(), target_return=np.nan, rewards=RecordRewards(Arm())),
        ),
        (
            ValueError,
            "predicts the returns it acts on",
            lambda: PolicyPredictor(policy_of("reinformer"), target_return=3.0),
        ),
        (TypeError, "policy: expected a LoadedPolicy", lambda: PolicyPredictor(policy_of().model)),
        (TypeError, "policy: expected an object with predict", lambda: RefinedPredictor(3, critic_of())),
        (TypeError, "critic: expected one beside a policy", lambda: RefinedPredictor(policy_of("bc"))),
        (
            ValueError,
            "these are discrete",
            lambda: RefinedPredictor(policy_of("bc", discrete_actions={"n": 2, "start": 0}), critic_of()),
        ),
        (
            ValueError,
            'expected a VecNormalize, "policy" or None',
            lambda: RefinedPredictor(lambda s: s, critic_of(), normalizer="env"),
        ),
        (
            TypeError,
            "env: expected one environment of Gymnasium",
            lambda: RefineActions(Venv([Arm()]), critic_of()),
        ),
        (
            ValueError,
            "expected actions of a Box",
            lambda: RefineActions(gymnasium.make("CartPole-v1"), critic_of()),
        ),
        (
            ValueError,
            "expected reset before step",
            lambda: RefineActions(Arm(), critic_of()).step(np.zeros(A)),
        ),
        (TypeError, "expected options among", lambda: RefineActions(Arm(), critic_of(), speed=3)),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(error, sentence, make):
    with pytest.raises(error, match=sentence):
        make()


@pytest.mark.parametrize("goal", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_environment_refines_each_action_at_the_state_last_seen(goal, dtype):
    critic, rng = critic_of().critic, np.random.default_rng(0)
    env, plain = RefineActions(Arm(goal), critic, steps=STEPS, lr=LR), Arm(goal)
    observation, _ = env.reset(seed=4)
    plain.reset(seed=4)
    over, moved = False, 0.0
    while not over:
        given = rng.uniform(-1, 1, A).astype(dtype)
        state = observation
        if goal:
            state = np.concatenate([observation["observation"], observation["desired_goal"]])
        expected = refine(critic, state.astype(np.float32), given.astype(np.float32), steps=STEPS, lr=LR)
        if not goal:
            observation[:] = 0  # who acts may do so
        observation, reward, over, _, info = env.step(given)
        np.testing.assert_allclose(info["executed_action"], expected, rtol=1e-6, atol=1e-6)
        assert info["t"] == plain.t + 1
        assert reward == pytest.approx(plain.step(info["executed_action"])[1])
        moved = max(moved, np.abs(info["executed_action"] - given).max())
    assert moved > 1e-2


def test_goal_observations_without_an_observation_need_keys():
    env = Arm(goal=True)
    env.observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (S,))})
    with pytest.raises(ValueError, match=r"expected entries of the Dict observation \(a\)"):
        RefineActions(env, critic_of())
    critic = critic_of(2, A).critic
    chosen = RefineActions(Arm(goal=True), critic, observation_keys=["achieved_goal", "desired_goal"])
    observation, _ = chosen.reset(seed=1)
    state = np.concatenate([observation["achieved_goal"], observation["desired_goal"]]).astype(np.float32)
    executed = chosen.step(np.zeros(A))[-1]["executed_action"]
    np.testing.assert_allclose(executed, refine(critic, state, np.zeros(A, np.float32)), rtol=1e-6, atol=1e-6)


def test_rewards_of_a_gymnasium_vector_and_of_wrapped_environments():
    venv = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.wrappers.TimeLimit(RecordRewards(Arm()), 50)] * 2
    )
    predictor = PolicyPredictor(policy_of(), rewards=venv)
    observations, _ = venv.reset(seed=[1, 2])
    actions, state = predictor.predict(observations, None, np.ones(2, bool))
    observations, *_ = venv.step(actions)
    second, _ = predictor.predict(observations, state, np.zeros(2, bool))
    for i, seed in enumerate((1, 2)):
        expected = reference(policy_of(), seed).actions
        np.testing.assert_allclose([actions[i], second[i]], expected[:2], rtol=1e-4, atol=1e-4)


# --- in Stable-Baselines3's own loop


def pendulum():
    return gymnasium.make("Pendulum-v1", max_episode_steps=25)


def pendulum_policy(kind):
    return policy_of(
        kind, 3, 1, action_low=[-2.0], action_high=[2.0], target_returns=[-100.0] * (kind == "dt")
    )


@pytest.mark.parametrize(
    ("kind", "envs"),
    [
        ("dt", "one"),
        ("dt", "vector"),
        ("dt", "processes"),
        ("dt", "normalised"),
        ("reinformer", "vector"),
        ("reinformer", "normalised"),
    ],
)
def test_evaluate_policy_with_a_sequence_policy(kind, envs):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

    policy, critic, normalizer = pendulum_policy(kind), critic_of(3, 1), None
    if envs == "one":
        env = RecordRewards(Monitor(pendulum()))
        env.reset(seed=11)  # evaluate_policy seeds nothing; its own reset goes on from here
        seeds = None
    else:
        kwargs = {"vec_env_cls": SubprocVecEnv} if envs == "processes" else {}
        count = 2 if envs == "processes" else 3
        env = make_vec_env(pendulum, count, seed=11, wrapper_class=RecordRewards, **kwargs)
        seeds = [11 + i for i in range(count)]
    if envs == "normalised":
        env = normalizer = VecNormalize(env, training=False, clip_obs=1e9)
        normalizer.obs_rms.mean, normalizer.obs_rms.var = np.full(3, 0.2), np.full(3, 4.0)
    rewards = env if kind == "dt" else None
    predictor = RefinedPredictor(
        PolicyPredictor(policy, rewards=rewards, normalizer=normalizer), critic, steps=STEPS, lr=LR
    )
    episodes = len(seeds or [1])
    try:
        returns, lengths = evaluate_policy(predictor, env, episodes, return_episode_rewards=True)
    finally:
        env.close()
    improve = autograd_action_gradient(critic.critic, STEPS, LR, -2.0, 2.0)
    target = -100.0 if kind == "dt" else None
    if seeds is None:
        start = pendulum()
        start.reset(seed=11)

        class GoesOn(gymnasium.Wrapper):
            def reset(self, **options):
                return self.env.reset()

        expected = [play_episode(policy.model, GoesOn(start), 0, target, improve).episode_return]
    else:
        expected = [
            play_episode(policy.model, pendulum(), seed, target, improve).episode_return for seed in seeds
        ]
    assert lengths == [25] * episodes
    np.testing.assert_allclose(sorted(returns), sorted(expected), rtol=1e-3)


def test_evaluate_policy_over_many_episodes_of_unequal_number():
    """Environments that are done are stepped on by evaluate_policy: nothing of them is counted or refused."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv

    policy = policy_of()
    venv = DummyVecEnv([lambda: RecordRewards(Arm())] * 3)
    venv.seed(0)
    predictor = PolicyPredictor(policy, rewards=venv)
    returns, lengths = evaluate_policy(predictor, venv, 7, warn=False, return_episode_rewards=True)
    seeds = [0, 1, 2, 100, 101, 102, 202]  # the last environment has three episodes
    expected = [reference(policy, seed) for seed in seeds]
    assert sorted(lengths) == sorted(len(trace.rewards) for trace in expected)
    np.testing.assert_allclose(sorted(returns), sorted(t.episode_return for t in expected), rtol=1e-3)


@pytest.mark.parametrize("name", ["SAC", "TQC"])
def test_evaluate_policy_with_a_model_and_its_own_critic(tmp_path, name):
    library = pytest.importorskip("sb3_contrib" if name == "TQC" else "stable_baselines3")
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    kwargs = {"policy_kwargs": {"net_arch": [16, 16]}, "buffer_size": 99, "seed": 0}
    model = getattr(library, name)("MlpPolicy", pendulum(), **kwargs)
    model.save(tmp_path / "model.zip")
    climb = {"steps": 6, "lr": 3.0}
    critic, env = load_critic(model), pendulum()
    predictor = RefinedPredictor(model, **climb)
    observations = np.stack([env.reset(seed=seed)[0] for seed in range(5)])
    plain, _ = model.predict(observations, deterministic=True)
    expected = refine(critic, observations, plain, bounds=env.action_space, **climb)
    np.testing.assert_array_equal(predictor.predict(observations)[0], expected)
    assert np.abs(expected - plain).max() > 1e-2
    one, state = predictor.predict(observations[2])
    assert one.shape == (1,) and state is None
    np.testing.assert_allclose(one, expected[2], rtol=1e-4, atol=1e-5)
    by_file = RefinedPredictor(model, tmp_path / "model.zip", **climb)
    np.testing.assert_allclose(by_file.predict(observations)[0], expected, rtol=1e-5, atol=1e-6)
    by_module = RefinedPredictor(model, model.critic, **climb)
    np.testing.assert_array_equal(by_module.predict(observations)[0], expected)
    both = RefinedPredictor(model, [model.critic, critic], **climb)
    np.testing.assert_allclose(both.predict(observations)[0], expected, rtol=1e-5, atol=1e-6)
    assert predictor.action_gradient.explain().backend == "cpu"

    def by_hand(seed):
        total, over, observation = 0.0, False, env.reset(seed=seed)[0]
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            action = refine(critic, observation, action, bounds=env.action_space, **climb)
            observation, reward, _, over, _ = env.step(action)
            total += float(reward)
        return total

    class Seeded(gymnasium.Wrapper):
        def reset(self, **options):
            return self.env.reset(seed=3)

    mean, std = evaluate_policy(predictor, Monitor(Seeded(pendulum())), 2)
    assert mean == pytest.approx(by_hand(3), rel=1e-4) and std < 1e-3
    refining = RefineActions(Seeded(pendulum()), model, **climb)
    mean, _ = evaluate_policy(model, refining, 1, warn=False)
    assert mean == pytest.approx(by_hand(3), rel=1e-4)


def test_a_model_trained_on_normalised_observations(tmp_path):
    library = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    venv = VecNormalize(make_vec_env(pendulum, 2, seed=0), clip_obs=1e9)
    kwargs = {"policy_kwargs": {"net_arch": [16, 16]}, "buffer_size": 99, "seed": 0, "learning_starts": 30}
    model = library.TD3("MlpPolicy", venv, **kwargs).learn(60)
    venv.training = False
    seen = venv.reset()
    raw = venv.get_original_obs()
    plain, _ = model.predict(seen, deterministic=True)
    climb = {"steps": 6, "lr": 3.0}
    with torch.no_grad():  # the library's own Q of normalised observations and scaled actions
        q = torch.cat(model.critic(torch.tensor(seen), torch.tensor(plain / 2)), -1)
        critic = load_critic(model)
        torch.testing.assert_close(
            torch.cat(critic(torch.tensor(raw), torch.tensor(plain)), -1), q, rtol=1e-4, atol=1e-5
        )
    expected = refine(critic, raw, plain, bounds=(-2.0, 2.0), **climb)
    predictor = RefinedPredictor(model, **climb)
    np.testing.assert_allclose(predictor.predict(seen)[0], expected, rtol=1e-3, atol=1e-3)
    assert np.abs(expected - plain).max() > 1e-2
    assert np.isfinite(evaluate_policy(predictor, venv, 2)[0])
    model.save(tmp_path / "model.zip")
    loaded = library.TD3.load(tmp_path / "model.zip")  # knows no VecNormalize
    for given, options in ((None, {}), (None, {"normalizer": venv}), (critic, {"normalizer": venv})):
        predictor = RefinedPredictor(loaded, given, **climb, **options)
        np.testing.assert_allclose(predictor.predict(seen)[0], expected, rtol=1e-3, atol=1e-3)


def test_the_examples_of_the_documentation(tmp_path, monkeypatch, capsys):
    """The page's Python, in its order, with less training and fewer episodes."""
    pytest.importorskip("stable_baselines3")
    page = Path(__file__).parents[2] / "docs" / "interop" / "stable-baselines3.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    bounds = {"action_low": [-2.0], "action_high": [2.0]}
    for name, stem, (module, info) in (
        ("dt", "model", policy_of("dt", 3, 1, **bounds)),
        ("iql", "critic", critic_of(3, 1, **bounds)),
    ):
        save_checkpoint(tmp_path / "runs" / name, info, {stem: module}, {})
    names = {}
    for block in blocks:
        shorter = block.replace("learn(5_000)", "learn(120)").replace(
            "n_eval_episodes=20", "n_eval_episodes=1"
        )
        exec(compile(shorter, str(page), "exec"), names)
    assert len(blocks) == 5 and re.search(r"plain -\d+, refined -\d+", capsys.readouterr().out)
    first = gymnasium.make("Pendulum-v1").reset(seed=0)[0]
    plain = names["model"].predict(first, deterministic=True)[0]
    q_0, q_best = (
        min(q.item() for q in names["critic"](torch.tensor(first), torch.tensor(action)))
        for action in (plain, names["better"])
    )
    assert names["better"].shape == (1,) and q_best >= q_0
    states = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)), dtype=torch.float32)
    actions = torch.linspace(-2, 2, 5)[:, None]
    for mine, theirs in zip(
        names["of_model"](states, actions), names["of_file"](states, actions), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert np.isfinite([*names["plain"], *names["refined"]]).all()
