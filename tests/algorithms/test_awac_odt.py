"""awac-odt: weights and targets by hand, updates against float64 formulas."""

import math

import pytest
import torch
from tiny_critics import average
from tiny_sequences import (
    assert_updates_equal,
    config_of,
    constant_learner,
    descend_model,
    in_doubles,
    manual_critic,
    odt_terms,
    squashed,
    two_steps,
)

from dtag_fast.algorithms import create
from dtag_fast.algorithms.awac_odt import Config
from dtag_fast.algorithms.odt import PolicyDraw

NLL = torch.tensor([[2.0, 3.0, 100.0]])


def draw_of(*actions):
    return PolicyDraw(NLL, torch.zeros(()), torch.tensor([[[a] for a in actions]]).atanh())


def test_weights_of_two_steps_by_hand():
    """min Q(s, a) = (0.5, 1.5); of a~ = (0.5, -0.5) it is (1, 0): A = (-0.5, 1.5), over beta = 2."""
    learner = constant_learner("awac-odt", beta=2.0)
    found = learner._critic_term(two_steps().windows, draw_of(0.5, -0.5, 0.9))
    w = math.exp(-0.25), math.exp(0.75)
    assert found["critic_term"].item() == pytest.approx((2 * w[0] + 3 * w[1]) / 2, rel=1e-4)
    assert found["advantage"].item() == pytest.approx(0.5, rel=1e-4)
    assert found["weight"].item() == pytest.approx((w[0] + w[1]) / 2, rel=1e-4)


def test_weights_are_at_most_20():
    found = constant_learner("awac-odt", beta=0.01)._critic_term(two_steps().windows, draw_of(0.5, -0.5, 0.9))
    assert found["weight"].item() == pytest.approx(10.0) and found["critic_term"].item() == pytest.approx(
        30.0
    )


def test_no_gradient_goes_through_the_weights():
    learner = constant_learner("awac-odt")
    unsquashed = torch.tensor([[[0.5], [-0.5], [0.9]]], requires_grad=True)
    nll = NLL.clone().requires_grad_()
    found = learner._critic_term(two_steps().windows, PolicyDraw(nll, torch.zeros(()), unsquashed))
    found["critic_term"].backward()
    assert nll.grad is not None and unsquashed.grad is None
    assert all(p.grad is None for p in learner.critic.parameters())


def manual_update(learner, nets, optimizers, batch, number, g):
    """Update `number`, counted from 0, in float64; first the policy, then the critic."""
    c, temperature = learner.config, learner.log_temperature.exp().item()
    noises = [torch.randn(batch.windows.actions.shape, generator=g).double() for _ in range(2)]
    windows, following, rewards, terminal = batch = in_doubles(batch)
    raw, raw_next = (nets["model"].normalizer.inverse(w.states) for w in (windows, following))
    mask, (nll, drawn, entropy) = windows.mask, odt_terms(nets["model"], windows, noises[0])
    with torch.no_grad():
        better, own = (torch.minimum(*nets["critic"](raw, a)) for a in (windows.actions, drawn))
        weight = ((better - own) / c.beta).exp().clamp(max=20.0).squeeze(-1)
    loss = (nll + c.alpha * weight * nll)[mask].mean() - temperature * entropy
    descend_model(optimizers["model"], loss, c, number)
    with torch.no_grad():
        policy = squashed(nets["target_model"], following)
        drawn = (policy.base_dist.loc + policy.base_dist.scale * noises[1]).tanh()
        y = rewards + c.discount * (1 - terminal) * torch.minimum(*nets["target"](raw_next, drawn)).squeeze(
            -1
        )
    critic_loss = manual_critic(nets, optimizers["critic"], batch, y)
    average(nets["target"], nets["critic"], c.polyak)
    average(nets["target_model"], nets["model"], c.polyak)
    return {"loss": loss.item(), "weight": weight[mask].mean().item(), "critic_loss": critic_loss}


def test_updates_equal_the_formulas(store):
    c = config_of("awac-odt", alpha=0.5, beta=0.3, polyak=0.1, lr=1e-2, critic_lr=1e-2)
    learner = create("awac-odt", store, c)
    assert_updates_equal(learner, store, manual_update)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="beta: expected a positive number, got 0"):
        Config(beta=0.0)
    with pytest.raises(ValueError, match="target_precision: expected one of auto, fp32, bf16, got 'tf32'"):
        Config(target_precision="tf32")
