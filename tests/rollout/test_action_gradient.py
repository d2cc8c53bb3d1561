"""ActionGradient around policies as foreign evaluation loops hold them, in real environments."""

import copy
import pickle
from collections import namedtuple

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from dtag_fast import Prior, Refiner, refine
from dtag_fast.models import BehaviourModel, TwinCritic
from dtag_fast.rollout import ActionGradient, AGSetting, Behaviour, SequencePolicy, evaluate
from dtag_fast.training import LoadedCritic, RunInfo
from dtag_fast.training.checkpoint import save_checkpoint

OPTIONS = {"steps": 5, "lr": 0.3}


class Actor(nn.Module):
    """A reactive policy as a module: tanh of a linear layer."""

    def __init__(self, state_dim=3, action_dim=1, scale=1.0):
        super().__init__()
        self.layer, self.scale = nn.Linear(state_dim, action_dim), scale

    def forward(self, states):
        return self.scale * torch.tanh(self.layer(states))


class Model:
    """As stable-baselines3's: not callable, `predict(observation, state, episode_start, deterministic)`."""

    def __init__(self, env, actor):
        self.policy, self.action_space, self.resets = actor, env.action_space, 0

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        with torch.no_grad():
            action = self.policy(torch.as_tensor(observation)).numpy()
        return np.clip(action, self.action_space.low, self.action_space.high), state

    def reset(self):
        self.resets += 1


class OriginalDT(nn.Module):
    """The interface of the original Decision Transformer: (T, .) in, the action (A,) of the last step out."""

    def __init__(self, state_dim=3, action_dim=2):
        super().__init__()
        self.head = nn.Linear(state_dim, action_dim)

    def get_action(self, states, actions, rewards, returns_to_go, timesteps, **kwargs):
        return torch.tanh(self.head(states.reshape(1, -1, states.shape[-1])))[0, -1]

    def forward(self, states, actions, returns_to_go, time_steps):
        return torch.tanh(self.head(states))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def twin(state_dim=3, action_dim=1):
    return TwinCritic(state_dim, action_dim, hidden=(16, 16)).eval()


def q_of(critic, states, actions):
    with torch.no_grad():
        return torch.cat(critic(torch.as_tensor(states)[None], torch.as_tensor(actions)[None]), -1).min()


def info_of(state_dim, action_dim, **more):
    known = {
        "algorithm": "iql", "kind": "critic", "step": 3, "seed": 0,
        "state_dim": state_dim, "action_dim": action_dim,
        "state_mean": [0.0] * state_dim, "state_std": [1.0] * state_dim,
        "action_low": [-0.5] * action_dim, "action_high": [0.5] * action_dim, "best_return": 0.0,
    }  # fmt: skip
    return RunInfo(**(known | more))


def test_a_loop_over_a_model_with_predict_plays_refined_actions():
    """The loop is untouched; the bounds are the model's own action space, (-2, 2)."""
    env, critic = gymnasium.make("Pendulum-v1"), twin()
    plain = Model(env, Actor(scale=2.0))
    model = ActionGradient(plain, critic, **OPTIONS)
    moved = 0.0
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        model.reset()
        for _ in range(20):
            usual, _ = plain.predict(observation, deterministic=True)
            action, state = model.predict(observation, deterministic=True)
            assert state is None and type(action) is np.ndarray
            assert (action.shape, action.dtype) == (usual.shape, usual.dtype)
            assert np.array_equal(
                action, refine(critic, observation, usual, bounds=env.action_space, **OPTIONS)
            )
            assert q_of(critic, observation, action) >= q_of(critic, observation, usual)
            moved += float(np.abs(action - usual).max())
            observation, *_ = env.step(action)
    assert moved > 0.1 and plain.resets == 2 and model.policy is plain.policy


def test_vector_environments_are_one_batch():
    envs = gymnasium.make_vec("Pendulum-v1", num_envs=3)
    critic, plain = twin(), Model(envs, Actor(scale=2.0))
    plain.action_space = envs.single_action_space
    observations, _ = envs.reset(seed=0)
    usual, _ = plain.predict(observations, deterministic=True)
    refined, _ = ActionGradient(plain, critic, **OPTIONS).predict(observations, deterministic=True)
    rows = [
        refine(critic, o, a, bounds=(-2.0, 2.0), **OPTIONS) for o, a in zip(observations, usual, strict=True)
    ]
    assert refined.shape == (3, 1) and np.allclose(refined, rows, atol=1e-5)
    envs.close()


@pytest.mark.parametrize("method", ["__call__", "act", "select_action"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_the_action_keeps_type_shape_and_dtype(method, dtype, shape):
    numpy = not isinstance(dtype, torch.dtype)
    state = np.random.default_rng(0).normal(size=(*shape, 3)).astype(dtype if numpy else np.float32)
    usual = np.full((*shape, 2), 0.25, dtype) if numpy else torch.full((*shape, 2), 0.25, dtype=dtype)

    class Policy:
        def act(self, observation):
            return usual

        __call__ = select_action = act

    critic = twin(3, 2)
    found = getattr(ActionGradient(Policy(), critic, **OPTIONS), method)(state)
    assert type(found) is type(usual) and found.shape == usual.shape and found.dtype == usual.dtype
    assert bool((found != usual).any())
    # States of a torch policy may be NumPy and the other way round.
    other = torch.from_numpy(state) if numpy else state
    again = ActionGradient(lambda s: usual, critic, **OPTIONS)(other)
    assert bool((again == found).all())
    assert bool((ActionGradient(Policy(), critic, steps=0)(state) == usual).all())


def test_the_original_decision_transformers_loop():
    """States grow row by row and are standardised by the loop; the critic is given raw ones."""
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.5, 3.0])
    model, critic = OriginalDT().eval(), twin(3, 2)
    policy = ActionGradient(model, critic, state_mean=mean.numpy(), state_std=std, **OPTIONS)
    states, context = torch.zeros(0, 3), [torch.zeros(1)] * 4
    for _ in range(4):
        raw = torch.randn(1, 3)
        states = torch.cat([states, (raw - mean) / std])
        with torch.no_grad():
            usual = model.get_action(states, *context)
            action = policy.get_action(states, *context)
            by_name = policy.get_action(
                states=states, actions=None, rewards=None, returns_to_go=None, timesteps=None
            )
            batched = policy.get_action(states[None], *context)
        expected = refine(critic, raw[0], usual, **OPTIONS)
        assert action.shape == (2,) and torch.allclose(action, expected, atol=1e-5)
        assert not torch.equal(action, usual)
        assert torch.equal(by_name, action) and torch.equal(batched, action)


def test_of_a_sequence_of_actions_the_last_is_refined():
    model, critic = OriginalDT().eval(), twin(3, 2)
    states = torch.randn(2, 5, 3)
    policy = ActionGradient(model, critic, **OPTIONS)
    with torch.no_grad():
        usual = model(states=states, actions=None, returns_to_go=None, time_steps=None)
        found = policy(states=states, actions=None, returns_to_go=None, time_steps=None)
    assert torch.equal(found[:, :-1], usual[:, :-1])
    assert torch.equal(found[:, -1], refine(critic, states[:, -1], usual[:, -1], **OPTIONS))


def test_goal_environments_give_dicts():
    """A real PointMaze; keys by name, or those of a LoadedCritic, with its bounds."""
    robotics = pytest.importorskip("gymnasium_robotics")
    gymnasium.register_envs(robotics)
    env = gymnasium.make("PointMaze_UMaze-v3")
    keys = ["observation", "desired_goal"]
    critic, usual = twin(6, 2), np.array([0.3, -0.3])
    named = ActionGradient(lambda o: usual, critic, observation_keys=keys, bounds=(-0.5, 0.5), **OPTIONS)
    loaded = LoadedCritic(critic, info_of(6, 2, observation_keys=keys))
    known = ActionGradient(lambda o: usual, loaded, **OPTIONS)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        flat = np.concatenate([observation[key] for key in keys]).astype(np.float32)
        expected = refine(critic, flat, usual, bounds=(-0.5, 0.5), **OPTIONS)
        assert np.array_equal(named(observation), expected) and np.array_equal(known(observation), expected)
        assert np.array_equal(known(flat), expected)  # a loop may flatten it in that order
        tensors = {key: torch.as_tensor(value)[None].float() for key, value in observation.items()}
        assert np.array_equal(known(tensors), expected)
        observation, *_ = env.step(known(observation))
    with pytest.raises(
        ValueError, match=r"observation_keys: .*\(observation, achieved_goal, desired_goal\), got none"
    ):
        ActionGradient(lambda o: usual, critic, **OPTIONS)(observation)
    env.close()


def test_a_folder_is_loaded_with_its_bounds_and_normalisation(tmp_path):
    critic = TwinCritic(3, 2, hidden=(8,), state_mean=torch.ones(3), state_std=torch.full((3,), 2.0)).eval()
    run = tmp_path / "critic"
    save_checkpoint(run, info_of(3, 2), {"critic": critic}, {})
    state, usual = np.array([0.5, -1.0, 2.0], np.float32), np.array([0.4, -0.4], np.float32)
    for folder in (run, str(run / "checkpoints" / "3")):
        policy = ActionGradient(lambda s: usual, folder, steps=20, lr=1.0)
        expected = refine(critic, state, usual, bounds=(-0.5, 0.5), steps=20, lr=1.0)
        assert np.array_equal(policy(state), expected) and np.abs(expected).max() <= 0.5
    assert policy.explain().backend == "cpu"  # known before the first call
    with pytest.raises(
        ValueError, match="observation: expected 3 numbers as in the critic's training data, got 4"
    ):
        policy(np.zeros(4, np.float32))
    with pytest.raises(
        ValueError, match="actions: expected 2 numbers as in the critic's training data, got 1"
    ):
        ActionGradient(lambda s: usual[:1], run)(state)
    with pytest.raises(FileNotFoundError, match="expected a run or a checkpoint folder"):
        ActionGradient(lambda s: usual, tmp_path / "absent")


def test_all_else_is_the_policys_own():
    actor = Actor(3, 2)
    policy = ActionGradient(actor, twin(3, 2), **OPTIONS)
    assert policy.eval() is policy and not actor.training  # a module's eval() returns the module
    assert policy.to("cpu") is policy and policy.scale == 1.0
    policy.scale = 0.5
    assert actor.scale == 0.5 and len(list(policy.parameters())) == 2
    with pytest.raises(AttributeError, match="predict"):
        policy.predict(np.zeros(3))
    action = policy(torch.ones(3))
    for twice in (copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert torch.equal(twice(torch.ones(3)), action) and twice.scale == 0.5


def test_results_with_more_than_the_action_keep_the_rest():
    Found = namedtuple("Found", ["action", "log_prob"])
    usual, state = torch.tensor([[0.2, 0.1]]), torch.ones(1, 3)
    policy = ActionGradient(lambda s: Found(usual, "kept"), twin(3, 2), **OPTIONS)
    found = policy(state)
    assert isinstance(found, Found) and found.log_prob == "kept"
    assert torch.equal(found.action, policy.refine(state, usual)) and not torch.equal(found.action, usual)


def test_explain_names_the_backend_of_the_last_call():
    policy = ActionGradient(lambda s: torch.zeros(len(s), 2), twin(3, 2), **OPTIONS)
    with pytest.raises(ValueError, match="explain: the critic's dimensions are not known yet"):
        policy.explain()
    policy(torch.ones(7, 3))
    assert str(policy.explain()).startswith("backend cpu") and "3 + 2 -> 16 relu" in str(policy.explain())
    assert isinstance(policy.refiner, Refiner)


def test_a_critic_elsewhere_gets_the_actions_and_gives_them_back():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    critic, usual, state = twin(3, 2), np.full((4, 2), 0.1, "f4"), np.ones((4, 3), "f4")
    here = ActionGradient(lambda s: usual, critic, **OPTIONS)(state)
    there = ActionGradient(lambda s: usual, copy.deepcopy(critic).cuda(), **OPTIONS)(state)
    assert type(there) is np.ndarray and np.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize(
    ("action", "state", "error", "message"),
    [
        (1, (3,), TypeError, r"Action Gradient climbs a critic over continuous .* discrete action 1"),
        (np.int64(1), (3,), TypeError, r"Action Gradient climbs a critic over continuous .* discrete action"),
        (np.array([1, 0]), (2, 3), TypeError, r"actions: .* int64.*unless they are discrete"),
        ([0.1, 0.2], (3,), TypeError, "actions: expected a torch tensor or a NumPy array, got list"),
        (np.zeros(2, "f4"), (4,), ValueError, r"critic: TwinCritic failed on states \(B, 4\) and actions"),
        (
            np.zeros(2, "f4"),
            (5, 3),
            ValueError,
            r"observation: expected shape .* got \(5, 3\) for actions \(2,\)",
        ),
        (np.zeros((4, 2), "f4"), (5, 3), ValueError, r"observation: expected shape .*use .refine"),
        (np.zeros(2, "f4"), (8, 8, 3), ValueError, r"observation: expected shape .*history"),
        (np.full(2, 1.5, "f4"), (3,), ValueError, r"default bounds are \(-1, 1\), got actions from 1.5"),
    ],
)
def test_what_cannot_be_refined_is_one_sentence(action, state, error, message):
    policy = ActionGradient(lambda s: action, twin(3, 2), **OPTIONS)
    with pytest.raises(error, match=message):
        policy(np.zeros(state, np.float32))


@pytest.mark.parametrize(
    ("observation", "keys", "message"),
    [
        ((np.zeros(3, "f4"), {}), None, r"got a tuple of ndarray, dict; of env.reset\(\) and env.step\(\)"),
        (
            {"state": np.zeros(3, "f4")},
            "state",
            r"observation_keys: expected a sequence .* give \('state',\)",
        ),
        (None, None, "observation: expected an array, a tensor or a Dict of them, got NoneType"),
        (["fast"], None, "observation: expected numbers, got an array of type"),
    ],
)
def test_what_is_no_observation_is_one_sentence(observation, keys, message):
    policy = ActionGradient(lambda s: np.zeros(2, "f4"), twin(3, 2), observation_keys=keys, **OPTIONS)
    with pytest.raises(TypeError, match=message):
        policy(observation)


def test_what_cannot_be_wrapped_is_refused_at_once():
    critic = twin(4, 1)
    cartpole = Model(gymnasium.make("CartPole-v1"), None)
    with pytest.raises(
        ValueError, match=r"policy: Action Gradient climbs .* this policy's are Discrete\(2\)"
    ):
        ActionGradient(cartpole, critic)
    discrete = LoadedCritic(critic, info_of(4, 2, action_low=[], action_high=[], discrete_actions={"n": 2}))
    with pytest.raises(ValueError, match=r"critic: Action Gradient .* trained on discrete ones"):
        ActionGradient(lambda s: s, discrete)
    with pytest.raises(TypeError, match="policy: expected a callable or an object with predict, act"):
        ActionGradient(3, critic)
    with pytest.raises(TypeError, match=r"critic: expected an nn.Module"):
        ActionGradient(lambda s: s, lambda s, a: s)
    with pytest.raises(TypeError, match="return_info: a policy gives actions alone"):
        ActionGradient(lambda s: s, critic, return_info=True)
    with pytest.raises(TypeError, match="step: expected options among steps, lr, "):
        ActionGradient(lambda s: s, critic, step=1)
    with pytest.raises(ValueError, match="steps: expected an integer in 0"):
        ActionGradient(lambda s: s, critic, steps=-1)
    with pytest.raises(ValueError, match="state_mean, state_std: expected both or none"):
        ActionGradient(lambda s: s, critic, state_mean=[0.0])
    with pytest.raises(
        ValueError, match="state_mean, state_std: expected finite numbers, deviations above 0"
    ):
        ActionGradient(lambda s: s, critic, state_mean=[0.0], state_std=[0.0])
    with pytest.raises(ValueError, match="state_mean: expected one number for each of the observation's 4"):
        policy = ActionGradient(lambda s: s[:1], critic, state_mean=[0.0], state_std=[1.0])
        policy(np.zeros(4, np.float32))
    model = ActionGradient(Model(gymnasium.make("Pendulum-v1"), Actor()), twin())
    with pytest.raises(TypeError, match=r"policy: Model cannot be called itself; use its .predict"):
        model(np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="observation: expected as the first argument of predict"):
        ActionGradient(OddModel(), critic).predict(x=1)


class OddModel:
    def predict(self, x):
        return np.zeros(1)


@pytest.mark.parametrize("ag_steps", [0, 4])
def test_a_loop_around_our_own_sequence_policy_plays_what_evaluate_plays(policy, critic, new_env, ag_steps):
    """Reset and record go to the policy, the refined action enters its history."""
    target = 50.0 if policy.model.takes_target_return else None
    setting = AGSetting(ag_steps, lr=0.3)
    expected = evaluate(policy, critic=critic, settings=[setting], episodes=4, workers=1).settings[0].returns
    actor = ActionGradient(SequencePolicy(policy.model, 1, target), critic, steps=ag_steps, lr=0.3)
    env, active, found = new_env(), np.ones(1, bool), []
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        actor.reset(active, target)
        total, over = 0.0, False
        while not over:
            action = actor.act(observation[None], active)
            observation, reward, terminated, truncated, _ = env.step(action[0])
            actor.record(action, np.array([reward]), active)
            total, over = total + reward, terminated or truncated
        found.append(total)
    assert np.allclose(found, expected, rtol=1e-5)


def test_the_policy_may_be_held_to_a_prior():
    critic, observation, action = TwinCritic(3, 1), np.ones(3, np.float32), np.float32([0.5])
    refined = ActionGradient(lambda o: action, critic, prior=Prior(-0.2, 2.0), **OPTIONS)
    expected = refine(critic, observation, action, prior=Prior(-0.2, 2.0), **OPTIONS)
    for _ in range(3):
        assert np.array_equal(refined(observation), expected)
    assert not np.array_equal(refine(critic, observation, action, **OPTIONS), expected)


def test_the_policy_may_be_held_to_the_behaviour_of_the_data():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        critic, behaviour = TwinCritic(3, 2), BehaviourModel(3, 2).eval().requires_grad_(False)
    states, actions = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    actions = np.clip(actions[:, :2], -1, 1)
    refined = ActionGradient(
        lambda o: actions, critic, behaviour=behaviour, regularisation=Behaviour(0.3, 0.5)
    )
    options = behaviour.options(torch.from_numpy(states), weight=0.3, radius=0.5)
    expected = refine(critic, states, actions, **options)
    assert np.array_equal(refined(states), expected) and not np.array_equal(expected, actions)
    with pytest.raises(ValueError, match="behaviour: stands in place of lr; leave lr out"):
        ActionGradient(lambda o: actions, critic, behaviour=behaviour, lr=0.1)
