"""The attention layer of a block: packed projections around `ops.attention`."""

from __future__ import annotations

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.ops.attention import Backend as AttentionBackend
from dtag_fast.ops.attention import Padding, attention
from dtag_fast.ops.select_rows import select_rows


class CausalSelfAttention(nn.Module):
    """Multi-head attention softmax(q k^T / sqrt(D/H)) v with output projection.

    Args:
        d_model: D, a multiple of n_head. n_head: H.
        dropout: probability, on the attention weights.

    Attributes:
        backend: of `ops.attention`; None for the fastest. All of them read the same weights.
    """

    def __init__(self, d_model: int, n_head: int, dropout: float):
        super().__init__()
        if d_model % n_head:
            raise ValueError(f"n_head: expected a divisor of d_model = {d_model}, got {n_head}")
        self.n_head = n_head
        self.dropout = dropout
        self.backend: AttentionBackend | None = None
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def project(self, x: Tensor) -> Tensor:
        """x (B, S, D) -> queries, keys and values (B, S, 3, H, D/H)."""
        return self.qkv(x).unflatten(-1, (3, self.n_head, -1))

    def project_rows(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of some rows of x alone, and all keys and values.

        Args:
            x: (B, S, D). rows: (Q,) or (B, Q).
        Returns:
            (B, Q, H, D/H), (B, S, 2, H, D/H).
        """
        d, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
        q = F.linear(select_rows(x, rows), weight[:d], bias[:d])
        kv = F.linear(x, weight[d:], bias[d:])
        return q.unflatten(-1, (self.n_head, -1)), kv.unflatten(-1, (2, self.n_head, -1))

    def attend(
        self,
        qkv: Tensor,
        padding: Padding,
        q: Tensor | None = None,
        queries: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Attention and output projection, arguments as for `ops.attention`: (B, S or Q, D)."""
        mixed = attention(
            qkv,
            q=q,
            queries=queries,
            padding=padding,
            dropout_p=self.dropout if self.training else 0.0,
            generator=generator,
            backend=self.backend,
        )
        return self.out(mixed)
