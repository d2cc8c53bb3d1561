"""What attention means, in plain torch: the oracle of the kernels, in any floating type."""

from __future__ import annotations

import torch
from torch import Tensor


def real(at: Tensor, start: Tensor | None, length: Tensor | None) -> Tensor:
    """Whether tokens `at` (1 or B, N) are real ones of their rows: start[b] <= at < length[b]."""
    found = torch.ones_like(at, dtype=torch.bool)
    if start is not None:
        found = found & (at >= start[:, None])
    return found if length is None else found & (at < length[:, None])


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
    real_row = (rows >= 0) & (rows < tokens) & real(rows, start, length)
    real_key = real(keys[None], start, length)
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
    keys = torch.arange(k.shape[1], device=k.device)[None]
    real_v = v.masked_fill(~real(keys, start, length)[..., None, None], 0.0)  # 0 * NaN would be NaN
    return torch.einsum("bhqs,bshd->bqhd", weights, real_v).flatten(2)
