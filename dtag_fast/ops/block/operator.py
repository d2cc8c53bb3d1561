"""The kernels with autograd: a function for eager mode, a registered operator for torch.compile and export.

Both compute the same; a registered operator costs tens of microseconds a call more in eager mode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import Kept, backward, forward, new_outputs, operands, weight_gradients
from .weights import BlockWeights

WEIGHTS = len(BlockWeights._fields)


class Block(torch.autograd.Function):
    """block(*options, x, *weights) -> out; options: as block_operator has them."""

    @staticmethod
    def forward(ctx, positions, start, length, seed, n_head, norm, activation, dropout_p, x, *weights):
        ctx.rest = (n_head, norm, activation, dropout_p)
        out, kept = forward(operands(x, weights, positions, start, length, seed, *ctx.rest))
        ctx.save_for_backward(positions, start, length, seed, x, *weights, *kept)
        return out

    @staticmethod
    def backward(ctx, grad):
        *lists, x = ctx.saved_tensors[:5]
        weights, kept = ctx.saved_tensors[5 : 5 + WEIGHTS], ctx.saved_tensors[5 + WEIGHTS :]
        o = operands(x, weights, *lists, *ctx.rest)
        dx, matrices, vectors = backward(o, Kept(*kept), grad.contiguous())
        return *(None,) * 8, dx, *weight_gradients(matrices, vectors)


@torch.library.custom_op("dtag_fast::transformer_block", mutates_args=())
def block_operator(
    x: Tensor,
    weights: list[Tensor],
    positions: Tensor | None,
    start: Tensor | None,
    length: Tensor | None,
    seed: Tensor | None,
    n_head: int,
    norm: str,
    activation: str,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(out, *launch.Kept); arguments as launch.Operands has them."""
    out, kept = forward(
        operands(x, weights, positions, start, length, seed, n_head, norm, activation, dropout_p)
    )
    return out, *kept


@block_operator.register_fake
def _(x, weights, positions, start, length, seed, n_head, norm, activation, dropout_p):
    out, kept = new_outputs(x, x.shape[1] if positions is None else positions.shape[-1], norm)
    return out, *kept


@torch.library.custom_op("dtag_fast::transformer_block_backward", mutates_args=())
def block_backward_operator(
    x: Tensor,
    weights: list[Tensor],
    positions: Tensor | None,
    start: Tensor | None,
    length: Tensor | None,
    seed: Tensor | None,
    n_head: int,
    norm: str,
    activation: str,
    dropout_p: float,
    kept: list[Tensor],
    grad: Tensor,
) -> list[Tensor]:
    """The gradients of x and of the four matrices, then those of the vectors, in one tensor."""
    o = operands(x, weights, positions, start, length, seed, n_head, norm, activation, dropout_p)
    dx, matrices, vectors = backward(o, Kept(*kept), grad.contiguous())
    return [dx, *matrices, vectors]


@block_backward_operator.register_fake
def _(x, weights, positions, start, length, seed, n_head, norm, activation, dropout_p, kept, grad):
    shapes = [tensor.shape for tensor in (x, *weights) if tensor.ndim > 1]
    shapes.append((sum(weight.numel() for weight in weights if weight.ndim == 1),))
    return [torch.empty(shape, dtype=x.dtype, device=x.device) for shape in shapes]


def _save(ctx, inputs, output):
    x, weights, *lists, n_head, norm, activation, dropout_p = inputs
    ctx.rest = (n_head, norm, activation, dropout_p)
    ctx.save_for_backward(x, *weights, *lists, *output[1:])


def _backward(ctx, grad, *_):
    x, *rest = ctx.saved_tensors
    weights, lists, kept = rest[:WEIGHTS], rest[WEIGHTS : WEIGHTS + 4], rest[WEIGHTS + 4 :]
    dx, *matrices, vectors = torch.ops.dtag_fast.transformer_block_backward(
        x, weights, *lists, *ctx.rest, kept, grad
    )
    return dx, list(weight_gradients(matrices, vectors)), *(None,) * 8


block_operator.register_autograd(_backward, setup_context=_save)


def block_triton(x, weights, positions, start, length, seed, n_head, norm, activation, dropout_p) -> Tensor:
    """out (B, S or Q, D) by the kernels."""
    if torch.compiler.is_compiling():
        arguments = (positions, start, length, seed, n_head, norm, activation, dropout_p)
        return torch.ops.dtag_fast.transformer_block(x, list(weights), *arguments)[0]
    return Block.apply(positions, start, length, seed, n_head, norm, activation, dropout_p, x, *weights)
