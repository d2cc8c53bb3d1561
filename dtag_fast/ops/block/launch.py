"""Launches of the block's kernels, without autograd."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dtag_fast.ops.philox import keep_scale_of, threshold_of
from dtag_fast.ops.triton_support import on_device, product_precision

from .tiles import Tiles, launch_options, tiles_for
from .weights import BlockWeights


class Operands(NamedTuple):
    """What a call computes from, contiguous, and on one device."""

    x: Tensor  # (B, S, D)
    weights: BlockWeights
    positions: Tensor | None  # (Q,) or (B, Q) tokens of the queries; None: query i is token i
    start: Tensor | None  # (B,)
    length: Tensor | None  # (B,)
    seed: Tensor | None  # (1,) int64; None without dropout
    n_head: int
    norm: str
    activation: str
    dropout_p: float

    @property
    def queries(self) -> int:
        return self.x.shape[1] if self.positions is None else self.positions.shape[-1]


class Kept(NamedTuple):
    """What forward leaves for backward. Only `between` of a block with the norm before has S rows."""

    mixed: Tensor  # (B, Q, D) the heads' weighted values, before the output projection
    attended: Tensor  # (B, Q, D) x + drop(Attn(.))
    mlp_in: Tensor  # (B, Q, D) what the MLP reads: LN1(attended), or LN2(attended) with the norm before
    between: Tensor  # LN1(x) (B, S, D) with the norm before, mlp_in + drop(MLP(mlp_in)) (B, Q, D) after


def operands(x, weights, positions, start, length, seed, n_head, norm, activation, dropout_p) -> Operands:
    """What a call computes from, copied where the kernels could not read it in place."""
    lists = [None if i is None else i.contiguous() for i in (positions, start, length)]
    weights = BlockWeights(*(weight.contiguous() for weight in weights))
    return Operands(x.contiguous(), weights, *lists, seed, n_head, norm, activation, dropout_p)


def new_outputs(x: Tensor, queries: int, norm: str) -> tuple[Tensor, Kept]:
    """Memory for a block's output and what it keeps."""
    batch, tokens, width = x.shape

    def rows(n: int) -> Tensor:
        return torch.empty((batch, n, width), dtype=x.dtype, device=x.device)

    return rows(queries), Kept(*(rows(queries) for _ in range(3)), rows(tokens if norm == "pre" else queries))


def constants(
    kernel, tiles: Tiles, width: int, hidden: int, n_head: int, norm: str, activation: str, precision: str
) -> dict:
    """What a kernel is compiled for."""
    found = {
        "WIDTH": width,
        "HIDDEN": hidden,
        "HEADS": n_head,
        "HEAD": width // n_head,
        "PRE": norm == "pre",
        "GELU": activation == "gelu",
        "PRECISION": precision,
        **tiles.constants(),
    }
    return {name: found[name] for name in kernel.arg_names if name in found}


def types(kernel, dtype: str, *, norm: str, chosen: bool) -> dict[str, str]:
    """Triton's types of a kernel's arguments that are neither constants nor None, for a call with padding and
    dropout, the most one can ask for.

    Args:
        dtype: Triton's name of x's. norm: "post" or "pre". chosen: whether only some queries are wanted.
    """
    found = dict.fromkeys(("position_stride", "batch_rows", "queries", "tokens"), "i32")
    found |= {"scale": "fp32", "keep_scale": "fp32", "threshold": "i64", "sums": "*fp32"}
    found |= dict.fromkeys(("positions", "start", "length", "seed"), "*i64")
    absent = {"positions", "placed"} if not chosen else set()
    absent |= {"d_source"} if norm != "pre" else set()
    return {
        name: found.get(name, f"*{dtype}")
        for name in kernel.arg_names
        if not name.isupper() and name not in absent
    }


def _grid(o: Operands, kernel, *, backward: bool) -> tuple[tuple[int], dict]:
    """The programs, each of some batch rows, and what they are compiled for and launched with."""
    batch, tokens, width = o.x.shape
    precision = product_precision(o.x.dtype, o.x.device)
    tiles = tiles_for(
        batch,
        None if o.positions is None else o.queries,
        tokens,
        width,
        width // o.n_head,
        o.x.dtype.itemsize,
        precision,
        backward=backward,
    )
    hidden = o.weights.expand_weight.shape[0]
    compiled_in = constants(kernel, tiles, width, hidden, o.n_head, o.norm, o.activation, precision)
    options = launch_options(hip=torch.version.hip is not None)
    return (-(-batch // tiles.group),), compiled_in | options


def _lists_and_scalars(o: Operands) -> tuple:
    batch, tokens, width = o.x.shape
    stride = o.positions.stride(0) if o.positions is not None and o.positions.ndim == 2 else 0
    return (
        *(o.positions, o.start, o.length, o.seed),
        *(stride, batch, o.queries, tokens, (width // o.n_head) ** -0.5),
        *(threshold_of(o.dropout_p), keep_scale_of(o.dropout_p)),
    )


def forward(o: Operands) -> tuple[Tensor, Kept]:
    """(out (B, Q, D), what backward reads)."""
    from .kernels_forward import block_forward  # Triton takes seconds to import

    out, kept = new_outputs(o.x, o.queries, o.norm)
    if out.numel() == 0:
        return out, kept
    grid, options = _grid(o, block_forward, backward=False)
    with on_device(o.x.device):
        block_forward[grid](o.x, out, *kept, *o.weights, *_lists_and_scalars(o), **options)
    return out, kept


def backward(o: Operands, kept: Kept, grad: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """(dx, gradients of the four matrices, those of the vectors one after the other) from grad (B, Q, D)."""
    from .kernels_backward import block_backward

    x, w = o.x, o.weights
    batch, tokens, width = x.shape
    hidden_width = w.expand_weight.shape[0]
    if grad.numel() == 0:
        matrices = [torch.zeros_like(weight) for weight in w if weight.ndim == 2]
        return torch.zeros_like(x), matrices, x.new_zeros(9 * width + hidden_width)
    grid, options = _grid(o, block_backward, backward=True)

    def rows(n: int, columns: int) -> Tensor:
        return torch.empty((batch, n, columns), dtype=x.dtype, device=x.device)

    dx, d_qkv = rows(tokens, width), rows(tokens, 3 * width)
    hidden, d_hidden = (rows(o.queries, hidden_width) for _ in range(2))
    d_mlp, d_attended, d_out = (rows(o.queries, width) for _ in range(3))
    d_source = rows(tokens, width) if o.norm == "pre" else None
    placed = None if o.positions is None else rows(tokens, width)
    sums = torch.empty((*grid, 9 * width + hidden_width), dtype=torch.float32, device=x.device)
    read = (w.qkv_weight, w.qkv_bias, w.out_weight, w.norm_1_weight, w.expand_weight, w.expand_bias)
    with on_device(x.device):
        block_backward[grid](
            *(x, grad, *kept[1:], dx, hidden, d_hidden, d_mlp, d_attended, d_out, d_qkv),
            *(d_source, placed, sums),
            *(*read, w.contract_weight, w.norm_2_weight, *_lists_and_scalars(o)),
            **options,
        )
    source = kept.between if o.norm == "pre" else x
    pairs = ((d_qkv, source), (d_out, kept.mixed), (d_hidden, kept.mlp_in), (d_mlp, hidden))
    matrices = [d.flatten(0, 1).T @ rows.flatten(0, 1) for d, rows in pairs]
    return dx, matrices, sums.sum(0).to(x.dtype)


def weight_gradients(matrices: list[Tensor], vectors: Tensor) -> BlockWeights:
    """What `backward` gives, by name; the gradients of vectors are parts of one tensor."""
    qkv, out, expand, contract = matrices
    width, hidden = contract.shape
    parts = vectors.split([3 * width, width, width, width, hidden, width, width, width])
    return BlockWeights(qkv, parts[0], out, *parts[1:4], expand, parts[4], contract, *parts[5:])
