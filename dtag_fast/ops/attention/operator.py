"""The kernels with autograd: a function for eager mode, a registered operator for torch.compile and export.

Both compute the same; a registered operator costs tens of microseconds a call more in eager mode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import backward, forward, operands, split


def _gradients(qkv, q, rest, out, lse, grad) -> tuple[Tensor, Tensor | None]:
    """(dqkv, dq): laid out as qkv and q are, dq None where the queries are in qkv."""
    dqkv, dq = torch.empty_like(qkv, memory_format=torch.contiguous_format), None
    if q is not None:
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
    backward(operands(qkv, q, *rest), out, lse, grad.contiguous(), *split(dqkv, dq))
    return dqkv, dq


class Attention(torch.autograd.Function):
    """attention(qkv, q, positions, start, length, seed, dropout_p, scale) -> out."""

    @staticmethod
    def forward(ctx, qkv, q, *rest):
        out, lse = forward(operands(qkv, q, *rest))
        *tensors, ctx.dropout_p, ctx.scale = rest
        ctx.save_for_backward(qkv, q, *tensors, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):
        qkv, q, *tensors, out, lse = ctx.saved_tensors
        dqkv, dq = _gradients(qkv, q, (*tensors, ctx.dropout_p, ctx.scale), out, lse, grad)
        return dqkv, dq, None, None, None, None, None, None


@torch.library.custom_op("dtag_fast::attention", mutates_args=())
def attention_operator(
    qkv: Tensor,
    q: Tensor | None,
    positions: Tensor | None,
    start: Tensor | None,
    length: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(out, lse); arguments as launch.Operands has them, qkv (B, S, 3, H, D), or (B, S, 2, H, D) beside q."""
    return forward(operands(qkv, q, positions, start, length, seed, dropout_p, scale))


@attention_operator.register_fake
def _(qkv, q, positions, start, length, seed, dropout_p, scale):
    queries = split(qkv, q)[0]
    batch, rows, heads, width = queries.shape
    out = qkv.new_empty(batch, rows, heads * width)
    return out, qkv.new_empty(batch * heads, rows, dtype=torch.float32)


@torch.library.custom_op("dtag_fast::attention_backward", mutates_args=())
def attention_backward_operator(
    qkv: Tensor,
    q: Tensor | None,
    positions: Tensor | None,
    start: Tensor | None,
    length: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
) -> list[Tensor]:
    """[dqkv] or [dqkv, dq]."""
    rest = (positions, start, length, seed, dropout_p, scale)
    return [x for x in _gradients(qkv, q, rest, out, lse, grad) if x is not None]


@attention_backward_operator.register_fake
def _(qkv, q, positions, start, length, seed, dropout_p, scale, out, lse, grad):
    given = [qkv] if q is None else [qkv, q]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in given]


def _save(ctx, inputs, output):
    qkv, q, positions, start, length, seed, ctx.dropout_p, ctx.scale = inputs
    ctx.save_for_backward(qkv, q, positions, start, length, seed, *output)


def _backward(ctx, grad, _):
    qkv, q, positions, start, length, seed, out, lse = ctx.saved_tensors
    found = torch.ops.dtag_fast.attention_backward(
        qkv, q, positions, start, length, seed, ctx.dropout_p, ctx.scale, out, lse, grad
    )
    dqkv, dq = found if q is not None else (found[0], None)
    return dqkv, dq, None, None, None, None, None, None


attention_operator.register_autograd(_backward, setup_context=_save)


def attention_triton(qkv, q, positions, start, length, seed, dropout_p, scale) -> Tensor:
    """out (B, Q, H * D) by the kernels."""
    arguments = (qkv, q, positions, start, length, seed, dropout_p, scale)
    if torch.compiler.is_compiling():
        return torch.ops.dtag_fast.attention(*arguments)[0]
    return Attention.apply(*arguments)
