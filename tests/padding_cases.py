"""Padding of short sequences, for the tests of attention and of blocks."""

import torch

PADDING = ("none", "left", "right", "both")


def make_padding(kind, batch, tokens, seed=1):
    """start and length: the last row is padding throughout, the first has none."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, tokens, (batch,), generator=generator)
    length = torch.randint(0, tokens + 1, (batch,), generator=generator)
    start[0], length[0] = 0, tokens
    start[-1], length[-1] = tokens, 0
    return start if kind in ("left", "both") else None, length if kind in ("right", "both") else None
