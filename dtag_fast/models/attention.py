"""Causal self-attention over short token sequences, with packed q, k, v and padding on either side."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.ops.dropout import dropout
from dtag_fast.ops.select_rows import select_rows


def attention_bias(valid: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Additive mask of causal attention with padding.

    A token sees the real tokens up to itself. It always sees itself, so a padding token has a defined
    (unused) output instead of a softmax over nothing, which would be NaN and would spread through the
    gradient.

    Args:
        valid: (B, S) bool, True at real tokens; padding may stand on the left, on the right or on both sides.
    Returns:
        (B, 1, S, S) of `dtype`: 0 where row may see column, -inf elsewhere.
    """
    size = valid.shape[1]
    seen = torch.ones(size, size, dtype=torch.bool, device=valid.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=valid.device)
    allowed = (seen & valid[:, None, :]) | itself  # (B, S, S)
    return torch.zeros(allowed.shape, dtype=dtype, device=valid.device).masked_fill_(~allowed, -math.inf)[
        :, None
    ]


def causal_bias(size: int, like: Tensor) -> Tensor:
    """(1, 1, S, S) additive mask for sequences without padding, of the type and device of `like`."""
    return torch.full((size, size), -math.inf, dtype=like.dtype, device=like.device).triu_(1)[None, None]


class CausalSelfAttention(nn.Module):
    """Multi-head attention softmax(q k^T / sqrt(D/H) + bias) v with output projection.

    Args:
        d_model: D, a multiple of n_head. n_head: H.
        dropout: probability, on the attention weights.
    """

    def __init__(self, d_model: int, n_head: int, dropout: float):
        super().__init__()
        if d_model % n_head:
            raise ValueError(f"n_head: expected a divisor of d_model = {d_model}, got {n_head}")
        self.n_head = n_head
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, S, D) -> (B, H, S, D/H)

    def project(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, D) -> q of the selected rows (B, H, Q, D/H), k and v of all tokens (B, H, S, D/H)."""
        if rows is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            d = x.shape[-1]
            q = F.linear(select_rows(x, rows), self.qkv.weight[:d], self.qkv.bias[:d])
            k, v = F.linear(x, self.qkv.weight[d:], self.qkv.bias[d:]).chunk(2, dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, generator: Generator | None) -> Tensor:
        """(B, H, Q, D/H) queries over (B, H, S, D/H) keys under bias (B or 1, 1, Q, S) -> (B, Q, D)."""
        if self.training and self.dropout > 0:
            # PyTorch's fused attention draws its dropout from the global generator; ours must be resumable
            q3, k3, v3, bias3 = (
                x.expand(-1, self.n_head, -1, -1).reshape(-1, *x.shape[-2:])
                for x in (q, k, v, bias.expand(len(q), -1, -1, -1))
            )  # (B * H, ., .)
            scores = torch.baddbmm(bias3, q3, k3.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
            mixed = torch.bmm(dropout(torch.softmax(scores, dim=-1), self.dropout, generator), v3)
            mixed = mixed.view_as(q)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def attend_after(
        self, q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor], bias: Tensor | None
    ) -> Tensor:
        """One new token (B, H, 1, D/H) over the kept keys and values of the tokens before it and over itself.

        Args:
            bias: (B, 1, 1, S) additive mask of the kept tokens, None when all of them are seen.
        Returns:
            (B, 1, D).
        """
        past_k, past_v = past
        before = q @ past_k.transpose(-2, -1)  # (B, H, 1, S)
        scores = torch.cat((before, (q * k).sum(-1, keepdim=True)), dim=-1) * q.shape[-1] ** -0.5
        if bias is not None:
            scores[..., :-1] += bias
        weights = torch.softmax(scores, dim=-1)
        mixed = weights[..., :-1] @ past_v + weights[..., -1:] * v
        return self.out(mixed.transpose(1, 2).flatten(2))
