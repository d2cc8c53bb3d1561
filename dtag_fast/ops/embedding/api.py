"""`embed_tokens`: the public function, its checks, and the choice of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dtag_fast.ops import triton_support
from dtag_fast.ops.per_seed import is_batched

from .launch import Operands
from .reference import embed_reference
from .tiles import MOST_WIDTH

Backend = Literal["triton", "torch", "reference"]
_BACKENDS = ("triton", "torch", "reference")
_NAMES = {
    "state": ("states", "state_weight", "state_bias"),
    "action": ("actions", "action_weight", "action_bias"),
    "return": ("returns_to_go", "return_weight", "return_bias"),
}


def embed_tokens(
    states: Tensor,
    actions: Tensor,
    returns_to_go: Tensor | None,
    timesteps: Tensor,
    *,
    state_weight: Tensor,
    state_bias: Tensor,
    action_weight: Tensor,
    action_bias: Tensor,
    return_weight: Tensor | None,
    return_bias: Tensor | None,
    timestep_table: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    order: Sequence[str],
    omit: int = 1,
    eps: float = 1e-5,
    backend: Backend | None = None,
) -> Tensor:
    """The tokens of windows of steps (Chen et al. 2021, "Decision Transformer", algorithm 1).

    Kind k of n at step t is token n t + k = LayerNorm(W_k x_k[t] + b_k + timestep_table[timesteps[t]]).

    Args:
        states, actions, returns_to_go: (B, K, S), (B, K, A), (B, K, 1), any strides; all float tensors are of
            one type: float32, bfloat16 or float16 for "triton", whose float32 products follow
            torch.get_float32_matmul_precision().
        timesteps: (B, K) int64 or int32 in [0, T). Others raise an IndexError on the CPU and stop a CUDA
            device, except that "triton" reads nothing outside the table and makes their tokens NaN.
        state_weight, action_weight, return_weight: (D, S), (D, A), (D, 1).
        state_bias, action_bias, return_bias: (D,).
        timestep_table: (T, D).
        norm_weight, norm_bias: (D,) of LayerNorm. eps: is added to its variance.
        order: the kinds of tokens of a step, "state", "action" and "return" in any order. Without "return",
            its three tensors are None.
        omit: how many tokens, below n, are left out at the end; 1: the last action, which no output sees.
        backend: "triton", "torch" or "reference"; None for the fastest that takes the call (see
            `choose_backend`).

    Returns:
        (B, n K - omit, D).

    Raises:
        ValueError: shapes, types, devices or numbers that do not fit; a backend that cannot run, with its
            reason.
    """
    order = tuple(order)
    if sorted(order) not in (["action", "state"], ["action", "return", "state"]):
        raise ValueError(
            f"order: expected 'state', 'action' and perhaps 'return', each once, got {', '.join(order)}"
        )
    kinds = {
        "state": (states, state_weight, state_bias),
        "action": (actions, action_weight, action_bias),
        "return": (returns_to_go, return_weight, return_bias),
    }
    for name, x in zip(_NAMES["return"], kinds["return"], strict=True):
        if (x is None) == ("return" in order):
            what = "None as order has no 'return', got a tensor" if x is not None else "a tensor, got None"
            raise ValueError(f"{name}: expected {what}")
    inputs, weights, biases = zip(*(kinds[kind] for kind in order), strict=True)
    o = Operands(inputs, weights, biases, timesteps, timestep_table, norm_weight, norm_bias, omit, float(eps))
    _check(o, order)
    chosen, _ = choose_backend(timestep_table, backend)
    if chosen == "triton":
        from .operator import embed_triton

        return embed_triton(o)
    return embed_reference(*o) if chosen == "reference" else _composed(o)


def choose_backend(timestep_table: Tensor, backend: Backend | None = None) -> tuple[Backend, str]:
    """The backend a call takes and why: the kernels on a GPU where they run, else "torch".

    Raises:
        ValueError: `backend` is unknown, or cannot run; the reason is in the message.
    """
    return triton_support.choose(
        backend,
        _BACKENDS,
        lambda: why_not_triton(timestep_table),
        timestep_table.device,
        otherwise="torch",
        gain="one pass over the tokens on a GPU",
    )


def why_not_triton(timestep_table: Tensor) -> str | None:
    """Why the kernels cannot make tokens of this table's device, type and width, or None."""
    dtype, width = timestep_table.dtype, timestep_table.shape[1]
    if is_batched(timestep_table):
        return "several seeds are stacked, which the kernels cannot take"
    if reason := triton_support.why_not(timestep_table.device):
        return reason
    if reason := triton_support.why_not_dtype(dtype):
        return reason
    if width > MOST_WIDTH:
        return f"the kernels take tokens up to {MOST_WIDTH} wide, these are {width}"
    return None


def _check(o: Operands, order: tuple[str, ...]) -> None:
    given = o.timesteps
    if given.ndim != 2 or given.shape[1] == 0 or given.dtype not in (torch.int64, torch.int32):
        got = f"{tuple(given.shape)} of {given.dtype}"
        raise ValueError(f"timesteps: expected (B, K) of int64 or int32, K at least 1, got {got}")
    if o.table.ndim != 2 or 0 in o.table.shape or not o.table.is_floating_point():
        got = f"{tuple(o.table.shape)} of {o.table.dtype}"
        raise ValueError(f"timestep_table: expected (T, D) floating-point numbers, got {got}")
    (batch, steps), width = o.timesteps.shape, o.table.shape[1]
    device, dtype = o.table.device, o.table.dtype
    named = [("norm_weight", o.norm_weight, (width,)), ("norm_bias", o.norm_bias, (width,))]
    for kind, x, weight, bias in zip(order, o.inputs, o.weights, o.biases, strict=True):
        size = 1 if kind == "return" else weight.shape[-1]
        inputs_name, weight_name, bias_name = _NAMES[kind]
        named.append((inputs_name, x, (batch, steps, size)))
        named.append((weight_name, weight, (width, size)))
        named.append((bias_name, bias, (width,)))
    for name, x, shape in named:
        if x.shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {tuple(x.shape)}")
        if x.device != device:
            raise ValueError(f"{name}: expected it on {device} as timestep_table, got {x.device}")
        if x.dtype != dtype:
            raise ValueError(f"{name}: expected {dtype} as timestep_table, got {x.dtype}")
    if o.timesteps.device != device:
        raise ValueError(f"timesteps: expected it on {device} as timestep_table, got {o.timesteps.device}")
    if not 0 <= o.omit < len(order):
        raise ValueError(f"omit: expected 0 to {len(order) - 1}, tokens of the last step, got {o.omit}")
    if not o.eps > 0:
        raise ValueError(f"eps: expected a number above 0, got {o.eps}")


def _composed(o: Operands) -> Tensor:
    """By PyTorch's own operators. (B, n K - omit, D)"""
    kinds = zip(o.inputs, o.weights, o.biases, strict=True)
    tokens = torch.stack([F.linear(x, weight, bias) for x, weight, bias in kinds], dim=2)  # (B, K, n, D)
    tokens += F.embedding(o.timesteps, o.table)[:, :, None]
    tokens = tokens.flatten(1, 2)[:, : o.tokens]
    return F.layer_norm(tokens, o.norm_weight.shape, o.norm_weight, o.norm_bias, o.eps)
