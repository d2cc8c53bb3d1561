"""`transformer_block`: the public function, its checks, and the choice of a backend."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dtag_fast.ops import triton_support
from dtag_fast.ops.per_seed import is_batched
from dtag_fast.ops.triton_support import product_precision

from .reference import ACTIVATIONS, composed_block
from .tiles import why_no_tiles
from .weights import BlockWeights

Backend = Literal["triton", "composed", "reference"]
_BACKENDS = ("triton", "composed", "reference")
_NORMS = ("post", "pre")


def transformer_block(
    x: Tensor,
    weights: BlockWeights,
    *,
    n_head: int,
    norm: Literal["post", "pre"],
    activation: Literal["gelu", "relu"],
    start: Tensor | None = None,
    length: Tensor | None = None,
    queries: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """A transformer block over short, padded sequences (Vaswani et al. 2017; "pre": Xiong et al. 2020).

        post   u = LN1(x + drop(Attn(x)));  y = LN2(u + drop(MLP(u)))
        pre    u = x + drop(Attn(LN1(x)));  y = u + drop(MLP(LN2(u)))
        MLP(u) = contract(activation(expand(u)));  Attn = out(ops.attention(qkv(.))), causal

    Rows of padding are seen by no other row; attention adds nothing but the bias of `out` to them, and the
    rest of the block runs on what they hold, which must be finite, so that their outputs are finite too.

    Args:
        x: (B, S, D) tokens. float32, bfloat16 or float16; float32 products of the kernels follow
            torch.get_float32_matmul_precision().
        weights: of the type of x.
        n_head: H, a divisor of D.
        norm: LayerNorm after ("post") or before ("pre") attention and MLP. activation: "gelu" is exact.
        start, length: (B,) integers; the real tokens of row b are start[b] <= i < length[b]. None: 0 and S.
        queries: (Q,) or (B, Q) integers in [0, S), the tokens whose output is wanted; None for all S.
        dropout_p: probability in [0, 1), of dropout on attention weights and on both branches.
        seed: (1,) int64 on the device of x: the same seed drops the same numbers on every backend. None draws
            one from PyTorch's global generator.
        backend: "triton", "composed" of `ops.attention` and PyTorch's operators, or "reference", the same
            with attention's reference; None for the fastest that takes the call (see `choose_backend`).

    Returns:
        (B, Q or S, D).

    Raises:
        ValueError: shapes, devices or numbers that do not fit; a backend that cannot run, with its reason.
    """
    weights = BlockWeights(*weights)
    _check(x, weights, n_head, norm, activation, start, length, queries, dropout_p, seed)
    chosen, _ = choose_backend(x, n_head, queries, backend)
    if dropout_p == 0:
        seed = None
    elif seed is None:
        seed = torch.empty(1, dtype=torch.int64, device=x.device).random_()
    if chosen == "triton":
        from .operator import block_triton

        return block_triton(
            x, weights, queries, start, length, seed, n_head, norm, activation, float(dropout_p)
        )
    return composed_block(
        x,
        weights,
        n_head=n_head,
        norm=norm,
        activation=activation,
        start=start,
        length=length,
        queries=queries,
        dropout_p=float(dropout_p),
        seed=seed,
        attention_backend="reference" if chosen == "reference" else None,
    )


def choose_backend(
    x: Tensor, n_head: int, queries: Tensor | None = None, backend: Backend | None = None
) -> tuple[Backend, str]:
    """The backend a call takes and why: the kernels where they run, else "composed".

    Raises:
        ValueError: `backend` is unknown, or cannot run; the reason is in the message.
    """
    return triton_support.choose(
        backend,
        _BACKENDS,
        lambda: why_not_triton(x, n_head, queries),
        x.device,
        otherwise="composed",
        gain="a short sequence of narrow tokens on a GPU",
    )


def why_not_triton(x: Tensor, n_head: int, queries: Tensor | None = None) -> str | None:
    """Why the kernels cannot take these tensors, or None."""
    if is_batched(x):
        return "several seeds are stacked, which the kernels cannot take"
    if reason := triton_support.why_not(x.device):
        return reason
    if reason := triton_support.why_not_dtype(x.dtype):
        return reason
    chosen = None if queries is None else queries.shape[-1]
    head, precision = x.shape[2] // n_head, product_precision(x.dtype, x.device)
    return why_no_tiles(chosen, *x.shape[1:], head, x.dtype.itemsize, precision)


def _check(x, weights, n_head, norm, activation, start, length, queries, dropout_p, seed) -> None:
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"x: expected (B, S, D) floating-point numbers, got {tuple(x.shape)} of {x.dtype}")
    batch, _, width = x.shape
    if not isinstance(n_head, int) or n_head < 1 or width % n_head:
        raise ValueError(f"n_head: expected a divisor of D = {width}, got {n_head!r}")
    for name, given, known in (("norm", norm, _NORMS), ("activation", activation, tuple(ACTIVATIONS))):
        if given not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {given!r}")
    hidden = weights.expand_weight.shape[0]
    for name, weight in zip(BlockWeights._fields, weights, strict=True):
        features = {"qkv": 3 * width, "expand": hidden}.get(name.split("_")[0], width)
        inputs = hidden if name == "contract_weight" else width
        matrix = name.endswith("weight") and not name.startswith("norm")
        wanted = (features, inputs) if matrix else (features,)
        if tuple(weight.shape) != wanted:
            raise ValueError(f"weights.{name}: expected {wanted}, got {tuple(weight.shape)}")
        if weight.dtype != x.dtype:
            raise ValueError(f"weights.{name}: expected {x.dtype} as x, got {weight.dtype}")
        if weight.device != x.device:
            raise ValueError(f"weights.{name}: expected it on {x.device} as x, got {weight.device}")
    if queries is not None and (queries.ndim not in (1, 2) or queries.shape[:-1] not in ((), (batch,))):
        raise ValueError(f"queries: expected (Q,) or ({batch}, Q), got {tuple(queries.shape)}")
    for name, given in (("start", start), ("length", length)):
        if given is not None and tuple(given.shape) != (batch,):
            raise ValueError(
                f"{name}: expected ({batch},), one per row of the batch, got {tuple(given.shape)}"
            )
    if seed is not None and (seed.dtype != torch.int64 or tuple(seed.shape) != (1,)):
        raise ValueError(f"seed: expected (1,) of torch.int64, got {tuple(seed.shape)} of {seed.dtype}")
    for name, given in (("queries", queries), ("start", start), ("length", length)):
        if given is not None and given.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name}: expected int64 or int32, got {given.dtype}")
    for name, given in (("queries", queries), ("start", start), ("length", length), ("seed", seed)):
        if given is not None and given.device != x.device:
            raise ValueError(f"{name}: expected it on {x.device} as x, got {given.device}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p: expected a probability in [0, 1), got {dropout_p}")
