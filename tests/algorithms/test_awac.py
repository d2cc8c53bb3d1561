"""AWAC: losses by hand, updates against float64 formulas, the clip of weights."""

import dataclasses

import pytest
import torch
from tiny_critics import (
    BATCH,
    assert_nothing_left,
    assert_same_networks,
    average,
    descend,
    doubles,
    draws_of,
    fill,
    linear_learner,
)

from dtag_fast.algorithms import create
from dtag_fast.algorithms.awac import Config

SMALL = Config(hidden=(16, 16), batch_size=32)
TINY = Config(hidden=(), normalize_states=False, temperature=0.5, lr=0.0)


def with_draws(learner, monkeypatch, *draws):
    """Let the policy draw these actions, one list after the other."""
    actions = iter(torch.tensor(draw).unsqueeze(1) for draw in draws)
    monkeypatch.setattr(learner.policy, "sample", lambda states, generator: next(actions))


def test_losses_of_two_transitions_by_hand(monkeypatch):
    """a' = (0.5, -1): min_i Q' = (1, .), so y = (1.9, 2); Q_1 = (1, 1), Q_2 = (1, 0): mean of (1.62, 5).

    b = (0, 0.25): A = (1 - 0, 0 - 0.75), weights e^2 and e^-1.5. N(s / 2, 1) of the data's actions:
    0.5 * 0.25 + 0.918939 and 0.5 * 2.25 + 0.918939.
    """
    learner = linear_learner("awac", TINY)
    fill(learner.policy.mean_head, [[0.5]], [0.0])
    with_draws(learner, monkeypatch, [0.5, -1.0], [0.0, 0.25])
    metrics = learner.update(BATCH)
    assert metrics["critic_loss"].item() == pytest.approx(3.31, rel=1e-6)
    assert metrics["advantage"].item() == pytest.approx(0.125)
    assert metrics["weight"].item() == pytest.approx((7.3890561 + 0.2231302) / 2, rel=1e-6)
    assert metrics["policy_loss"].item() == pytest.approx(4.0848923590, rel=1e-6)


def test_weights_are_clipped_at_100(monkeypatch):
    """The advantages above at lambda = 0.01: e^100, which overflows, and e^-75."""
    learner = linear_learner("awac", dataclasses.replace(TINY, temperature=0.01))
    with_draws(learner, monkeypatch, [0.5, -1.0], [0.0, 0.25])
    metrics = learner.update(BATCH)
    assert metrics["weight"].item() == pytest.approx(50.0) and metrics["policy_loss"].isfinite()


def manual_update(nets, adams, batch, c, g):
    """Q, policy, average, in this order and in float64; nets are float64 copies."""
    critic, target, policy = (nets[k] for k in ("critic", "target", "model"))
    noise = [torch.randn(batch.actions.shape, generator=g).double() for _ in range(2)]
    s, a, r, s2, done, discount = (x.double() for x in batch)
    mean, log_std = policy(s2)
    a2 = (mean + log_std.exp() * noise[0]).clamp(-1, 1)
    y = (r + discount * (1 - done) * torch.minimum(*target(s2, a2))).detach()
    q1, q2 = critic(s, a)
    losses = {"critic_loss": descend(adams["critic"], ((q1 - y) ** 2).mean() + ((q2 - y) ** 2).mean())}

    mean, log_std = policy(s)
    own = (mean + log_std.exp() * noise[1]).clamp(-1, 1)
    advantage = (torch.minimum(*critic(s, a)) - torch.minimum(*critic(s, own))).detach()
    weight = torch.exp(advantage / c.temperature).clamp(max=100)
    log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(a).sum(1, keepdim=True)
    losses["policy_loss"] = descend(adams["model"], -(weight * log_prob).mean())
    average(target, critic, c.polyak)
    return losses


def test_updates_equal_the_formulas(store):
    config = dataclasses.replace(SMALL, polyak=0.1, lr=1e-2, n_step=3)
    learner = create("awac", store, config)
    nets, adams = doubles(learner, {"critic": 1e-2, "model": 1e-2})
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    for _ in range(4):
        batch, draws = sampler.sample(g), draws_of(learner)
        losses = manual_update(nets, adams, batch, config, draws)
        metrics = learner.update(batch)
        for name, value in losses.items():
            assert metrics[name].item() == pytest.approx(value, rel=1e-3), name
        assert_nothing_left(learner)
    assert_same_networks(learner, nets)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
        Config(temperature=0.0)
