"""Replay buffers of random episodes, and what is compared of them."""

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from dtag_fast.data import Episode, ReplayBuffer

LENGTHS = (1, 5, 1, 9, 3, 30, 2)
CONTEXT = 4
DIMS = {"state_dim": 3, "action_dim": 2}


def random_episodes(lengths, seed=0):
    """Random episodes; odd ones terminate, even ones are cut. Some rewards are zeros of either sign."""
    rng = np.random.default_rng(seed)
    for index, steps in enumerate(lengths):
        end = np.arange(steps) == steps - 1
        rewards = rng.standard_normal(steps) * rng.integers(-1, 2, steps)
        yield Episode(
            rng.standard_normal((steps + 1, 3), dtype=np.float32),
            rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            rewards.astype(np.float32),
            end & (index % 2 == 1),
            end & (index % 2 == 0),
        )


def buffer_of(episodes, capacity=None, batch_size=32, **options):
    buffer = ReplayBuffer(capacity, CONTEXT, batch_size, **DIMS | options)
    buffer.add_all(episodes)
    return buffer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_same_bits(one, other):
    for x, y in zip(tree_leaves(one), tree_leaves(other), strict=True):
        assert x.dtype == y.dtype
        if x.dtype == torch.float32:
            x, y = x.contiguous().view(torch.int32), y.contiguous().view(torch.int32)
        assert torch.equal(x, y)
