"""The operators that exported policies are made of, as PyTorch computes them.

Values are tensors here and names of tensors in `OnnxOperators`; both have + - * / @ < <= > & | ~ between each
other and with numbers, and the methods below. Axes of reductions are the last one, which is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Value = Any  # a Tensor, or an OnnxValue


class TorchOperators:
    """See the head of this file.

    Args:
        dtype: of the numbers with a fraction, inputs and weights alike.
    """

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.dtype = dtype

    def constant(self, tensor: Tensor) -> Tensor:
        """A weight or another fixed tensor."""
        tensor = tensor.detach()
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x (..., in), weight (out, in), bias (out,) -> (..., out)."""
        return F.linear(x, self.constant(weight), None if bias is None else self.constant(bias))

    def linear_backward(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """gradient (..., out), weight (out, in) -> (..., in)."""
        return gradient @ self.constant(weight)

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """Over the last axis, biased variance."""
        weight, bias = (None if t is None else self.constant(t) for t in (weight, bias))
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def rows_of(self, table: Tensor, indices: Tensor) -> Tensor:
        """table (T, D), indices (...) int64 -> (..., D)."""
        return self.constant(table)[indices]

    def pick(self, x: Tensor, at: Tensor) -> Tensor:
        """x (B, T, D), at (B, 1) int64 -> (B, D), row at[b] of each."""
        return x.gather(1, at[:, :, None].expand(-1, -1, x.shape[-1]))[:, 0]

    def reshape(self, x: Tensor, *sizes: int) -> Tensor:
        return x.reshape(sizes)

    def transpose(self, x: Tensor, *axes: int) -> Tensor:
        return x.permute(axes)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(parts), axis)

    def slice(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        return x.narrow(axis, start, stop - start)

    def where(self, condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
        x, y = (v if isinstance(v, Tensor) else torch.tensor(v, dtype=self.dtype) for v in (x, y))
        return torch.where(condition, x, y)

    def relu(self, x: Tensor) -> Tensor:
        return x.relu()

    def softmax(self, x: Tensor) -> Tensor:
        return x.softmax(-1)

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True)

    def mean(self, x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True)

    def largest(self, x: Tensor) -> Tensor:
        return x.amax(-1, keepdim=True)

    def where_largest(self, x: Tensor) -> Tensor:
        """Index of the largest number, int64; the first on ties."""
        return x.argmax(-1, keepdim=True)

    def minimum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp(max=y)

    def maximum(self, x: Tensor, y: Tensor | float) -> Tensor:
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)

    def is_nan(self, x: Tensor) -> Tensor:
        return x.isnan()

    def is_finite(self, x: Tensor) -> Tensor:
        return x.isfinite()

    def equal(self, x: Tensor, y: Tensor) -> Tensor:
        return x == y

    def sqrt(self, x: Tensor) -> Tensor:
        return x.sqrt()

    def exp(self, x: Tensor) -> Tensor:
        return x.exp()

    def log(self, x: Tensor) -> Tensor:
        return x.log()

    def tanh(self, x: Tensor) -> Tensor:
        return x.tanh()

    def erf(self, x: Tensor) -> Tensor:
        return x.erf()

    def sigmoid(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def abs(self, x: Tensor) -> Tensor:
        return x.abs()
