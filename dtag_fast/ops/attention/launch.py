"""Launches of the attention kernels, without autograd."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dtag_fast.ops.philox import keep_scale_of, threshold_of
from dtag_fast.ops.triton_support import on_device, product_precision

from .tiles import Tiles, launch_options, tiles_for


class Operands(NamedTuple):
    """What a call computes from. Tensors of padding, positions and seed are on the device of the others."""

    q: Tensor  # (B, Q, H, D)
    kv: Tensor  # (B, S, 2, H, D)
    positions: Tensor | None  # (Q,) or (B, Q) tokens of the queries; None: query i is token i
    start: Tensor | None  # (B,)
    length: Tensor | None  # (B,)
    seed: Tensor | None  # (1,) int64; None without dropout
    dropout_p: float
    scale: float


def split(qkv: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries (B, Q, H, D) and keys with values (B, S, 2, H, D), as views."""
    return (qkv[:, :, 0], qkv[:, :, 1:]) if q is None else (q, qkv)


def operands(qkv, q, positions, start, length, seed, dropout_p, scale) -> Operands:
    """What a call computes from, copied where the kernels could not read it in place."""

    def with_unit_stride(x: Tensor) -> Tensor:  # the numbers of a head side by side
        return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()

    lists = [x if x is None else x.contiguous() for x in (positions, start, length)]
    tensors = split(with_unit_stride(qkv), q if q is None else with_unit_stride(q))
    return Operands(*tensors, *lists, seed, dropout_p, scale)


def _scalars(o: Operands) -> tuple:
    batch, queries, heads, _ = o.q.shape
    stride = o.positions.stride(0) if o.positions is not None and o.positions.ndim == 2 else 0
    return (
        stride,
        batch * heads,
        heads,
        queries,
        o.kv.shape[1],
        o.scale,
        threshold_of(o.dropout_p),
        keep_scale_of(o.dropout_p),
    )


def _constants(o: Operands, tiles: Tiles) -> dict:
    """Compile-time constants and launch options."""
    hip = torch.version.hip is not None
    return {
        **tiles.constants(o.q.shape[-1]),
        "PRECISION": product_precision(o.q.dtype, o.q.device),
        **launch_options(tiles, o.q.dtype.itemsize, hip=hip),
    }


def _tiles(o: Operands, backward: bool) -> tuple[Tiles, int]:
    """The sizes and the number of groups of sequences."""
    batch, queries, heads, width = o.q.shape
    tiles = tiles_for(queries, o.kv.shape[1], width, o.q.dtype.itemsize, backward=backward)
    return tiles, -(-batch * heads // tiles.group)


def _strides(q: Tensor, kv: Tensor) -> tuple[int, ...]:
    return (*q.stride()[:3], kv.stride(0), kv.stride(1), kv.stride(3))


def forward(o: Operands) -> tuple[Tensor, Tensor]:
    """(out (B, Q, H * D), lse (B * H, Q) float32, the base-2 logarithm of each row's sum)."""
    from .kernels import attention_forward  # Triton takes seconds to import

    batch, queries, heads, width = o.q.shape
    out = o.q.new_empty(batch, queries, heads * width)
    lse = o.q.new_empty(batch * heads, queries, dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    tiles, groups = _tiles(o, backward=False)
    grid = (groups, -(-queries // tiles.query_rows))
    with on_device(o.q.device):
        attention_forward[grid](
            o.q,
            o.kv[:, :, 0],
            o.kv[:, :, 1],
            out,
            lse,
            o.positions,
            o.start,
            o.length,
            o.seed,
            *_strides(o.q, o.kv),
            *_scalars(o),
            **_constants(o, tiles),
        )
    return out, lse


def backward(o: Operands, out: Tensor, lse: Tensor, grad: Tensor, dq: Tensor, dkv: Tensor) -> None:
    """Write the gradients of q and kv; grad (B, Q, H * D) contiguous."""
    from .kernels import attention_backward

    if out.numel() == 0:
        dq.zero_()
        dkv.zero_()
        return
    tiles, groups = _tiles(o, backward=True)
    parts = -(-o.kv.shape[1] // tiles.key_rows) + -(-o.q.shape[1] // tiles.query_rows)
    grid = (groups, 1 if tiles.whole else parts)
    with on_device(o.q.device):
        attention_backward[grid](
            o.q,
            o.kv[:, :, 0],
            o.kv[:, :, 1],
            out,
            lse,
            grad,
            dq,
            dkv[:, :, 0],
            dkv[:, :, 1],
            o.positions,
            o.start,
            o.length,
            o.seed,
            *_strides(o.q, o.kv),
            *_strides(dq, dkv),
            *_scalars(o),
            **_constants(o, tiles),
        )
