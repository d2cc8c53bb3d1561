"""The transformer under every sequence policy: blocks with the norm after or before, and partial evaluation.

Two styles are in use among Decision Transformers and both are here:

    norm="post"   x = LN(x + Attn(x));  x = LN(x + MLP(x))       Reinformer, min-decision-transformer
    norm="pre"    x = x + Attn(LN(x));  x = x + MLP(LN(x))       the original Decision Transformer (GPT-2),
                                                                 with a LayerNorm after the last block
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.attention import CausalSelfAttention
from dtag_fast.ops.dropout import dropout
from dtag_fast.ops.select_rows import select_rows

Norm = Literal["post", "pre"]
ActivationName = Literal["gelu", "relu"]
_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}

KeysValues = tuple[Tensor, Tensor]

# On a CPU the MLP runs over as many rows at a time as keep its hidden layer in a 512 KB second-level cache:
# 13 to 19 % faster than all rows at once (832 and 3776 rows of width 128, one core of an AMD EPYC, Zen 3).
_HIDDEN_NUMBERS_IN_CACHE = 192 * 512


class Block(nn.Module):
    """Attention and a two-layer MLP (D -> 4D -> D), each with a residual path and a LayerNorm."""

    def __init__(self, d_model: int, n_head: int, dropout: float, norm: Norm, activation: ActivationName):
        super().__init__()
        self.norm, self.activation, self.dropout = norm, _ACTIVATIONS[activation], dropout
        self.attention = CausalSelfAttention(d_model, n_head, dropout)
        self.norm_1 = nn.LayerNorm(d_model)
        self.expand = nn.Linear(d_model, 4 * d_model)
        self.contract = nn.Linear(4 * d_model, d_model)
        self.norm_2 = nn.LayerNorm(d_model)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        rows: Tensor | None = None,
        generator: Generator | None = None,
        keep: list[KeysValues] | None = None,
    ) -> Tensor:
        """x (B, S, D) -> (B, S, D), or (B, Q, D) for selected rows; `keep` receives the keys and values."""
        q, k, v = self.attention.project(self.norm_1(x) if self.norm == "pre" else x, rows)
        if keep is not None:
            keep.append((k, v))
        if rows is not None:
            x, bias = select_rows(x, rows), select_rows(bias, rows, dim=2)
        return self._residual(x, self.attention.attend(q, k, v, bias, generator), generator)

    def extend(self, x: Tensor, past: KeysValues, bias: Tensor | None) -> Tensor:
        """The block on one token (B, 1, D) that follows tokens whose keys and values were kept."""
        q, k, v = self.attention.project(self.norm_1(x) if self.norm == "pre" else x, None)
        return self._residual(x, self.attention.attend_after(q, k, v, past, bias), None)

    def _residual(self, x: Tensor, attended: Tensor, generator: Generator | None) -> Tensor:
        if self.norm == "post":
            x = self.norm_1(x + self._drop(attended, generator))
            return self.norm_2(x + self._drop(self._mlp(x), generator))
        x = x + self._drop(attended, generator)
        return x + self._drop(self._mlp(self.norm_2(x)), generator)

    def _mlp(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.is_grad_enabled():
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
        bias: Tensor,
        rows: Tensor | None = None,
        generator: Generator | None = None,
        keep: list[KeysValues] | None = None,
    ) -> Tensor:
        """Hidden states of the rows asked for.

        Args:
            x: (B, S, D) tokens. bias: (B or 1, 1, S, S) additive attention mask.
            rows: positions whose output is wanted, (Q,) or (B, Q); None for all.
            generator: randomness of dropout in training mode.
            keep: list that receives (keys, values) of each block, for `extend`.
        Returns:
            (B, Q, D), or (B, S, D) when rows is None.
        """
        for block in self.blocks[:-1]:
            x = block(x, bias, None, generator, keep)
        return self.final_norm(self.blocks[-1](x, bias, rows, generator, keep))

    def extend(self, x: Tensor, past: list[KeysValues], bias: Tensor | None) -> Tensor:
        """Hidden state (B, 1, D) of one more token x (B, 1, D) after the tokens kept in `past`."""
        for block, keys_values in zip(self.blocks, past, strict=True):
            x = block.extend(x, keys_values, bias)
        return self.final_norm(x)
