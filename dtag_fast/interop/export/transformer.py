"""The blocks of models/transformer.py over a window of fixed length, in plain operators.

Masked scores are -1e30 and not -inf: rows of padding, which see nothing, then give finite numbers that nobody
looks at, while the weight of a masked key is exactly 0 for everybody else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtag_fast.interop.export import activations
from dtag_fast.interop.export.operators import Value
from dtag_fast.models.transformer import Block, Transformer

MASKED = -1e30


class WrittenTransformer:
    """Args: ops: the operators. transformer: the weights. tokens: T of every sequence."""

    def __init__(self, ops, transformer: Transformer, tokens: int):
        self.ops, self.blocks, self.final_norm = ops, transformer.blocks, transformer.final_norm
        self.tokens, self.d = tokens, transformer.blocks[0].expand.in_features
        self.positions = torch.arange(tokens)

    def causal_bias(self, real: Value) -> Value:
        """(B, 1, T, T) to add to scores, of windows whose real tokens are `real` (B, T) bool."""
        ops, t = self.ops, self.tokens
        earlier = self.positions[None, :] <= self.positions[:, None]
        seen = ops.reshape(real, -1, 1, 1, t) & ops.constant(earlier[None, None])
        return ops.where(seen, 0.0, MASKED)

    def row_bias(self, real: Value, at: Value) -> Value:
        """(B, 1, 1, T): the same for one query of each window, token at (B, 1)."""
        ops, t = self.ops, self.tokens
        seen = real & (ops.constant(self.positions[None]) <= at)
        return ops.where(ops.reshape(seen, -1, 1, 1, t), 0.0, MASKED)

    def __call__(self, x: Value, real: Value, at: Value) -> tuple[Value, list[tuple[Value, Value]]]:
        """tokens x (B, T, D) -> the output of token at (B, 1) of each, (B, 1, D), and the keys and values of
        every block, (B, H, T, D/H) each."""
        ops = self.ops
        bias, kept = self.causal_bias(real), []
        *blocks, last = self.blocks
        for block in blocks:
            y = self._input(block, x)
            k, v = self._keys_and_values(block, y, self.tokens)
            kept.append((k, v))
            mixed = self._attend(block, self._queries(block, y, self.tokens), k, v, bias, self.tokens)
            x = self._residual(block, x, mixed)
        y = self._input(last, x)
        k, v = self._keys_and_values(last, y, self.tokens)
        kept.append((k, v))
        row, y = (ops.reshape(ops.pick(z, at), -1, 1, self.d) for z in (x, y))
        mixed = self._attend(last, self._queries(last, y, 1), k, v, self.row_bias(real, at), 1)
        return self._norm(self.final_norm, self._residual(last, row, mixed)), kept

    def extend(self, x: Value, kept: list[tuple[Value, Value]], bias: Value) -> Value:
        """One more token x (B, 1, D) that sees the kept ones as `bias` (B, 1, 1, T) says, and itself."""
        ops = self.ops
        bias = ops.concat([bias, ops.slice(bias, 3, 0, 1) * 0.0], 3)
        for block, (keys, values) in zip(self.blocks, kept, strict=True):
            y = self._input(block, x)
            k, v = self._keys_and_values(block, y, 1)
            k, v = ops.concat([keys, k], 2), ops.concat([values, v], 2)
            x = self._residual(block, x, self._attend(block, self._queries(block, y, 1), k, v, bias, 1))
        return self._norm(self.final_norm, x)

    def _input(self, block: Block, x: Value) -> Value:
        return self._norm(block.norm_1, x) if block.norm == "pre" else x

    def _queries(self, block: Block, x: Value, count: int) -> Value:
        return self._heads(block, x, 0, count)

    def _keys_and_values(self, block: Block, x: Value, count: int) -> tuple[Value, Value]:
        return self._heads(block, x, 1, count), self._heads(block, x, 2, count)

    def _heads(self, block: Block, x: Value, which: int, count: int) -> Value:
        """x (B, n, D) -> (B, H, n, D/H); which: 0 queries, 1 keys, 2 values."""
        layer, d, n_head = block.attention.qkv, self.d, block.attention.n_head
        part = slice(which * d, (which + 1) * d)
        projected = self.ops.linear(x, layer.weight[part], layer.bias[part])
        return self.ops.transpose(self.ops.reshape(projected, -1, count, n_head, d // n_head), 0, 2, 1, 3)

    def _attend(self, block: Block, q: Value, k: Value, v: Value, bias: Value, count: int) -> Value:
        ops, out = self.ops, block.attention.out
        scores = q @ ops.transpose(k, 0, 1, 3, 2) * (self.d // block.attention.n_head) ** -0.5
        mixed = ops.transpose(ops.softmax(scores + bias) @ v, 0, 2, 1, 3)
        return ops.linear(ops.reshape(mixed, -1, count, self.d), out.weight, out.bias)

    def _residual(self, block: Block, x: Value, attended: Value) -> Value:
        x = x + attended
        if block.norm == "post":
            x = self._norm(block.norm_1, x)
            return self._norm(block.norm_2, x + self._mlp(block, x))
        return x + self._mlp(block, self._norm(block.norm_2, x))

    def _mlp(self, block: Block, x: Value) -> Value:
        ops, expand, contract = self.ops, block.expand, block.contract
        hidden = ops.linear(x, expand.weight, expand.bias)
        hidden = activations.apply(ops, activations.NAMED[block.activation_name], hidden)
        return ops.linear(hidden, contract.weight, contract.bias)

    def _norm(self, layer, x: Value) -> Value:
        return layer_norm(self.ops, layer, x)


def layer_norm(ops, layer: torch.nn.Module, x: Value) -> Value:
    """A LayerNorm module, or an Identity."""
    if isinstance(layer, torch.nn.Identity):
        return x
    weight: Tensor = layer.weight
    return ops.layer_norm(x, weight, layer.bias, layer.eps)
