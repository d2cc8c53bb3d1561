"""iql-odt: V, weights and targets by hand, updates against float64 formulas."""

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
    two_steps,
)

from dtag_fast.algorithms import create
from dtag_fast.algorithms.iql_odt import Config
from dtag_fast.algorithms.odt import PolicyDraw
from dtag_fast.training import train
from dtag_fast.training.checkpoint import load_value

DRAW = PolicyDraw(torch.tensor([[2.0, 3.0, 100.0]]), torch.zeros(()), torch.zeros(1, 3, 1))


def test_values_of_two_steps_by_hand():
    """min Q' = (0.5, 1.5), V = (0.25, 0.5): u = (0.25, 1), both above. y = (2 + 0.9 / 2, 7)."""
    learner = constant_learner("iql-odt", discount=0.9, expectile=0.8)
    loss, value = learner._value_parts(two_steps().windows)
    assert loss.item() == pytest.approx(0.8 * (0.0625 + 1) / 2, rel=1e-4)
    assert value.item() == pytest.approx(0.375, rel=1e-4)
    assert learner._targets(two_steps())[0, :2].tolist() == pytest.approx([2.45, 7.0], rel=1e-4)


def test_weights_of_two_steps_by_hand():
    """exp(beta u) for u = (0.25, 1), the second beyond 100 where beta = 5."""
    for beta, w in ((2.0, (math.exp(0.5), math.exp(2.0))), (5.0, (math.exp(1.25), 100.0))):
        found = constant_learner("iql-odt", beta=beta)._critic_term(two_steps().windows, DRAW)
        assert found["weight"].item() == pytest.approx(sum(w) / 2, rel=1e-4)
        assert found["critic_term"].item() == pytest.approx((2 * w[0] + 3 * w[1]) / 2, rel=1e-4)


def manual_update(learner, nets, optimizers, batch, number, g):
    """Update `number`, counted from 0, in float64: V, the policy, Q."""
    c, temperature = learner.config, learner.log_temperature.exp().item()
    noise = torch.randn(batch.windows.actions.shape, generator=g).double()
    windows, following, rewards, terminal = batch = in_doubles(batch)
    raw, raw_next = (nets["model"].normalizer.inverse(w.states) for w in (windows, following))
    mask = windows.mask
    with torch.no_grad():
        target_q = torch.minimum(*nets["target"](raw, windows.actions)).squeeze(-1)
    u = target_q - nets["value"](raw).squeeze(-1)
    value_loss = (torch.where(u < 0, 1 - c.expectile, c.expectile) * u**2)[mask].mean()
    optimizers["value"].zero_grad()
    value_loss.backward()
    optimizers["value"].step()

    nll, _, entropy = odt_terms(nets["model"], windows, noise)
    with torch.no_grad():
        advantage = target_q - nets["value"](raw).squeeze(-1)
        weight = (c.beta * advantage).exp().clamp(max=100.0)
        y = rewards + c.discount * (1 - terminal) * nets["value"](raw_next).squeeze(-1)
    loss = (nll + c.alpha * weight * nll)[mask].mean() - temperature * entropy
    descend_model(optimizers["model"], loss, c, number)
    critic_loss = manual_critic(nets, optimizers["critic"], batch, y)
    average(nets["target"], nets["critic"], c.polyak)
    return {"value_loss": value_loss.item(), "loss": loss.item(), "critic_loss": critic_loss}


def test_updates_equal_the_formulas(store):
    c = config_of("iql-odt", alpha=0.5, beta=2.0, polyak=0.1, lr=1e-2, critic_lr=1e-2)
    learner = create("iql-odt", store, c)
    assert_updates_equal(learner, store, manual_update)


def test_the_run_holds_v(store, tmp_path):
    run = train("iql-odt", store, config=config_of("iql-odt"), out=tmp_path / "run", updates=2)
    states = torch.from_numpy(store.observations[:5].copy())
    assert load_value(run)(states).shape == (5, 1)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="expectile: expected a number between 0 and 1, got 1"):
        Config(expectile=1.0)
    with pytest.raises(ValueError, match="beta: expected a positive number, got 0"):
        Config(beta=0.0)
