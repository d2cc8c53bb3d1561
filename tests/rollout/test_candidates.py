"""Candidates for different returns: which are made, which is taken, and that an episode's are its own."""

import numpy as np
import pytest
import torch
from rounding import blas_rounds_rows_alike

from dtag_fast.models.candidates import actions_for_returns
from dtag_fast.rollout import AGSetting, Candidates, SequencePolicy, evaluate
from dtag_fast.rollout.candidates import draws, pick
from dtag_fast.rollout.captured import why_not_captured
from dtag_fast.rollout.reference import autograd_action_gradient

CONDITIONED = ("dt", "dt-original", "odt")
NOISE = 3.0


@pytest.fixture(params=CONDITIONED)
def policy(request, make_policy):
    """Untrained, its actions far from tanh's ends and moved by the return: candidates that hardly differ in Q
    would be told apart by their rounding."""
    policy = make_policy(request.param)
    model = policy.model
    model.action_head.weight.data.mul_(0.2)
    if model.config.norm == "pre":
        for block in model.transformer.blocks:
            block.attention.qkv.weight.data.mul_(5)
            block.attention.out.weight.data.mul_(5)
    return policy


def min_q(critic, states, actions) -> np.ndarray:
    with torch.no_grad():
        members = critic.critic(torch.as_tensor(states), torch.as_tensor(actions))
        return torch.cat(members, dim=-1).amin(dim=-1).numpy()


def literal_episode(policy, critic, env, seed, setting, improve=None):
    """The published loop: a window for each candidate, all of it run again. Returns the executed actions and
    the positions of the chosen candidates."""
    model, info = policy.model, policy.info
    k, scale, rng = model.config.context_len, model.config.return_scale, draws(seed)
    wanted, over = 50.0 / scale, False
    states, actions, returns, taken = [], [], [], []
    reward = 0.0
    state, _ = env.reset(seed=seed)
    while not over:
        states.append(np.float32(state))
        actions.append(np.zeros(info.action_dim, np.float32))
        returns.append(wanted)
        t, m = len(states) - 1, setting.count
        asked = np.concatenate(([wanted], wanted + setting.noise * rng.standard_normal(m - 1)))
        uniform = rng.random()
        if t > 0:
            (worth,) = min_q(critic, states[-2][None], actions[-2][None])
            unit = info.reward_scale / critic.info.reward_scale
            asked[-1] = (worth * unit - reward * info.reward_scale - info.reward_shift) / scale
        length, pad = min(k, t + 1), k - min(k, t + 1)
        side = (pad, 0) if model.padding == "left" else (0, pad)
        last = k - 1 if model.padding == "left" else length - 1

        def window(rows, m=m, side=side, length=length):
            rows = np.asarray(rows, np.float32).reshape(len(rows), -1)[-length:]
            return torch.from_numpy(np.pad(rows, (side, (0, 0)))).expand(m, -1, -1).clone()

        r = window(returns)
        r[:, last, 0] = torch.from_numpy(asked)
        mask = torch.from_numpy(np.pad(np.ones(length, bool), side)).expand(m, -1)
        times = torch.from_numpy(np.pad(np.arange(t + 1 - length, t + 1), side)).expand(m, -1)
        with torch.no_grad():
            normal = torch.where(mask[..., None], model.normalize_states(window(states)), torch.tensor(0.0))
            found = model(normal, window(actions), r, times, mask).actions[:, last]
        q = min_q(critic, np.repeat(states[-1][None], m, axis=0), found)
        if setting.choice == "argmax":
            i = int(q.argmax())
        else:
            i = int(np.searchsorted(np.cumsum(np.exp(q - q.max())) / np.exp(q - q.max()).sum(), uniform))
        action = found[i : i + 1]
        if improve is not None:
            action = improve(torch.from_numpy(states[-1])[None], action)
        actions[-1] = action[0].numpy()
        taken.append(i)
        state, reward, terminated, truncated, _ = env.step(actions[-1])
        over = terminated or truncated
        wanted -= (reward * info.reward_scale + info.reward_shift) / scale
    return np.array(actions), taken


@pytest.mark.parametrize("choice", ["softmax", "argmax"])
@pytest.mark.parametrize("ag_steps", [0, 3])
def test_actions_are_those_of_the_literal_loop(policy, critic, counting, new_env, choice, ag_steps):
    setting = Candidates(5, noise=NOISE, choice=choice)
    options = {"settings": [AGSetting(ag_steps, lr=0.3)], "episodes": 12, "max_envs": 5, "workers": 1}
    result = evaluate(policy, critic=critic, candidates=setting, **options)
    played = {}
    for event in counting.CountingEnv.events:
        if event[0] == "step":
            played.setdefault(event[1], []).append(event[3])
    improve = autograd_action_gradient(critic.critic, ag_steps, 0.3, -1.0, 1.0) if ag_steps else None
    positions = set()
    for seed in result.settings[0].seeds:
        actions, taken = literal_episode(policy, critic, new_env(), seed, setting, improve)
        assert np.allclose(played[seed], actions, atol=2e-5)
        positions |= set(taken)
    assert {0, 4} <= positions or len(positions) >= 3  # the choice matters
    assert result.policy["candidates"] == {"count": 5, "noise": NOISE, "choice": choice}


@pytest.mark.parametrize("trim", [True, False])
def test_shared_histories_give_what_whole_windows_give(policy, trim):
    """Rows of different ages, a first step among them."""
    model, rng = policy.model, torch.Generator().manual_seed(0)
    k, lengths = 3, torch.tensor([1, 2, 3, 3, 1])
    columns = torch.arange(k)
    mask = columns >= k - lengths[:, None] if model.padding == "left" else columns < lengths[:, None]
    states, actions, returns = (torch.randn(5, k, n, generator=rng) * mask[..., None] for n in (3, 2, 1))
    times = (torch.arange(k).expand(5, -1) + 4) * mask
    asked = torch.randn(5, 7, generator=rng)
    found = actions_for_returns(model, states, actions, returns, times, mask, asked, trim)
    assert found.shape == (5, 7, 2)
    last = torch.full_like(lengths, k - 1) if model.padding == "left" else lengths - 1
    for m in range(7):
        alone = returns.clone()
        alone[torch.arange(5), last, 0] = asked[:, m]
        assert torch.allclose(model.act(states, actions, alone, times, mask)[0], found[:, m], atol=1e-6)
    assert (found - found[:, :1]).abs().max() > 1e-3


def test_a_backend_that_takes_no_mask_is_refused(make_policy, critic):
    policy = make_policy("dt")
    policy.model.attention = "reference"
    with pytest.raises(ValueError, match='backend: expected "sdpa" or None for a padding with masks of its'):
        evaluate(policy, critic=critic, candidates=Candidates(3), episodes=1)


def test_one_candidate_is_the_plain_policy_bit_for_bit(policy, critic):
    options = {"critic": critic, "settings": [AGSetting(), AGSetting(3)], "episodes": 9, "max_envs": 4}
    plain = evaluate(policy, **options)
    one = evaluate(policy, candidates=Candidates(1, noise=0.0), **options)
    assert [s.returns for s in plain.settings] == [s.returns for s in one.settings]
    assert plain.policy["candidates"] is None
    many = evaluate(policy, candidates=Candidates(5, noise=0.5), **options)
    assert [s.returns for s in plain.settings] != [s.returns for s in many.settings]


def test_the_best_of_more_is_no_worse_for_the_critic(policy, critic):
    """Argmax at every step, over candidates among which the plain policy's is: from the same history on."""
    rng = np.random.default_rng(0)
    plain = SequencePolicy(policy.model, 2, 50.0)
    best = SequencePolicy(policy.model, 2, 50.0, candidates=Candidates(8, NOISE, "argmax"), critic=critic)
    drawn = SequencePolicy(policy.model, 2, 50.0, candidates=Candidates(8, NOISE), critic=critic)
    active, gains, others = np.ones(2, bool), [], 0
    for _ in range(6):
        observation = rng.normal(size=(2, 3)).astype("f4")
        actions = [actor.act(observation, active) for actor in (plain, best, drawn)]
        q = [min_q(critic, observation, action) for action in actions]
        gains.append(q[1] - q[0])
        assert (q[1] >= np.maximum(q[0], q[2]) - 1e-5).all()
        others += int((q[1] > q[2] + 1e-5).sum())
        for actor in (plain, best, drawn):
            actor.record(actions[1], np.ones(2), active)
    assert np.max(gains) > 1e-3 and others > 0  # candidates differ, and softmax takes worse ones too


def test_probabilities_are_the_softmax():
    with np.errstate(divide="ignore"):
        q = np.log([[1.0, 2.0, 1.0], [0.0, 3.0, 1.0]]) + np.array([[700.0], [-700.0]])
    assert [pick(q, np.array([u, u])).tolist() for u in (0.0, 0.2, 0.3, 0.74, 0.76, 0.999999)] == [
        [0, 1],
        [0, 1],
        [1, 1],
        [1, 1],
        [2, 2],
        [2, 2],
    ]
    uniforms = np.random.default_rng(0).random(40_000)
    counts = np.bincount(pick(np.repeat(q[:1], 40_000, axis=0), uniforms), minlength=3)
    assert np.allclose(counts / 40_000, [0.25, 0.5, 0.25], atol=0.01)


def test_draws_depend_on_the_episode_alone(policy, critic):
    """As the bits of an evaluation without candidates do; see test_evaluation.py."""
    options = {"critic": critic, "candidates": Candidates(4, 0.5), "episodes": 11}
    settings = [AGSetting(), AGSetting(2, lr=0.2)]
    one = evaluate(policy, settings=settings, max_envs=1, workers=1, **options)
    many = evaluate(policy, settings=settings, max_envs=13, workers=2, **options)
    for setting, a, b in zip(settings, one.settings, many.settings, strict=True):
        alone = evaluate(policy, settings=[setting], max_envs=5, workers=1, **options).settings[0]
        if blas_rounds_rows_alike():
            assert a.returns == b.returns == alone.returns and a.mean_q_gain == b.mean_q_gain
        else:
            assert np.allclose(a.returns, b.returns, rtol=1e-5)
            assert np.allclose(a.returns, alone.returns, rtol=1e-5)


def test_rollouts_without_seeds_draw_apart(make_policy, critic):
    actor = SequencePolicy(make_policy("dt").model, 2, 50.0, candidates=Candidates(3, 0.9), critic=critic)
    observation, active = np.ones((2, 3), np.float32), np.ones(2, bool)
    steps = []
    for seed in (None, None, 7, np.array([7, 7])):
        actor.reset(active, 50.0, seed)
        steps.append([actor.candidates._returns(actor.begin(observation, active))[0]])
    assert np.abs(steps[0][0][0] - steps[0][0][1]).max() > 0.01  # rollout from rollout
    assert np.abs(steps[0][0] - steps[1][0]).max() > 0.01  # an episode from the next
    assert np.array_equal(steps[2][0], steps[3][0]) and np.array_equal(steps[2][0][0], steps[2][0][1])


def test_steps_with_candidates_are_no_cuda_graph(make_policy, critic):
    actor = SequencePolicy(make_policy("dt").model, 2, 50.0, candidates=Candidates(3), critic=critic)
    actor.device = torch.device("cuda")
    assert why_not_captured(actor, None) == "candidates are drawn and chosen on the host"


def test_rewards_of_the_critic_are_converted(make_policy, make_critic, counting, new_env):
    policy = make_policy("dt", reward_scale=0.5, reward_shift=-0.25)
    critic = make_critic(reward_scale=2.0, reward_shift=-1.0)
    setting = Candidates(2, noise=0.0, choice="argmax")
    result = evaluate(policy, critic=critic, candidates=setting, episodes=6, workers=1)
    played = {}
    for event in counting.CountingEnv.events:
        if event[0] == "step":
            played.setdefault(event[1], []).append(event[3])
    chosen = set()
    for seed in result.settings[0].seeds:
        actions, taken = literal_episode(policy, critic, new_env(), seed, setting)
        assert np.allclose(played[seed], actions, atol=2e-5)
        chosen |= set(taken)
    assert chosen == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "candidates: expected a whole number of at least 1, got 0"),
        ({"count": 2.5}, "candidates: expected a whole number"),
        ({"noise": -0.1}, "noise: expected a finite number of at least 0, got -0.1"),
        ({"noise": float("nan")}, "noise: expected a finite number"),
        ({"choice": "greedy"}, "choice: expected one of softmax, argmax, got 'greedy'"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Candidates(**options)


@pytest.mark.parametrize("kind", ["reinformer", "edt", "adt", "bc"])
def test_a_policy_that_takes_no_return_has_no_candidates(make_policy, critic, kind):
    with pytest.raises(
        ValueError, match=r"candidates: they differ in the return asked for, and .* takes none"
    ):
        evaluate(make_policy(kind), critic=critic, candidates=Candidates(), episodes=1)


def test_candidates_need_a_critic_of_the_same_rewards(make_policy, make_critic):
    with pytest.raises(ValueError, match="critic: 50 candidates need one to be chosen by, got None; give a"):
        evaluate(make_policy("dt"), candidates=Candidates(), episodes=1)
    with pytest.raises(ValueError, match=r"multiple of them, 1 r \+ 0, got one of 1 r \+ -1; train both"):
        evaluate(
            make_policy("dt"), critic=make_critic(reward_shift=-1.0), candidates=Candidates(), episodes=1
        )
    vast = make_critic()
    for parameter in vast.critic.parameters():
        parameter.data.mul_(1e30)
    with pytest.raises(ValueError, match="critic: it gave a Q that is not finite"):
        evaluate(make_policy("dt"), critic=vast, candidates=Candidates(), episodes=1)
