"""V-ADT: an update by hand, what is prompted with what, and that the values stay as they were."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from dtag_fast.algorithms import TrainedCritic, create
from dtag_fast.algorithms.adt import Config
from dtag_fast.data import Windows
from dtag_fast.models import ValueNet

SMALL = Config(
    context_len=4,
    d_model=16,
    n_layer=2,
    n_head=2,
    max_timestep=64,
    batch_size=16,
    dropout=0.0,
    warmup=2,
    lr=1e-3,
)


def batch_of(learner, store, seed=0) -> Windows:
    return learner.make_sampler(store).sample(torch.Generator().manual_seed(seed))


def test_updates_equal_the_formulas(store, trained_critic):
    """In float64, step by step over the real steps, with raw states from the store's statistics."""
    learner, twin = (create("adt", store, SMALL, critic=trained_critic) for _ in range(2))
    double = copy.deepcopy((trained_critic.critic.double(), trained_critic.value.double()))
    for model in (learner.model, twin.model, learner.trained.critic, learner.trained.value):
        model.double()
    mean, std = (torch.from_numpy(x).double() for x in store.state_statistics())
    trained = [p for name, p in twin.model.named_parameters() if not name.startswith("value.")]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1e-4)
    for n in range(3):
        batch = batch_of(learner, store, n)
        batch = Windows(*(x.double() for x in batch[:3]), *batch[3:])
        raw = batch.states * std + mean
        with torch.no_grad():
            q = torch.minimum(*double[0](raw.flatten(0, 1), batch.actions.flatten(0, 1))).view(16, 4)
            v = double[1](raw.flatten(0, 1)).view(16, 4)
        weight = torch.exp(3.0 * (q - v)).clamp(max=100)
        actions = twin.model(batch.states, batch.actions, q[..., None] / 100, *batch[3:]).actions
        error = ((actions - batch.actions) ** 2).mean(dim=2)
        loss = (weight * error)[batch.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.25)
        optimizer.param_groups[0]["lr"] = 1e-3 * min((n + 1) / 2, 1)
        optimizer.step()

        metrics = learner.update(batch)
        assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        for name, expected in (("weight", weight), ("q", q), ("value", v)):
            assert metrics[name].item() == pytest.approx(expected[batch.mask].mean().item(), rel=1e-5)
    for p, q in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


class Ladder(nn.Module):
    """Q = height of the whole ladder, whatever the state and action."""

    def __init__(self, height: float):
        super().__init__()
        self.height = nn.Parameter(torch.tensor(height))

    def forward(self, states, actions):
        return self.height.expand(len(states), 1)


@pytest.mark.parametrize(("height", "weight"), [(0.0, 1.0), (1.0, 20.08554), (-1.0, 0.0497871), (9.0, 100.0)])
def test_weights_written_out(store, height, weight):
    """V = 0 and beta = 3: exp(0), exp(3), exp(-3), and exp(27) cut at 100."""
    value = ValueNet(4, hidden=())
    nn.init.zeros_(value.net[0].weight)
    learner = create("adt", store, SMALL, critic=TrainedCritic(Ladder(height), value))
    assert learner.update(batch_of(learner, store))["weight"].item() == pytest.approx(weight, rel=1e-6)


def test_values_take_no_gradients_and_stay_as_they_were(store, trained_critic):
    before = copy.deepcopy(trained_critic.value.state_dict())
    learner = create("adt", store, SMALL, critic=trained_critic)
    weights = [p.detach().clone() for p in learner.model.parameters() if p.requires_grad]
    for n in range(5):
        learner.update(batch_of(learner, store, n))
    for network in (learner.model.value, learner.trained.value, trained_critic.value):
        assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert all(p.grad is None for p in learner.model.value.parameters())
    changed = [p for p in learner.model.parameters() if p.requires_grad]
    assert all(not torch.equal(p, q) for p, q in zip(weights, changed, strict=True) if p.numel() > 16)
    states = torch.randn(3, 4)
    expected = trained_critic.value(states) / 100
    torch.testing.assert_close(learner.model.prompts(states), expected)
    facts = {"return_scale": 100.0, "reward_scale": 1.0, "reward_shift": 0.0, "context_len": 4}
    assert learner.facts() == facts


def test_what_the_sampler_says_of_returns_is_not_looked_at(store, trained_critic):
    ends = []
    for scale in (1.0, 5.0):
        learner = create("adt", store, SMALL, critic=trained_critic)
        batch = batch_of(learner, store)
        learner.update(batch._replace(returns_to_go=batch.returns_to_go * scale))
        ends.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(*ends)


def test_a_short_run_learns_the_recorded_actions(store, trained_critic):
    config = dataclasses.replace(SMALL, lr=1e-2, warmup=20, inverse_temperature=0.0)
    learner = create("adt", store, config, critic=trained_critic)
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    losses = [learner.update(sampler.sample(g))["loss"].item() for _ in range(150)]
    assert losses[0] > 0.3 and sum(losses[-10:]) / 10 < 0.05


def test_what_does_not_fit_together_is_refused(store, trained_critic):
    with pytest.raises(ValueError, match="critic: adt needs the value network of an IQL run too"):
        create("adt", store, SMALL, critic=TrainedCritic(trained_critic.critic))
    with pytest.raises(ValueError, match="critic: adt with its prompts learns from a trained critic"):
        create("adt", store, SMALL)
    with pytest.raises(ValueError, match="inverse_temperature: expected a number of at least 0, got -1"):
        dataclasses.replace(SMALL, inverse_temperature=-1.0)
