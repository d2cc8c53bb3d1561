"""IQL: one update against float64 formulas, a chain of known values, time-outs, reward scales."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.base import DataSpec
from dtag_fast.algorithms.critics import reward_affine
from dtag_fast.algorithms.iql import Config
from dtag_fast.data import Episode, TrajectoryStore

SMALL = Config(hidden=(16, 16), batch_size=32, reward_transform="raw")


def manual_update(nets, adams, batch, c):
    """V, policy, Q, average, in this order and in float64; nets are float64 copies."""
    critic, target, value, policy = (nets[k] for k in ("critic", "target", "value", "model"))
    s, a, r, s2, done, _ = (x.double() for x in batch)

    def descend(name, loss):
        adams[name].zero_grad()
        loss.backward()
        adams[name].step()
        return loss.item()

    q_min = torch.minimum(*target(s, a)).detach()
    u = q_min - value(s)
    losses = {
        "value_loss": descend("value", (torch.where(u < 0, 1 - c.expectile, c.expectile) * u**2).mean())
    }

    weight = torch.exp(c.inverse_temperature * (q_min - value(s).detach())).clamp(max=100)
    mean, log_std = policy(s)
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(a.clamp(-1 + 1e-5, 1 - 1e-5)).sum(1)
    losses["policy_loss"] = descend("model", -(weight[:, 0] * log_prob).mean())

    y = (r + c.discount * (1 - done) * value(s2)).detach()
    q1, q2 = critic(s, a)
    losses["critic_loss"] = descend("critic", ((q1 - y) ** 2 + (q2 - y) ** 2).mean())
    with torch.no_grad():
        for p, q in zip(target.parameters(), critic.parameters(), strict=True):
            p.copy_((1 - c.polyak) * p + c.polyak * q)
    return losses


def test_update_equals_the_formulas(store):
    config = dataclasses.replace(SMALL, policy=True, expectile=0.8, polyak=0.1, lr=1e-2)
    learner = create("iql", store, config)
    nets = {k: copy.deepcopy(m).double() for k, m in learner.modules.items()}
    adams = {k: torch.optim.Adam(nets[k].parameters(), lr=1e-2) for k in ("critic", "value", "model")}
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    for _ in range(3):
        batch = sampler.sample(g)
        metrics, losses = learner.update(batch), manual_update(nets, adams, batch, config)
        for name, value in losses.items():
            assert metrics[name].item() == pytest.approx(value, rel=1e-4), name
    for name, module in learner.modules.items():
        for p, q in zip(module.parameters(), nets[name].parameters(), strict=True):
            torch.testing.assert_close(p.double(), q, rtol=1e-3, atol=1e-4)


def test_policy_learning_rate_falls_by_a_cosine(store):
    learner = create("iql", store, dataclasses.replace(SMALL, policy=True, policy_horizon=4))
    sampler, g = learner.make_sampler(store), torch.Generator()
    rates = []
    for _ in range(5):
        learner.update(sampler.sample(g))
        rates.append(learner.optimizers["model"].param_groups[0]["lr"])
    assert rates == pytest.approx([3e-4 * f for f in (1.0, 0.8535534, 0.5, 0.1464466, 0.0)])
    assert learner.optimizers["critic"].param_groups[0]["lr"] == 3e-4


def chain(terminated: bool, episodes: int = 5) -> TrajectoryStore:
    """States 0, 1, 2 one-hot; reward 1 on leaving state 2, where the episode terminates or times out."""
    states, actions = np.eye(4)[[0, 1, 2, 2]], np.zeros((3, 1))
    last = np.array([False, False, True])
    episode = Episode(states, actions, last.astype(float), last & terminated, last & (not terminated))
    return TrajectoryStore.from_episodes(
        [episode] * episodes, {"action_low": [-1.0], "action_high": [1.0], "dataset_id": "chain"}
    )


@pytest.mark.parametrize(
    "terminated, expected",
    [(True, [0.25, 0.5, 1.0]), (False, [0.5, 1.0, 2.0])],
    ids=["terminal: Q(2) = 1", "time-out: Q(2) = 1 + Q(2) / 2"],
)
def test_known_values_of_a_chain(terminated, expected):
    """discount 1/2: V(s) = Q(s, a) on this data whatever the expectile, and a time-out is bootstrapped."""
    config = dataclasses.replace(SMALL, discount=0.5, lr=1e-2, polyak=0.1, hidden=(32,), batch_size=16)
    learner = create("iql", chain(terminated), config)
    sampler, g = learner.make_sampler(chain(terminated)), torch.Generator().manual_seed(0)
    for _ in range(500):
        learner.update(sampler.sample(g))
    for q in learner.critic(torch.eye(4)[:3], torch.zeros(3, 1)):
        assert q[:, 0].tolist() == pytest.approx(expected, abs=0.05)


# A deterministic MDP. From the start (0): action -1 to 1, action +1 to 2, rewards 0 and 0.1. From 1: rewards
# 0.2 and 0.6, from 2: 1 and 0, both terminal. (state, action) -> how often the data took it.
STEPS = {(0, -1): (1, 0.0), (0, 1): (2, 0.1), (1, -1): (3, 0.2), (1, 1): (3, 0.6), (2, -1): (3, 1.0)}
STEPS |= {(2, 1): (3, 0.0)}
COUNTS = {(0, -1): 6, (0, 1): 2, (1, -1): 4, (1, 1): 2, (2, -1): 1, (2, 1): 1}
GAMMA = 0.8


def branching() -> TrajectoryStore:
    """Every path of the MDP as often as COUNTS says, in one-hot states; 3 is the end."""
    paths = [(-1, -1)] * 4 + [(-1, 1)] * 2 + [(1, -1), (1, 1)]
    episodes = []
    for path in paths:
        states, rewards = [0], []
        for action in path:
            following, reward = STEPS[states[-1], action]
            states.append(following)
            rewards.append(reward)
        last = np.array([False, True])
        actions = np.array(path, float)[:, None]
        episodes.append(Episode(np.eye(4)[states], actions, np.array(rewards), last, np.zeros(2, bool)))
    return TrajectoryStore.from_episodes(episodes, {"action_low": [-1.0], "action_high": [1.0]})


def tabular(expectile):
    """V of states 0, 1, 2, backwards: the expectile m of two values with counts n solves
    tau n_high (high - m) = (1 - tau) n_low (m - low)."""
    values = {3: 0.0}
    for state in (2, 1, 0):
        following = {a: STEPS[state, a] for a in (-1, 1)}
        q = {a: reward + GAMMA * values[s2] for a, (s2, reward) in following.items()}
        high = max(q, key=q.get)
        up, down = expectile * COUNTS[state, high], (1 - expectile) * COUNTS[state, -high]
        values[state] = (up * q[high] + down * q[-high]) / (up + down)
    return [values[s] for s in (0, 1, 2)]


@pytest.mark.parametrize("expectile", [0.5, 0.8, 0.99])
def test_values_of_a_tabular_mdp(expectile):
    data = branching()
    config = dataclasses.replace(
        SMALL,
        expectile=expectile,
        discount=GAMMA,
        hidden=(64,),
        lr=5e-3,
        polyak=0.1,
        normalize_states=False,
        batch_size=64,
    )
    learner = create("iql", data, config)
    sampler, g = learner.make_sampler(data), torch.Generator().manual_seed(0)
    for _ in range(1500):
        learner.update(sampler.sample(g))
    with torch.no_grad():
        values = learner.value(torch.eye(4)[:3])[:, 0].tolist()
    assert values == pytest.approx(tabular(expectile), abs=0.03)


def test_the_tabular_solution_runs_from_the_behaviour_to_the_optimum():
    """0.5: policy evaluation of the data; towards 1: values of the best actions. By hand."""
    v1, v2 = (4 * 0.2 + 2 * 0.6) / 6, (1.0 + 0.0) / 2
    assert tabular(0.5) == pytest.approx([(6 * 0.8 * v1 + 2 * (0.1 + 0.8 * v2)) / 8, v1, v2])
    assert tabular(1 - 1e-9) == pytest.approx([0.1 + 0.8 * 1.0, 0.6, 1.0])
    assert max(abs(a - b) for a, b in zip(tabular(0.99), [0.9, 0.6, 1.0], strict=True)) < 0.05


def test_n_step_targets(store):
    """The critic's target of 3 rewards, from the table by hand."""
    learner = create("iql", store, dataclasses.replace(SMALL, n_step=3, discount=0.9, lr=0.0))
    batch = type(learner.make_sampler(store).transitions)(
        *(column[:1] for column in learner.make_sampler(store).transitions)
    )
    r = store.rewards[:3].astype(float)
    with torch.no_grad():
        v = learner.value(torch.from_numpy(np.array(store.observations[3:4]))).item()
        y = r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * v
        expected = sum((q.item() - y) ** 2 for q in learner.critic(batch.states, batch.actions))
    assert learner.update(batch)["critic_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_reward_transforms(store):
    data = DataSpec.of(store)
    scale, shift = reward_affine("return_range", data)
    assert (data.returns * scale).max() - (data.returns * scale).min() == pytest.approx(1000) and shift == 0
    assert reward_affine("raw", data) == (1.0, 0.0)
    assert reward_affine("minus_one", data) == (1.0, -1.0)
    learner = create("iql", store, dataclasses.replace(SMALL, reward_transform="minus_one"))
    rewards = learner.make_sampler(store).transitions.rewards[:, 0].numpy()
    np.testing.assert_allclose(rewards, store.rewards - 1, rtol=1e-6)
    assert learner.facts() == {"reward_scale": 1.0, "reward_shift": -1.0, "discount": 0.99}


def test_equal_returns_cannot_be_rescaled():
    with pytest.raises(ValueError, match="'return_range' needs episodes of different return"):
        create("iql", chain(True), dataclasses.replace(SMALL, reward_transform="return_range"))


@pytest.mark.parametrize(
    "options, message",
    [({"expectile": 0.0}, "expectile: expected"), ({"discount": 1.5}, "discount: expected")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
