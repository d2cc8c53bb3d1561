"""What attention means, in plain torch: the oracle of the kernels, in any floating type."""

from __future__ import annotations

import torch
from torch import Tensor


def visible(tokens: int, positions: Tensor, start: Tensor | None, length: Tensor | None) -> Tensor:
    """Whether query sees key: real tokens up to its own, if that is real itself.

    Args:
        tokens: S. positions: (Q,) or (B, Q) tokens of the queries.
        start, length: (B,) the real tokens are start[b] <= i < length[b]; None: 0 and S.
    Returns:
        (B or 1, Q, S) bool.
    """
    keys = torch.arange(tokens, device=positions.device)
    rows = positions if positions.ndim == 2 else positions[None]
    real_row = (rows >= 0) & (rows < tokens)
    real_key = torch.ones(1, tokens, dtype=torch.bool, device=positions.device)
    if start is not None:
        real_row, real_key = real_row & (rows >= start[:, None]), real_key & (keys >= start[:, None])
    if length is not None:
        real_row, real_key = real_row & (rows < length[:, None]), real_key & (keys < length[:, None])
    return (keys <= rows[..., None]) & real_row[..., None] & real_key[:, None]


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    start: Tensor | None,
    length: Tensor | None,
    scale: float,
    factor: Tensor | None = None,
) -> Tensor:
    """out[b, i, h] = sum over visible j of softmax_j(scale q[b, i, h] . k[b, j, h]) v[b, j, h]; 0 in padding.

    Args:
        q: (B, Q, H, D). k, v: (B, S, H, D). positions, start, length: as in `visible`.
        factor: (B, H, Q, S) that multiplies the weights (dropout), or None.
    Returns:
        (B, Q, H * D).
    """
    seen = visible(k.shape[1], positions, start, length)[:, None]  # (B or 1, 1, Q, S)
    any_seen = seen.any(-1, keepdim=True)
    scores = torch.einsum("bqhd,bshd->bhqs", q, k) * scale
    scores = scores.masked_fill(~seen & any_seen, -torch.inf).masked_fill(~any_seen, 0.0)
    weights = torch.where(any_seen, scores.softmax(-1), 0.0)
    if factor is not None:
        weights = weights * factor.to(weights.dtype)
    real_v = v
    if start is not None or length is not None:  # numbers of padding may be anything
        keys = torch.arange(k.shape[1], device=k.device)
        real = torch.ones(k.shape[:2], dtype=torch.bool, device=k.device)
        real = real if start is None else real & (keys >= start[:, None])
        real = real if length is None else real & (keys < length[:, None])
        real_v = v.masked_fill(~real[..., None, None], 0.0)
    return torch.einsum("bhqs,bshd->bqhd", weights, real_v).flatten(2)
