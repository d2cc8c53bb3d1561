"""The transformer under every sequence policy: blocks with the norm after or before, and partial evaluation.

Two styles are in use among Decision Transformers and both are here:

    norm="post"   x = LN(x + Attn(x));  x = LN(x + MLP(x))       Reinformer, min-decision-transformer
    norm="pre"    x = x + Attn(LN(x));  x = x + MLP(LN(x))       the original Decision Transformer (GPT-2),
                                                                 with a LayerNorm after the last block
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.attention import CausalSelfAttention
from dtag_fast.ops.attention import Padding
from dtag_fast.ops.block import BlockWeights, choose_backend, transformer_block
from dtag_fast.ops.dropout import dropout, random_words
from dtag_fast.ops.per_seed import is_batched
from dtag_fast.ops.select_rows import select_rows

Norm = Literal["post", "pre"]
ActivationName = Literal["gelu", "relu"]
_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
BlockBackend = Literal["fused", "triton", "sdpa", "reference"]


class Past(Protocol):
    """Keys and values of earlier tokens, that new tokens are added to and look at."""

    at: Tensor  # (n,) or (B, n) places of the new tokens among the kept ones

    def put(self, block: int, new: Tensor) -> Tensor:
        """Keep the keys and values (B, n, 2, H, D/H) of the new tokens; give all of that block.

        Returns:
            (B, S, 2, H, D/H).
        """


# On a CPU the MLP runs over as many rows at a time as keep its hidden layer in a 512 KB second-level cache:
# 13 to 19 % faster than all rows at once (832 and 3776 rows of width 128, one core of an AMD EPYC, Zen 3).
_HIDDEN_NUMBERS_IN_CACHE = 192 * 512


class Block(nn.Module):
    """Attention and a two-layer MLP (D -> 4D -> D), each with a residual path and a LayerNorm."""

    def __init__(self, d_model: int, n_head: int, dropout: float, norm: Norm, activation: ActivationName):
        super().__init__()
        self.norm, self.activation_name, self.dropout = norm, activation, dropout
        self.activation = _ACTIVATIONS[activation]
        self._backend: BlockBackend | None = None
        self.attention = CausalSelfAttention(d_model, n_head, dropout)
        self.norm_1 = nn.LayerNorm(d_model)
        self.expand = nn.Linear(d_model, 4 * d_model)
        self.contract = nn.Linear(4 * d_model, d_model)
        self.norm_2 = nn.LayerNorm(d_model)

    @property
    def backend(self) -> BlockBackend | None:
        """ "fused": the whole block is one launch of `ops.block`. Else it is made operator by operator, with
        this backend of `ops.attention`. None: the fastest."""
        return self._backend

    @backend.setter
    def backend(self, backend: BlockBackend | None) -> None:
        if backend is not None and backend not in get_args(BlockBackend):
            known = ", ".join(get_args(BlockBackend))
            raise ValueError(f"attention: expected one of {known} or None, got {backend!r}")
        self._backend = backend
        self.attention.backend = None if backend == "fused" else backend

    def why_not_fused(self, x: Tensor, rows: Tensor | None = None) -> str | None:
        """Why the block on tokens x (B, S, D), for these rows, is made operator by operator; or None."""
        if self._backend == "fused":
            return None
        if self._backend is not None:
            return f"attention={self._backend!r} was asked for"
        chosen, reason = choose_backend(x, self.attention.n_head, rows)
        if chosen != "triton":
            return reason
        if torch.is_autocast_enabled(x.device.type):
            return "autocast is on, which casts for each operator"
        return None

    def project(self, x: Tensor) -> Tensor:
        """x (B, S, D) -> queries, keys and values (B, S, 3, H, D/H): all that depends on one token alone."""
        return self.attention.project(self._input(x))

    def forward(
        self,
        x: Tensor,
        padding: Padding,
        rows: Tensor | None = None,
        generator: Generator | None = None,
        keep: list[Tensor] | None = None,
        projected: Tensor | None = None,
    ) -> Tensor:
        """x (B, S, D) -> (B, S, D), or (B, Q, D) for selected rows.

        Args:
            keep: receives the keys and values (B, S, 2, H, D/H). projected: `project(x)`, if it is there
            already.
        """
        if keep is None and projected is None and self.why_not_fused(x, rows) is None:
            return self._fused(x, padding, rows, generator)
        q, qkv = None, projected
        if projected is None and rows is None:
            qkv = self.project(x)
        elif projected is None:
            q, qkv = self.attention.project_rows(self._input(x), rows)
        elif rows is not None:
            q, qkv = select_rows(projected[:, :, 0], rows), projected[:, :, 1:]
        if keep is not None:
            keep.append(qkv[:, :, -2:])
        if rows is not None:
            x = select_rows(x, rows)
        return self._residual(x, self.attention.attend(qkv, padding, q, rows, generator), generator)

    def extend(
        self,
        x: Tensor,
        put: Callable[[Tensor], Tensor],
        at: Tensor,
        padding: Padding,
        rows: Tensor | None = None,
        projected: Tensor | None = None,
    ) -> Tensor:
        """The block on new tokens x (B, n, D): (B, n, D), or (B, Q, D) for `rows` (Q,) of them.

        Args:
            put, at: as `Past` has them. projected: `project(x)`, if it is there already.
        """
        qkv = self.project(x) if projected is None else projected
        q, kept = qkv[:, :, 0], put(qkv[:, :, 1:])
        if rows is not None:
            x, q, at = select_rows(x, rows), select_rows(q, rows), at.index_select(-1, rows)
        return self._residual(x, self.attention.attend(kept, padding, q, at), None)

    def _fused(self, x: Tensor, padding: Padding, rows: Tensor | None, generator: Generator | None) -> Tensor:
        p, heads = self.dropout if self.training else 0.0, self.attention
        layers = (heads.qkv, heads.out, self.norm_1, self.expand, self.contract, self.norm_2)
        return transformer_block(
            x,
            BlockWeights(*(parameter for layer in layers for parameter in (layer.weight, layer.bias))),
            n_head=heads.n_head,
            norm=self.norm,
            activation=self.activation_name,
            start=padding.start,
            length=padding.length,
            queries=rows,
            dropout_p=p,
            seed=random_words(1, x.device, generator) if p > 0 else None,
            backend="triton",
        )

    def _input(self, x: Tensor) -> Tensor:
        return self.norm_1(x) if self.norm == "pre" else x

    def _residual(self, x: Tensor, attended: Tensor, generator: Generator | None) -> Tensor:
        if self.norm == "post":
            x = self.norm_1(x + self._drop(attended, generator))
            return self.norm_2(x + self._drop(self._mlp(x), generator))
        x = x + self._drop(attended, generator)
        return x + self._drop(self._mlp(self.norm_2(x)), generator)

    def _mlp(self, x: Tensor) -> Tensor:
        by_parts = x.device.type == "cpu" and not torch.is_grad_enabled() and not is_batched(x)
        if not by_parts or torch.is_autocast_enabled("cpu"):
            return self.contract(self.activation(self.expand(x)))
        rows, out = x.flatten(0, -2), torch.empty(x.shape, dtype=x.dtype)
        step = max(_HIDDEN_NUMBERS_IN_CACHE // self.expand.out_features, 32)
        for part, result in zip(rows.split(step), out.flatten(0, -2).split(step), strict=True):
            hidden = self.activation(self.expand(part))
            torch.addmm(self.contract.bias, hidden, self.contract.weight.t(), out=result)
        return out

    def _drop(self, x: Tensor, generator: Generator | None) -> Tensor:
        return dropout(x, self.dropout, generator) if self.training else x


class Transformer(nn.Module):
    """A stack of blocks. Only the last block can skip rows: every earlier token is a key of a later block.

    Args:
        d_model: D. n_layer: number of blocks, at least 1. n_head: heads per block. dropout: in [0, 1).
        norm, activation: see the head of this file; "gelu" is the exact one.
    """

    def __init__(
        self, d_model: int, n_layer: int, n_head: int, dropout: float, norm: Norm, activation: ActivationName
    ):
        super().__init__()
        self.blocks = nn.ModuleList(Block(d_model, n_head, dropout, norm, activation) for _ in range(n_layer))
        self.final_norm = nn.LayerNorm(d_model) if norm == "pre" else nn.Identity()
        if norm == "pre":
            self._init_gpt2()

    def _init_gpt2(self) -> None:
        """N(0, 0.02) weights and zero biases, as GPT-2; the post-norm style keeps PyTorch's defaults."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        x: Tensor,
        padding: Padding,
        rows: Tensor | None = None,
        generator: Generator | None = None,
        keep: list[Tensor] | None = None,
        projected: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of the rows asked for.

        Args:
            x: (B, S, D) tokens. padding: which of them are real.
            rows: positions whose output is wanted, (Q,) or (B, Q); None for all.
            generator: randomness of dropout in training mode.
            keep: list that receives the keys and values of each block, (B, S, 2, H, D/H).
            projected: the first block's `project(x)`, if it is there already.
        Returns:
            (B, Q, D), or (B, S, D) when rows is None.
        """
        *blocks, last = self.blocks
        for block in blocks:
            x, projected = block(x, padding, None, generator, keep, projected), None
        return self.final_norm(last(x, padding, rows, generator, keep, projected))

    def extend(
        self,
        x: Tensor,
        past: Past,
        padding: Padding,
        rows: Tensor | None = None,
        projected: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of new tokens x (B, n, D) that look at those kept in `past`, and join them.

        Args:
            padding: of the kept tokens. rows: (Q,) new tokens whose output is wanted; None for all.
            projected: the first block's `project(x)`, if it is there already.
        Returns:
            (B, n or Q, D).
        """
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            wanted = rows if i == last else None
            x = block.extend(x, partial(past.put, i), past.at, padding, wanted, projected)
            projected = None
        return self.final_norm(x)
