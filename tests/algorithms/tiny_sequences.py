"""Decision Transformers with critics, small enough to follow with a pencil, and the same in float64."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_critics import assert_nothing_left, draws_of, fill
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from dtag_fast.algorithms import ALGORITHMS, create
from dtag_fast.algorithms.lamb import Lamb, clip_
from dtag_fast.data import Episode, TrajectoryStore, TransitionWindows, Windows

SMALL = {
    "context_len": 4,
    "eval_context_len": 2,
    "d_model": 16,
    "n_layer": 1,
    "n_head": 2,
    "max_timestep": 64,
    "batch_size": 16,
    "dropout": 0.0,
    "warmup": 4,
    "critic_hidden": (16, 16),
}


def config_of(name, **options):
    """The algorithm's config with small networks; `critic_*` settings fall away where it has no critic."""
    config = ALGORITHMS[name].config
    fields = {field.name for field in dataclasses.fields(config)}
    return config(**{key: value for key, value in (SMALL | options).items() if key in fields})


HALF = math.atanh(0.5)


def constant_learner(name, mean=HALF, log_std=0.0, **options):
    """One state and one action in [-1, 1]; u ~ N(mean, exp(log_std)) whatever is seen.

    States are standardised to themselves within 1e-5. Q_1 = s + 2a, Q_2 = a + 1/2, V = s / 2;
    targets too.
    """
    states = np.array([[1.0], [-1.0], [0.0]])
    episode = Episode(states, np.zeros((2, 1)), np.ones(2), np.array([False, True]), np.zeros(2, bool))
    store = TrajectoryStore.from_episodes([episode], {"action_low": [-1.0], "action_high": [1.0]})
    learner = create(
        name, store, config_of(name, critic_hidden=(), padding="right", context_len=3, **options)
    )
    for model in (m for key, m in learner.modules.items() if key in ("model", "target_model")):
        fill(model.action_head, [[0.0] * 16], [mean])
        fill(model.log_std_head, [[0.0] * 16], [math.atanh((log_std + 5) / 3.5 - 1)])
    for critic in (learner.critic, learner.target):
        for member, line in zip(critic.members, (([[1.0, 2.0]], [0.0]), ([[0.0, 1.0]], [0.5])), strict=False):
            fill(member[0], *line)
    if hasattr(learner, "value"):
        fill(learner.value.net[0], [[0.5]], [0.0])
    return learner


def two_steps() -> TransitionWindows:
    """Two real steps, the second terminal, and a padded place whose numbers must not count.

    s = (1/2, 1), a = (0, 1), r = (2, 7), s' = (1, -2).
    """
    mask = torch.tensor([[True, True, False]])

    def windows(states, actions, mask):
        columns = [torch.tensor([row])[..., None] for row in (states, actions, [0.0] * 3)]
        return Windows(*columns, torch.zeros(1, 3, dtype=torch.long), mask)

    here = windows([0.5, 1.0, 7.0], [0.0, 1.0, -0.7], mask)
    following = windows([1.0, -2.0, 9.0], [1.0, 0.0, 0.3], mask)
    return TransitionWindows(
        here, following, torch.tensor([[2.0, 7.0, 50.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    )


def doubles(learner):
    """Float64 copies of all networks, and the optimizers of the model, the critic and V."""
    nets = {name: copy.deepcopy(module).double() for name, module in learner.modules.items()}
    c = learner.config
    optimizers = {
        name: torch.optim.AdamW(nets[name].parameters(), lr=c.critic_lr, weight_decay=c.critic_weight_decay)
        for name in ("critic", "value")
        if name in nets
    }
    trained = [p for p in nets["model"].parameters() if p.requires_grad]
    return nets, optimizers | {"model": Lamb(trained, lr=0.0, weight_decay=c.weight_decay)}


def descend_model(optimizer, loss, c, steps_made):
    """One step of LAMB with the trainer's clip and the warm-up."""
    optimizer.zero_grad()
    loss.backward()
    parameters = optimizer.param_groups[0]["params"]
    clip_([p.grad for p in parameters], c.max_grad_norm)
    optimizer.param_groups[0]["lr"] = c.lr * min((steps_made + 1) / c.warmup, 1)
    optimizer.step()


def in_doubles(batch):
    """A batch in float64."""
    return torch.utils._pytree.tree_map(lambda x: x.double() if x.is_floating_point() else x, batch)


def squashed(model, windows) -> TransformedDistribution:
    """The distribution of the action of every step, by torch.distributions."""
    mean, log_std = model.distribution(*windows)
    return TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])


def odt_terms(model, windows, noise) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-log pi of the recorded actions (B, K), actions (B, K, A) drawn with the noise, and H by them."""
    policy = squashed(model, windows)
    nll = -policy.log_prob(windows.actions.clamp(-1 + 1e-6, 1 - 1e-6)).sum(dim=-1)
    drawn = (policy.base_dist.loc + policy.base_dist.scale * noise).tanh()
    return nll, drawn, -policy.log_prob(drawn).sum(dim=-1)[windows.mask].mean()


def manual_critic(nets, optimizer, batch, y):
    """One step of the critic towards y (B, K); the loss, one real step at a time."""
    windows = batch.windows
    raw = nets["model"].normalizer.inverse(windows.states)
    places = windows.mask.nonzero().tolist()
    errors = [
        (q.squeeze() - y[b, j]) ** 2
        for b, j in places
        for q in nets["critic"](raw[b, j], windows.actions[b, j])
    ]
    loss = sum(errors) / len(places)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def assert_updates_equal(learner, store, manual_update):
    """Metrics and weights of six updates, some of windows with padding, equal those in float64.

    manual_update(learner, nets, optimizers, batch, number, draws) makes update `number`, counted from 0, of
    what `doubles` gives; `draws` is a generator that draws what the learner is about to draw. It returns
    metrics by name.
    """
    nets, optimizers = doubles(learner)
    sampler, g, padded = learner.make_sampler(store), torch.Generator().manual_seed(0), []
    for number in range(6):
        batch = sampler.sample(g)
        padded.append(not batch.windows.mask.all())
        expected = manual_update(learner, nets, optimizers, batch, number, draws_of(learner))
        metrics = learner.update(batch)
        for key, value in expected.items():
            assert metrics[key].item() == pytest.approx(value, rel=1e-3, abs=1e-6), (number, key)
        assert_nothing_left(learner)
    assert any(padded)
    assert_close_networks(learner, nets)


def assert_close_networks(learner, nets):
    for name, module in learner.modules.items():
        for (parameter, p), q in zip(module.named_parameters(), nets[name].parameters(), strict=True):
            if parameter.endswith("qkv.bias"):  # that of the keys has no effect: steps on rounding
                p, q = (bias.view(3, -1)[[0, 2]] for bias in (p, q))
            torch.testing.assert_close(p.double(), q, rtol=1e-3, atol=1e-4, msg=f"{name} {parameter}")
