"""Linear networks in one dimension, small enough to follow with a pencil, and updates in float64."""

import copy

import numpy as np
import torch

from dtag_fast.algorithms import create
from dtag_fast.data import Episode, TrajectoryStore, Transitions

# s, a, r, s', terminal, discount of two transitions
BATCH = Transitions(
    *(
        torch.tensor(column).unsqueeze(1)
        for column in ([0.0, 2.0], [0.5, -0.5], [1.0, 2.0], [2.0, 0.0], [0.0, 1.0], [0.9, 0.9])
    )
)


def linear_learner(algorithm, config):
    """A learner of one state and one action in [-1, 1] with Q_1 = s + 2a, Q_2 = a + 1/2."""
    episode = Episode(np.zeros((2, 1)), np.zeros((1, 1)), np.zeros(1), np.ones(1, bool), np.zeros(1, bool))
    store = TrajectoryStore.from_episodes([episode], {"action_low": [-1.0], "action_high": [1.0]})
    learner = create(algorithm, store, config)
    for critic in (learner.critic, learner.target):
        fill(critic.members[0][0], [[1.0, 2.0]], [0.0])
        fill(critic.members[1][0], [[0.0, 1.0]], [0.5])
    return learner


@torch.no_grad()
def fill(layer, weight, bias):
    layer.weight.copy_(torch.tensor(weight))
    layer.bias.copy_(torch.tensor(bias))


def doubles(learner, lr):
    """Float64 copies of all networks and an Adam for each of those that have an optimizer."""
    nets = {name: copy.deepcopy(module).double() for name, module in learner.modules.items()}
    rates = {name: lr.get(name) for name in learner.optimizers if name in nets}
    return nets, {name: torch.optim.Adam(nets[name].parameters(), lr=rate) for name, rate in rates.items()}


def descend(optimizer, loss):
    """One step of one optimizer; gradients that the loss leaves elsewhere are thrown away by the next."""
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def average(target, online, polyak):
    for p, q in zip(target.parameters(), online.parameters(), strict=True):
        p.copy_((1 - polyak) * p + polyak * q)


def draws_of(learner):
    """A generator in the state of the learner's: it draws what the next update will."""
    return torch.Generator().set_state(learner.generator.get_state())


def assert_same_networks(learner, nets):
    for name, module in learner.modules.items():
        for p, q in zip(module.parameters(), nets[name].parameters(), strict=True):
            torch.testing.assert_close(p.double(), q, rtol=1e-3, atol=1e-4, msg=name)


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def assert_nothing_left(learner):
    """No gradient stays behind anywhere, in the critic from the policy's loss say."""
    for module in learner.modules.values():
        assert all(p.grad is None for p in module.parameters())
