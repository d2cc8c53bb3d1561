"""Attention by PyTorch's own operators, for where the kernels do not run."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from dtag_fast.ops.dropout import dropout
from dtag_fast.ops.per_seed import is_batched

from .dropout import dropout_factor
from .padding import Padding
from .reference import attention_reference


def by_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Tensor | None,
    padding: Padding,
    dropout_p: float,
    generator: Generator | None,
    seed: Tensor | None,
    scale: float,
) -> Tensor:
    """By the definition; arguments as for `by_sdpa`."""
    (batch, rows, heads, _), tokens = q.shape, k.shape[1]
    positions = torch.arange(tokens, device=q.device) if queries is None else queries
    factor = None
    if dropout_p > 0 and seed is not None:
        factor = dropout_factor(seed, dropout_p, batch, heads, positions, tokens)
    elif dropout_p > 0:
        factor = dropout(q.new_ones(batch, heads, rows, tokens), dropout_p, generator)
    return attention_reference(q, k, v, positions, padding.start, padding.length, scale, factor)


def by_sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Tensor | None,
    padding: Padding,
    dropout_p: float,
    generator: Generator | None,
    seed: Tensor | None,
    scale: float,
) -> Tensor:
    """By scaled_dot_product_attention; with dropout, and of a stack of seeds, by two products. (B, Q, H * D)

    Args:
        q: (B, Q, H, D). k, v: (B, S, H, D). queries: (Q,) or (B, Q) their tokens; None: all.
    """
    batch, rows, heads, _ = q.shape
    bias, empty = padding.mask(k.shape[1], queries, q)
    if dropout_p == 0 and not is_batched(q):  # of a stack of seeds, PyTorch would take one after the other
        mixed = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=bias, scale=scale
        )
    else:
        # PyTorch's fused attention draws its dropout from the global generator; ours must be resumable.
        q3, k3, v3 = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B * H, ., D)
        bias3 = bias.expand(batch, heads, -1, -1).flatten(0, 1)
        weights = torch.softmax(torch.baddbmm(bias3, q3, k3.transpose(1, 2), alpha=scale), dim=-1)
        if dropout_p == 0:
            pass
        elif seed is None:
            weights = dropout(weights, dropout_p, generator)
        else:
            at = torch.arange(rows, device=q.device) if queries is None else queries
            factor = dropout_factor(seed, dropout_p, batch, heads, at, k.shape[1])
            weights = weights * factor.flatten(0, 1).to(weights.dtype)
        mixed = torch.bmm(weights, v3).unflatten(0, (batch, heads))
    if empty is not None:
        mixed = mixed.masked_fill(empty, 0.0)
    return mixed.transpose(1, 2).flatten(2)
