"""A transformer block composed of `ops.attention` and PyTorch's operators: the oracle of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dtag_fast.ops.attention import attention
from dtag_fast.ops.philox import keep_factor
from dtag_fast.ops.select_rows import select_rows

from .weights import NORM_EPS, BlockWeights

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
AFTER_ATTENTION, AFTER_MLP = 1, 2  # third words of the residual dropouts' counters; attention weights have 0


def residual_factor(seed: Tensor, p: float, tokens: Tensor, width: int, third: int) -> Tensor:
    """What dropout multiplies a branch by before it joins its residual path: 0, or 1 / (1 - p).

    Args:
        seed: (1,) int64. tokens: (B, Q) positions of the rows. width: D. third: which of the two dropouts.
    Returns:
        (B, Q, D) float32.
    """
    first = tokens.long()[..., None] * width + torch.arange(width, device=tokens.device)
    batch = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    return keep_factor(seed, p, first, batch, third)


def composed_block(
    x: Tensor,
    w: BlockWeights,
    *,
    n_head: int,
    norm: str,
    activation: str,
    start: Tensor | None,
    length: Tensor | None,
    queries: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    attention_backend: str | None = None,
) -> Tensor:
    """The block as `transformer_block` defines it, in any floating type. (B, S or Q, D)"""
    batch, tokens, width = x.shape
    positions = torch.arange(tokens, device=x.device) if queries is None else queries.long()

    def layer_norm(rows, weight, bias):
        return F.layer_norm(rows, (width,), weight, bias, NORM_EPS)

    def drop(rows, third):
        if dropout_p == 0:
            return rows
        factor = residual_factor(seed, dropout_p, positions.expand(batch, -1), width, third)
        return rows * factor.to(rows.dtype)

    source = layer_norm(x, w.norm_1_weight, w.norm_1_bias) if norm == "pre" else x
    options = {"start": start, "length": length, "dropout_p": dropout_p, "backend": attention_backend}
    options["seed"] = seed if dropout_p > 0 else None
    if queries is None:
        qkv = F.linear(source, w.qkv_weight, w.qkv_bias).unflatten(-1, (3, n_head, -1))
        mixed = attention(qkv, **options)
    else:
        x = select_rows(x, positions)
        q = F.linear(select_rows(source, positions), w.qkv_weight[:width], w.qkv_bias[:width])
        kv = F.linear(source, w.qkv_weight[width:], w.qkv_bias[width:]).unflatten(-1, (2, n_head, -1))
        mixed = attention(kv, q=q.unflatten(-1, (n_head, -1)), queries=queries, **options)
    x = x + drop(F.linear(mixed, w.out_weight, w.out_bias), AFTER_ATTENTION)
    if norm == "post":
        x = layer_norm(x, w.norm_1_weight, w.norm_1_bias)
    source = layer_norm(x, w.norm_2_weight, w.norm_2_bias) if norm == "pre" else x
    hidden = ACTIVATIONS[activation](F.linear(source, w.expand_weight, w.expand_bias))
    x = x + drop(F.linear(hidden, w.contract_weight, w.contract_bias), AFTER_MLP)
    return layer_norm(x, w.norm_2_weight, w.norm_2_bias) if norm == "post" else x
