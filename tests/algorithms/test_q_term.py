"""The term of Q in the loss: by hand, its weight over time, and that the critic stays as it was."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from dtag_fast.algorithms import TrainedCritic, create
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.q_term import q_term, weight_at
from dtag_fast.algorithms.reinformer import Config as Reinformer
from dtag_fast.algorithms.schedules import ramp
from dtag_fast.data import Windows
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig

_SMALL = {"context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2, "max_timestep": 64, "batch_size": 16}
_SMALL |= {"warmup": 5, "lr": 1e-2}
CONFIGS = {"dt": DT(**_SMALL), "reinformer": Reinformer(**_SMALL)}
every_algorithm = pytest.mark.parametrize("name", CONFIGS)


class Bowls(nn.Module):
    """Two members: Q_1 = 10 - |a|^2 + s_0, Q_2 = 100."""

    def __init__(self):
        super().__init__()
        self.height = nn.Parameter(torch.tensor(10.0))

    def forward(self, states, actions):
        first = self.height - actions.square().sum(dim=1, keepdim=True) + states[:, :1]
        return first, torch.full_like(first, 100.0)


@pytest.fixture
def critic(trained_critic):
    return trained_critic


def windows(states, actions, mask):
    batch, steps = mask.shape
    return Windows(
        states, actions, torch.zeros(batch, steps, 1), torch.zeros(batch, steps, dtype=torch.int64), mask
    )


def test_the_term_by_hand():
    """Real steps: (a, raw s_0) = ((1, 0), 7), ((0, -4), 1); states standardised with mean 3, deviation 2.

    Q = 10 - 1 + 7 = 16 and 10 - 16 + 1 = -5; mean 5.5, mean |Q| 10.5.
    """
    model = DecisionTransformer(
        DecisionTransformerConfig(state_dim=1, action_dim=2, d_model=8),
        [3.0],
        [2.0],
        [-1.0, -4.0],
        [1.0, 4.0],
    )
    actions = torch.tensor([[[1.0, 0.0], [0.0, -4.0], [9.0, 9.0]]], requires_grad=True)
    recorded = torch.tensor([[[0.5, 0.0], [0.0, -3.0], [0.0, 0.0]]])
    states, mask = torch.tensor([[[2.0], [-1.0], [50.0]]]), torch.tensor([[True, True, False]])
    critic = Bowls().requires_grad_(False)
    term, metrics = q_term(TrainedCritic(critic), model, windows(states, recorded, mask), actions, 3.0)
    assert term.item() == pytest.approx(-3 * 5.5 / 10.5)
    expected = {"q_loss": -5.5 / 10.5, "q": 5.5, "q_weight": 3.0, "action_distance": (0.25 + 0.5) / 2}
    expected["at_bounds"] = 0.5  # two of the four real numbers
    assert {k: v.item() for k, v in metrics.items()} == pytest.approx(expected)
    term.backward()
    # d/da of -3 (mean Q) / 10.5 is 3 * 2 a / (2 * 10.5), the size of Q being a constant
    gradient = [[[6 / 21, 0.0], [0.0, -24 / 21], [0.0, 0.0]]]
    torch.testing.assert_close(actions.grad, torch.tensor(gradient))
    assert critic.height.grad is None


def test_a_critic_of_zeros_gives_a_term_of_zero():
    model = DecisionTransformer(DecisionTransformerConfig(state_dim=1, action_dim=1, d_model=8))
    zeros = TrainedCritic(lambda states, actions: 0 * actions)
    batch = windows(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))
    term, _ = q_term(zeros, model, batch, torch.ones(1, 2, 1), 1.0)
    assert term == 0


@pytest.mark.parametrize("count", [int, lambda n: torch.tensor(n, dtype=torch.float64)])
def test_the_weight_rises_after_its_start(count):
    found = [float(ramp(count(n), 3, 4)) for n in range(9)]
    assert found == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [float(ramp(count(n), 2, 0)) for n in range(4)] == [0, 0, 1, 1]
    assert float(ramp(count(0), 0, 0)) == 1
    config = DT(q_weight=0.5, q_start=3, q_ramp=4)
    assert float(weight_at(config, count(4))) == 0.25


def train(learner, store, updates=6):
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    return [learner.update(sampler.sample(g)) for _ in range(updates)]


def bits(learner):
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


@every_algorithm
def test_until_its_start_the_term_changes_no_bit_and_then_it_does(store, critic, name):
    config = CONFIGS[name]
    plain = create(name, store, config)
    logged = train(plain, store)
    assert not any("q_loss" in metrics for metrics in logged)
    late = create(name, store, dataclasses.replace(config, q_weight=1.0, q_start=6), critic=critic)
    logged = train(late, store, 6)
    assert torch.equal(bits(plain), bits(late))
    assert [metrics["q_weight"].item() for metrics in logged] == [0.0] * 6
    for learner in (plain, late):
        train(learner, store, 1)
    assert not torch.equal(bits(plain), bits(late))


@every_algorithm
@pytest.mark.parametrize("capturable", [False, True])
def test_q_rises_and_the_critic_stays_as_it_was(store, critic, name, capturable):
    before = copy.deepcopy(critic.critic.state_dict())
    config = dataclasses.replace(CONFIGS[name], q_weight=20.0, q_ramp=10)
    learner = create(name, store, config, critic=critic, capturable=capturable)
    logged = train(learner, store, 150)
    values = [metrics["q"].item() for metrics in logged]
    plain = create(name, store, CONFIGS[name])
    distance = (learner.model(*batch_of(learner, store)).actions - batch_of(plain, store).actions).abs()
    train(plain, store, 150)
    imitator = (plain.model(*batch_of(plain, store)).actions - batch_of(plain, store).actions).abs()
    assert sum(values[-10:]) / 10 > sum(values[:10]) / 10 + 0.1
    assert distance.mean() > imitator.mean() + 0.1  # it has left the data
    assert all(0 <= metrics["at_bounds"] <= 1 for metrics in logged)
    assert all(torch.equal(critic.critic.state_dict()[key], before[key]) for key in before)
    assert all(p.requires_grad for p in critic.critic.parameters())  # the caller's own
    inside = learner.trained.critic
    assert all(torch.equal(inside.state_dict()[key], before[key]) for key in before)
    assert all(not p.requires_grad and p.grad is None for p in inside.parameters())
    assert "critic" not in learner.modules and "critic" not in learner.state_dict()["modules"]


def batch_of(learner, store):
    return learner.make_sampler(store).sample(torch.Generator().manual_seed(5))


@every_algorithm
def test_the_term_is_added_to_the_loss(store, critic, name):
    config = CONFIGS[name]
    plain, more = (
        create(name, store, config),
        create(name, store, dataclasses.replace(config, q_weight=2.0), critic=critic),
    )
    batch = batch_of(plain, store)
    ours, theirs = more.update(batch), plain.update(batch)
    assert ours["loss"].item() == pytest.approx(theirs["loss"].item() + 2 * ours["q_loss"].item(), rel=1e-5)


@every_algorithm
def test_what_does_not_fit_together_is_refused(store, critic, name):
    with_term = dataclasses.replace(CONFIGS[name], q_weight=0.5)
    with pytest.raises(
        ValueError, match=f"critic: {name} with q_weight = 0.5 learns from a trained critic, got"
    ):
        create(name, store, with_term)
    with pytest.raises(
        ValueError, match=f"critic: {name} with these settings learns from none; leave it out"
    ):
        create(name, store, CONFIGS[name], critic=critic)
    for setting in ("q_weight", "q_start", "q_ramp"):
        with pytest.raises(ValueError, match=f"{setting}: expected a number of at least 0, got -1"):
            dataclasses.replace(CONFIGS[name], **{setting: -1})
