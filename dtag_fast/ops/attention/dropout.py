"""Which attention weights the kernels' dropout keeps, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from dtag_fast.ops.philox import keep_factor


def dropout_factor(seed: Tensor, p: float, batch: int, heads: int, positions: Tensor, tokens: int) -> Tensor:
    """What each attention weight is multiplied by: 0 with probability p, else 1 / (1 - p).

    Args:
        seed: (1,) int64. positions: (Q,) or (B, Q) tokens of the queries. tokens: S.
    Returns:
        (B, H, Q, S) float32.
    """
    device = positions.device
    rows = positions.long().expand(batch, -1)[:, None, :, None]  # (B, 1, Q, 1)
    sequence = torch.arange(batch * heads, device=device).view(batch, heads, 1, 1)
    counter = rows * tokens + torch.arange(tokens, device=device)
    return keep_factor(seed.to(device), p, counter, sequence)
