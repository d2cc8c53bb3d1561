"""IQL: one update against float64 formulas, a chain of known values, time-outs, reward scales."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.base import DataSpec
from dtag_fast.algorithms.iql import Config, reward_affine
from dtag_fast.data import Episode, TrajectoryStore

SMALL = Config(hidden=(16, 16), batch_size=32, reward_transform="raw")


def manual_update(nets, adams, batch, c):
    """V, policy, Q, average, in this order and in float64; nets are float64 copies."""
    critic, target, value, policy = (nets[k] for k in ("critic", "target", "value", "model"))
    s, a, r, s2, done = (x.double() for x in batch)

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


@pytest.mark.parametrize("members", [1, 4])
def test_any_number_of_members(store, members):
    learner = create("iql", store, dataclasses.replace(SMALL, members=members, layer_norm=True))
    before = learner.critic.members[-1][0].weight.clone()
    learner.update(learner.make_sampler(store).sample(torch.Generator()))
    assert not torch.equal(before, learner.critic.members[-1][0].weight)


def test_critic_standardises_raw_states_itself(store):
    learner = create("iql", store, SMALL)
    mean, std = store.state_statistics()
    assert torch.equal(learner.critic.normalizer.mean, torch.from_numpy(mean))
    assert torch.equal(learner.target.normalizer.std, torch.from_numpy(std))
    raw = create("iql", store, dataclasses.replace(SMALL, normalize_states=False))
    assert torch.equal(raw.critic.normalizer.std, torch.ones(4))


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


def test_same_seed_same_bits(store):
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        learner = create("iql", store, dataclasses.replace(SMALL, policy=True, policy_dropout=0.1), seed=7)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        for _ in range(3):
            learner.update(sampler.sample(g))
        ends.append(
            torch.cat([p.detach().flatten() for m in learner.modules.values() for p in m.parameters()])
        )
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    "options, message",
    [({"expectile": 0.0}, "expectile: expected"), ({"discount": 1.5}, "discount: expected")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
