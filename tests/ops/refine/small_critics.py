"""Critics and inputs of a few numbers, for tests of what surrounds the kernels."""

import pytest
import torch
from torch import nn

from dtag_fast.ops.refine.backends import compiled_cpu

BACKENDS = ["torch"] + ([] if isinstance(compiled_cpu(), str) else ["cpu"])
S, A, H = 5, 3, 32

backends = pytest.mark.parametrize("backend", BACKENDS)
needs_cpu = pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not there")
quiet = pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow:RuntimeWarning")


def critic_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(S + A, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 2))


def inputs(rows=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, S, generator=generator), torch.rand(rows, A, generator=generator) * 2 - 1


def step_by_optimizer(critic):
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    critic(torch.randn(16, S + A)).sum().backward()
    optimizer.step()
