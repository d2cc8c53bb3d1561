"""Launches of the embedding kernels, without autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dtag_fast.ops.triton_support import on_device, product_precision

from .tiles import (
    FEW_STEPS,
    FEW_TILES,
    SUMMED_INPUTS,
    TableTiles,
    Tiles,
    chunk_for,
    launch_options,
    tiles_for,
)

MOST_KINDS = 3


class Operands(NamedTuple):
    """What a call computes from, on one device; float tensors of one type."""

    inputs: Sequence[Tensor]  # (B, K, width of the kind) of each of n kinds of tokens, in their order
    weights: Sequence[Tensor]  # (D, width of the kind)
    biases: Sequence[Tensor]  # (D,)
    timesteps: Tensor  # (B, K) integers
    table: Tensor  # (T, D)
    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    omit: int
    eps: float

    @property
    def tokens(self) -> int:
        """Of a batch row: n K - omit."""
        return len(self.inputs) * self.timesteps.shape[1] - self.omit


def readable(o: Operands) -> Operands:
    """The same, copied where the kernels could not read it in place."""

    def with_unit_stride(x: Tensor) -> Tensor:  # the numbers of a step side by side
        return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()

    return o._replace(
        inputs=[with_unit_stride(x) for x in o.inputs],
        weights=[x.contiguous() for x in o.weights],
        biases=[x.contiguous() for x in o.biases],
        table=o.table.contiguous(),
        norm_weight=o.norm_weight.contiguous(),
        norm_bias=o.norm_bias.contiguous(),
    )


def _filled(values: Sequence) -> tuple:
    """One value per slot of the kernels, None where there is no such kind."""
    return (*values, *(None,) * (MOST_KINDS - len(values)))


def _scalars(o: Operands) -> tuple:
    batch_strides = [x.stride(0) for x in o.inputs] + [0] * (MOST_KINDS - len(o.inputs))
    step_strides = [x.stride(1) for x in o.inputs] + [0] * (MOST_KINDS - len(o.inputs))
    strides = (*batch_strides, *step_strides, *o.timesteps.stride())
    return (*strides, *o.timesteps.shape, o.tokens, o.table.shape[0], o.eps)


def slot_constants(widths: Sequence[int], itemsize: int) -> dict[str, int]:
    """What a kernel is compiled for: how many numbers the inputs of each kind are."""
    constants = {"SLOTS": len(widths)}
    for slot in range(MOST_KINDS):
        inputs = widths[slot] if slot < len(widths) else 1
        constants |= {f"INPUTS_{slot}": inputs, f"CHUNK_{slot}": chunk_for(inputs, itemsize)}
    return constants


def _tiles(o: Operands) -> tuple[Tiles, int]:
    """The sizes and the number of tiles of steps."""
    tiles = tiles_for(o.table.shape[1], max(x.shape[2] for x in o.inputs))
    return tiles, -(-o.timesteps.numel() // tiles.rows)


def _constants(o: Operands, tiles: Tiles) -> dict:
    """Compile-time constants and launch options."""
    dtype, width = o.table.dtype, o.table.shape[1]
    return {
        **slot_constants([x.shape[2] for x in o.inputs], dtype.itemsize),
        **tiles.constants(width),
        "PRECISION": product_precision(dtype, o.table.device),
        **launch_options(tiles, dtype.itemsize, hip=torch.version.hip is not None),
    }


def sum_rows(widths: Sequence[int]) -> tuple[int, list[int]]:
    """How many sums over all steps backward makes, and which is the first of each kind: norm_weight,
    norm_bias, then the bias of each kind, followed by its weight (in as many rows) if its inputs are few."""
    first, rows = [], 2
    for width in widths:
        first.append(rows)
        rows += 1 + (width if width <= SUMMED_INPUTS else 0)
    return rows, first


def forward(o: Operands) -> Tensor:
    """(B, n K - omit, D)."""
    from .kernels import embedding_forward  # Triton takes seconds to import

    o = readable(o)
    out = o.table.new_empty(o.timesteps.shape[0], o.tokens, o.table.shape[1])
    if out.numel() == 0:
        return out
    tiles, programs = _tiles(o)
    with on_device(out.device):
        embedding_forward[(programs, len(o.inputs) if programs <= FEW_TILES else 1)](
            *_filled(o.inputs),
            *_filled(o.weights),
            *_filled(o.biases),
            *(o.timesteps, o.table, o.norm_weight, o.norm_bias, out),
            *_scalars(o),
            **_constants(o, tiles),
        )
    return out


def backward(o: Operands, grad: Tensor, stored: Sequence[bool], timed: bool) -> list[Tensor]:
    """The gradient before LayerNorm and what follows from it by sums, from grad (B, n K - omit, D).

    Args:
        stored: of each kind, whether the gradient of its tokens before LayerNorm is wanted.
        timed: whether that of the timestep table is.
    Returns:
        [sums (rows, D) float32, see `sum_rows`; (B K, D) in the type of the inputs of each kind that is
        stored; and if timed (T, D) float32].
    """
    from .kernels import embedding_backward

    o, grad = readable(o), grad.contiguous()
    (batch, steps), width = o.timesteps.shape, o.table.shape[1]
    rows, first = sum_rows([x.shape[2] for x in o.inputs])
    tiles, programs = _tiles(o)
    sums = grad.new_empty(programs, rows, width, dtype=torch.float32)
    d_y = [o.table.new_empty(batch * steps, width) if wanted else None for wanted in stored]
    d_time = clamped = None
    if timed:
        d_time = grad.new_empty(batch * steps, width, dtype=torch.float32)
        clamped = o.timesteps.new_empty(batch * steps, dtype=torch.int32)
    if programs > 0:
        with on_device(grad.device):
            embedding_backward[(programs,)](
                *_filled(o.inputs),
                *_filled(o.weights),
                *_filled(o.biases),
                *(o.timesteps, o.table, o.norm_weight, grad),
                *_filled(d_y),
                *(d_time, clamped, sums),
                *_scalars(o),
                **_constants(o, tiles),
                **sum_constants(rows, first),
            )
    d_table = [_table_gradient(d_time, clamped, o.table.shape[0])] if timed else []
    return [sums.sum(0), *(d for d in d_y if d is not None), *d_table]


def _table_gradient(d_time: Tensor, clamped: Tensor, table_rows: int) -> Tensor:
    """(table_rows, D) float32: sums of the rows of d_time (B K, D) that belong to each of the table."""
    from .kernels import table_gradient

    total, width = d_time.shape
    if total > FEW_STEPS:
        # Equal rows are summed in the order of a sort, without atomics and without waiting for the device.
        return torch.ops.aten.embedding_dense_backward(d_time, clamped, table_rows, -1, False)
    out, tiles = d_time.new_empty(table_rows, width), TableTiles()
    precision = product_precision(torch.float32, out.device)
    with on_device(out.device):
        table_gradient[(-(-table_rows // tiles.rows), -(-width // tiles.columns))](
            *(d_time, clamped, out, total, table_rows),
            **tiles.constants(width),
            PRECISION="tf32x3" if precision == "tf32" else precision,  # it only adds, so nothing is rounded
            **launch_options(tiles, 4, hip=torch.version.hip is not None),
        )
    return out


def sum_constants(rows: int, first: Sequence[int]) -> dict[str, int]:
    """Where the backward kernel puts its sums."""
    return {"SUMS": rows, "SUM_1": first[1], "SUM_2": first[-1]}
