"""The kernels with autograd: a function for eager mode, a registered operator for torch.compile and export.

Both compute the same; a registered operator costs tens of microseconds a call more in eager mode. The order
of every sum is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .launch import Operands, backward, forward, sum_rows
from .tiles import SUMMED_INPUTS


def _gradients(
    kernel: Callable[..., list[Tensor]],
    o: Operands,
    grad: Tensor,
    needs: Sequence[Sequence[bool]],
) -> list[list[Tensor | None]]:
    """Gradients of [inputs, weights, biases, (table, norm_weight, norm_bias)], None where not needed.

    Args:
        kernel: `launch.backward`, or the operator of it.
        needs: which ones are, in the same order.
    """
    widths = [x.shape[2] for x in o.inputs]
    of_inputs, of_weights, of_biases, (of_table, of_norm_weight, of_norm_bias) = needs
    summed = [width <= SUMMED_INPUTS for width in widths]
    stored = [x or (w and not s) for x, w, s in zip(of_inputs, of_weights, summed, strict=True)]
    sums, *rest = kernel(o, grad, stored, of_table)
    sums = sums.to(o.table.dtype)
    _, first = sum_rows(widths)
    d_inputs, d_weights, d_biases = [], [], []
    for k, (x, weight) in enumerate(zip(o.inputs, o.weights, strict=True)):
        d = rest.pop(0) if stored[k] else None  # (B K, D)
        d_inputs.append((d @ weight).view(x.shape) if of_inputs[k] else None)
        d_weight = None
        if of_weights[k]:
            rows = slice(first[k] + 1, first[k] + 1 + widths[k])
            d_weight = sums[rows].view_as(weight) if summed[k] else d.t() @ x.reshape(-1, widths[k])
        d_weights.append(d_weight)
        d_biases.append(sums[first[k]] if of_biases[k] else None)
    d_table = rest.pop().to(o.table.dtype) if of_table else None
    d_norm = [sums[0] if of_norm_weight else None, sums[1] if of_norm_bias else None]
    return [d_inputs, d_weights, d_biases, [d_table, *d_norm]]


def _operands(timesteps: Tensor, omit: int, eps: float, leaves: Sequence[Tensor]) -> Operands:
    """leaves: inputs, weights and biases of all kinds, then table, norm_weight and norm_bias."""
    *kinds, table, norm_weight, norm_bias = leaves
    n = len(kinds) // 3
    inputs, weights, biases = kinds[:n], kinds[n : 2 * n], kinds[2 * n :]
    return Operands(inputs, weights, biases, timesteps, table, norm_weight, norm_bias, omit, eps)


class EmbedTokens(torch.autograd.Function):
    """(timesteps, omit, eps, *inputs, *weights, *biases, table, norm_weight, norm_bias) -> tokens."""

    @staticmethod
    def forward(ctx, timesteps, omit, eps, *leaves):
        ctx.omit, ctx.eps = omit, eps
        ctx.save_for_backward(timesteps, *leaves)
        return forward(_operands(timesteps, omit, eps, leaves))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        timesteps, *leaves = ctx.saved_tensors
        o = _operands(timesteps, ctx.omit, ctx.eps, leaves)
        n, needs = len(o.inputs), ctx.needs_input_grad[3:]
        needs = needs[:n], needs[n : 2 * n], needs[2 * n : 3 * n], needs[3 * n :]
        return None, None, None, *chain(*_gradients(backward, o, grad, needs))


@torch.library.custom_op("dtag_fast::embed_tokens", mutates_args=())
def embed_operator(
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
    """(B, n K - omit, D); arguments as launch.Operands has them."""
    return forward(Operands(inputs, weights, biases, timesteps, table, norm_weight, norm_bias, omit, eps))


@embed_operator.register_fake
def _(inputs, weights, biases, timesteps, table, norm_weight, norm_bias, omit, eps):
    batch, steps = timesteps.shape
    return table.new_empty(batch, len(inputs) * steps - omit, table.shape[1])


@torch.library.custom_op("dtag_fast::embed_tokens_backward", mutates_args=())
def embed_backward_operator(
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    timesteps: Tensor,
    table: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    omit: int,
    eps: float,
    grad: Tensor,
    stored: Sequence[bool],
    timed: bool,
) -> list[Tensor]:
    """As launch.backward."""
    o = Operands(inputs, weights, biases, timesteps, table, norm_weight, norm_bias, omit, eps)
    return backward(o, grad, stored, timed)


@embed_backward_operator.register_fake
def _(
    inputs, weights, biases, timesteps, table, norm_weight, norm_bias, omit, eps, grad, stored, timed
):  # fmt: skip
    width, rows = table.shape[1], timesteps.shape[0] * timesteps.shape[1]
    made = [table.new_empty(sum_rows([x.shape[2] for x in inputs])[0], width, dtype=torch.float32)]
    made += [table.new_empty(rows, width) for wanted in stored if wanted]
    if timed:
        made.append(table.new_empty(table.shape, dtype=torch.float32))
    return made


def _save(ctx, inputs, output):
    kinds, (timesteps, *shared, ctx.omit, ctx.eps) = inputs[:3], inputs[3:]
    ctx.save_for_backward(timesteps, *chain(*kinds), *shared)


def _backward(ctx, grad):
    timesteps, *leaves = ctx.saved_tensors
    o = _operands(timesteps, ctx.omit, ctx.eps, leaves)
    needs = [*ctx.needs_input_grad[:3], ctx.needs_input_grad[4:7]]

    def kernel(o, *rest):
        return torch.ops.dtag_fast.embed_tokens_backward(*o, *rest)

    *kinds, shared = _gradients(kernel, o, grad, needs)
    return *kinds, None, *shared, None, None


embed_operator.register_autograd(_backward, setup_context=_save)


def embed_triton(o: Operands) -> Tensor:
    """(B, n K - omit, D) by the kernels."""
    if torch.compiler.is_compiling():
        return torch.ops.dtag_fast.embed_tokens(*o)
    leaves = (*o.inputs, *o.weights, *o.biases, o.table, o.norm_weight, o.norm_bias)
    return EmbedTokens.apply(o.timesteps, o.omit, o.eps, *leaves)
