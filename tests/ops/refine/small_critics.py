"""Critics and inputs of a few numbers, for tests of what every backend does alike."""

import copy
import functools

import pytest
import torch
from torch import nn

from dtag_fast import CriticProgram
from dtag_fast.ops.refine.backends import compiled_cpu
from dtag_fast.ops.refine.program import Linear

BACKENDS = ["torch"] + ([] if isinstance(compiled_cpu(), str) else ["cpu"])
S, A, H = 5, 3, 32

backends = pytest.mark.parametrize("backend", BACKENDS)
needs_cpu = pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not there")
quiet = pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow:RuntimeWarning")


def critic_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(S + A, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 2))


def inputs(rows=4, seed=1, state_dim=S, action_dim=A, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, state_dim, generator=generator)
    return states, (torch.rand(rows, action_dim, generator=generator) * 2 - 1) * scale


def step_by_optimizer(critic):
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    critic(torch.randn(16, S + A)).sum().backward()
    optimizer.step()


class Ensemble(nn.Module):
    """E small critics, a tuple out."""

    def __init__(self, members=2, activation=nn.ReLU, seed=0, state_dim=S, action_dim=A):
        super().__init__()
        torch.manual_seed(seed)
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Linear(state_dim + action_dim, H),
                activation(),
                nn.Linear(H, H),
                activation(),
                nn.Linear(H, 1),
            )
            for _ in range(members)
        )

    def forward(self, state, action):
        x = torch.cat([state, action], -1)
        return tuple(net(x) for net in self.nets)


@functools.cache
def ensemble(*args):
    """Shared by tests that do not change it, so that it is traced once."""
    return Ensemble(*args)


@functools.cache
def widened(critic):
    return copy.deepcopy(critic).double()


def exact_q(critic, states, actions, reduce="min"):
    """Reduced Q and its gradient in float64, by autograd on the module itself."""
    wide = widened(critic)
    a = actions.double().requires_grad_()
    q = torch.cat(wide(states.double(), a), 1)
    q = q.min(1).values if reduce == "min" else q.mean(1) if reduce == "mean" else q[:, reduce]
    return q.detach(), torch.autograd.grad(q.sum(), a)[0]


def linear_program(slope, bias=0.0, state_dim=2):
    weight = torch.cat([torch.zeros(state_dim), torch.tensor(slope)])[None]
    return CriticProgram(state_dim, len(slope), [[Linear(weight, torch.tensor([bias]))]])
