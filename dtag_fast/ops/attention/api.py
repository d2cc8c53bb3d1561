"""`attention`: the public function, its checks, and the choice of a backend."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from dtag_fast.ops import triton_support
from dtag_fast.ops.dropout import random_words
from dtag_fast.ops.per_seed import is_batched
from dtag_fast.ops.select_rows import select_rows

from .composed import by_reference, by_sdpa
from .padding import Padding
from .tiles import MOST_TOKENS, MOST_WIDTH

Backend = Literal["triton", "sdpa", "reference"]
_BACKENDS = get_args(Backend)


def attention(
    qkv: Tensor,
    *,
    q: Tensor | None = None,
    queries: Tensor | None = None,
    start: Tensor | None = None,
    length: Tensor | None = None,
    padding: Padding | None = None,
    dropout_p: float = 0.0,
    generator: Generator | None = None,
    seed: Tensor | None = None,
    scale: float | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Causal attention over short, padded sequences: softmax(scale q k^T) v (Vaswani et al. 2017, eq. 1).

    Token i of a row sees its real tokens up to i. Rows of padding are exact zeros, in the output and in every
    gradient; the numbers they hold must be finite.

    Args:
        qkv: (B, S, 3, H, D) queries, keys and values of S <= 320 tokens (longer ones: "sdpa"), any strides;
            (B, S, 2, H, D) keys and values when `q` is given. float32, bfloat16 or float16; float32 products
            follow torch.get_float32_matmul_precision().
        q: (B, Q, H, D) queries made for the tokens in `queries` alone.
        queries: (Q,) or (B, Q) integers, the tokens whose output is wanted; None for all S.
        start, length: (B,) integers; the real tokens of row b are start[b] <= i < length[b]. None: 0 and S.
        padding: instead of start and length; calls that share one share the masks of "sdpa" too.
        dropout_p: probability in [0, 1) with which a weight is dropped; the rest is scaled by 1 / (1 - p).
        generator: randomness of dropout, on the device of qkv; None takes PyTorch's global one. Not under
            torch.compile.
        seed: (1,) int64 on the device of qkv, instead of a generator: the same seed drops the same weights,
            on every backend.
        scale: of q k^T; 1 / sqrt(D) by default.
        backend: "triton", "sdpa" or "reference"; None for the fastest that takes the call (see
            `choose_backend`).

    Returns:
        (B, Q or S, H * D).

    Raises:
        ValueError: shapes, devices or numbers that do not fit; a backend that cannot run, with its reason.
    """
    if padding is None:
        padding = Padding(start, length)
    elif start is not None or length is not None:
        raise ValueError("padding: expected it instead of start and length, got both")
    _check(qkv, q, queries, padding.start, padding.length, dropout_p, seed)
    if q is None and queries is not None:
        q, qkv = select_rows(qkv[:, :, 0], queries.long()), qkv[:, :, 1:]
    scale = qkv.shape[-1] ** -0.5 if scale is None else float(scale)
    if padding.by_mask_alone and backend not in (None, "sdpa"):
        raise ValueError(
            f'backend: expected "sdpa" or None for a padding with masks of its own, got {backend!r}'
        )
    chosen, _ = choose_backend(qkv, "sdpa" if padding.by_mask_alone else backend)
    if chosen == "triton":
        from .operator import attention_triton

        if dropout_p == 0:
            seed = None
        elif seed is None:
            seed = random_words(1, qkv.device, generator)
        return attention_triton(qkv, q, queries, padding.start, padding.length, seed, float(dropout_p), scale)
    k, v = qkv.unbind(2)[-2:]
    q = qkv[:, :, 0] if q is None else q
    composed = by_sdpa if chosen == "sdpa" else by_reference
    return composed(q, k, v, queries, padding, float(dropout_p), generator, seed, scale)


def choose_backend(qkv: Tensor, backend: Backend | None = None) -> tuple[Backend, str]:
    """The backend a call takes and why: the kernels where they run, else "sdpa".

    Raises:
        ValueError: `backend` is unknown, or cannot run; the reason is in the message.
    """
    return triton_support.choose(
        backend,
        _BACKENDS,
        lambda: why_not_triton(qkv),
        qkv.device,
        otherwise="sdpa",
        gain="short sequences on a GPU",
    )


def why_not_triton(qkv: Tensor) -> str | None:
    """Why the kernels cannot take these tensors, or None."""
    tokens, width = qkv.shape[1], qkv.shape[-1]
    if is_batched(qkv):
        return "several seeds are stacked, which the kernels cannot take"
    if reason := triton_support.why_not(qkv.device):
        return reason
    if reason := triton_support.why_not_dtype(qkv.dtype):
        return reason
    if tokens > MOST_TOKENS:
        return f"the kernels take up to {MOST_TOKENS} tokens, the sequences have {tokens}"
    if width > MOST_WIDTH:
        return f"the kernels take heads up to {MOST_WIDTH} wide, these are {width}"
    return None


def _check(qkv, q, queries, start, length, dropout_p, seed) -> None:
    parts = 3 if q is None else 2
    if qkv.ndim != 5 or qkv.shape[2] != parts:
        raise ValueError(f"qkv: expected (B, S, {parts}, H, D), got {tuple(qkv.shape)}")
    if not qkv.is_floating_point():
        raise ValueError(f"qkv: expected floating-point numbers, got {qkv.dtype}")
    batch, _, _, heads, width = qkv.shape
    if queries is not None and (queries.ndim not in (1, 2) or queries.shape[:-1] not in ((), (batch,))):
        raise ValueError(f"queries: expected (Q,) or ({batch}, Q), got {tuple(queries.shape)}")
    if q is not None:
        if queries is None:
            raise ValueError("queries: expected the tokens that q was made for, got None")
        wanted = (batch, queries.shape[-1], heads, width)
        if tuple(q.shape) != wanted:
            raise ValueError(f"q: expected {wanted} to match qkv and queries, got {tuple(q.shape)}")
        if q.dtype != qkv.dtype:
            raise ValueError(f"q: expected {qkv.dtype} as qkv, got {q.dtype}")
    for name, x in (("start", start), ("length", length)):
        if x is not None and tuple(x.shape) != (batch,):
            raise ValueError(f"{name}: expected ({batch},), one per row of the batch, got {tuple(x.shape)}")
    if seed is not None and (seed.dtype != torch.int64 or tuple(seed.shape) != (1,)):
        raise ValueError(f"seed: expected (1,) of torch.int64, got {tuple(seed.shape)} of {seed.dtype}")
    for name, x in (("queries", queries), ("start", start), ("length", length)):
        if x is not None and x.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name}: expected int64 or int32, got {x.dtype}")
    for name, x in (("q", q), ("queries", queries), ("start", start), ("length", length), ("seed", seed)):
        if x is not None and x.device != qkv.device:
            raise ValueError(f"{name}: expected it on {qkv.device} as qkv, got {x.device}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p: expected a probability in [0, 1), got {dropout_p}")
