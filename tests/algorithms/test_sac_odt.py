"""sac-odt: the term of the critic and its targets by hand, updates against float64 formulas."""

import math
from functools import partial

import pytest
import torch
from tiny_critics import average, draws_of
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
from dtag_fast.algorithms.odt import PolicyDraw


def test_the_draws_of_two_steps_are_worth_by_hand():
    """a~ = (0.5, -0.5): Q_1 = (1.5, 0), Q_2 = (1, 0), so the smallest are worth (1, 0)."""
    learner = constant_learner("sac-odt")
    draw = PolicyDraw(torch.zeros(1, 3), torch.zeros(()), torch.tensor([[[0.5], [-0.5], [0.9]]]).atanh())
    term = learner._critic_term(two_steps().windows, draw)["critic_term"]
    assert term.item() == pytest.approx(-0.5, rel=1e-4)


def test_targets_are_those_of_soft_values():
    """y = 2 + 0.9 (min Q' - lambda log pi'(a~')) and 7; a~' = tanh(u), u ~ N(atanh 1/2, e^-1)."""
    learner = constant_learner("sac-odt", log_std=-1.0, discount=0.9, initial_temperature=0.2)
    noise = torch.randn(1, 3, 1, generator=draws_of(learner))[0, 0, 0].item()
    u = math.atanh(0.5) + math.exp(-1) * noise
    a = math.tanh(u)
    log_pi = -(noise**2) / 2 + 1 - math.log(2 * math.pi) / 2 - math.log(1 - a * a)
    expected = 2 + 0.9 * (min(1 + 2 * a, a + 0.5) - 0.2 * log_pi)
    y = learner._targets(two_steps(), *learner._given())[0]
    assert y[:2].tolist() == pytest.approx([expected, 7.0], rel=1e-4)


def manual_update(dual, log_temperature, learner, nets, optimizers, batch, number, g):
    """Update `number`, counted from 0, in float64; first the policy, then lambda, then the critic."""
    c, temperature = learner.config, log_temperature.exp()
    noises = [torch.randn(batch.windows.actions.shape, generator=g).double() for _ in range(2)]
    windows, following, rewards, terminal = batch = in_doubles(batch)
    raw, raw_next = (nets["model"].normalizer.inverse(w.states) for w in (windows, following))
    mask, (nll, drawn, entropy) = windows.mask, odt_terms(nets["model"], windows, noises[0])
    q = torch.minimum(*nets["critic"](raw, drawn)).squeeze(-1)
    loss = nll[mask].mean() - temperature.item() * entropy - c.alpha * q[mask].mean()
    descend_model(optimizers["model"], loss, c, number)
    dual.zero_grad()
    (temperature * (entropy.item() + 2)).backward()
    dual.step()
    with torch.no_grad():
        policy = squashed(nets["target_model"], following)
        drawn = (policy.base_dist.loc + policy.base_dist.scale * noises[1]).tanh()
        value = torch.minimum(*nets["target"](raw_next, drawn)).squeeze(-1)
        value = value - log_temperature.exp() * policy.log_prob(drawn).sum(dim=-1)
        y = rewards + c.discount * (1 - terminal) * value
    critic_loss = manual_critic(nets, optimizers["critic"], batch, y)
    average(nets["target"], nets["critic"], c.polyak)
    average(nets["target_model"], nets["model"], c.polyak)
    return {"loss": loss.item(), "entropy": entropy.item(), "critic_loss": critic_loss}


def test_updates_equal_the_formulas(store):
    c = config_of("sac-odt", alpha=0.5, polyak=0.1, lr=1e-2, critic_lr=1e-2, temperature_lr=1e-2)
    learner = create("sac-odt", store, c)
    log_temperature = torch.tensor(math.log(0.1), dtype=torch.float64, requires_grad=True)
    dual = torch.optim.Adam([log_temperature], lr=1e-2)
    assert_updates_equal(learner, store, partial(manual_update, dual, log_temperature))
    assert learner.log_temperature.item() == pytest.approx(log_temperature.item(), abs=1e-5)


def test_a_weight_on_the_critic_raises_what_draws_are_worth(store):
    q = []
    for alpha in (0.0, 20.0):
        c = config_of("sac-odt", alpha=alpha, lr=2e-2, warmup=10, critic_lr=3e-3, discount=0.9)
        learner = create("sac-odt", store, c)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        for _ in range(150):
            learner.update(sampler.sample(g))
        windows = sampler.sample(torch.Generator().manual_seed(1)).windows
        q.append(learner._q(learner.critic, windows, learner.model(*windows).actions)[0][windows.mask].mean())
    assert q[1] > q[0] + 0.1
