"""A captured update may draw its batches from a replay buffer, as the stand-in of CUDA graphs sees it."""

import pytest
import torch
from cpu_graph import CpuGraph
from torch.utils._pytree import tree_leaves

from dtag_fast.data import ReplayBuffer


@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("weighting", ["length", "uniform"])
def test_a_replayed_draw_is_the_next_batch(store, following, padding, weighting):
    """Nothing on the way to a batch waits for a number of the device or brings one of the host in."""
    dims = {"state_dim": store.state_dim, "action_dim": store.action_dim}
    buffer = ReplayBuffer(None, 3, 8, **dims, following=following, padding=padding, weighting=weighting)
    buffer.add_all(map(store.episode, range(store.num_episodes)))
    frozen, free = (torch.Generator().manual_seed(5) for _ in range(2))
    with CpuGraph() as graph:
        batch = buffer.sample(frozen)
    for again in range(3):
        if again:
            graph.replay()
        for ours, expected in zip(tree_leaves(batch), tree_leaves(buffer.sample(free)), strict=True):
            assert torch.equal(ours, expected)
