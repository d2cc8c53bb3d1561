"""What the tokens are, in plain torch: the oracle of the kernels, in any floating type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def embed_reference(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    timesteps: Tensor,
    table: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    omit: int,
    eps: float,
) -> Tensor:
    """tokens[b, n t + k] = LayerNorm(W_k x_k[b, t] + b_k + table[timesteps[b, t]]).

    Args:
        inputs: x_k (B, K, width of kind k) of the n kinds of tokens, in their order.
        weights: W_k (D, width of kind k). biases: b_k (D,).
        timesteps: (B, K) integers in [0, T). table: (T, D). norm_weight, norm_bias: (D,).
        omit: tokens left out at the end. eps: is added to the variance.
    Returns:
        (B, n K - omit, D).
    """
    time = table[timesteps]  # (B, K, D)
    kinds = zip(inputs, weights, biases, strict=True)
    projected = [torch.einsum("bti,di->btd", x, weight) + bias for x, weight, bias in kinds]
    y = torch.stack([p + time for p in projected], dim=2).flatten(1, 2)  # (B, n K, D)
    y = y[:, : y.shape[1] - omit]
    centred = y - y.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred * (variance + eps).rsqrt() * norm_weight + norm_bias
