"""What all Triton kernels of the package need of a device, and of a size."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for in the environment."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def why_not(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on tensors of this device, or None."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"tensors are on {device}, not on a CUDA device; TRITON_INTERPRET=1 is for tests on the host"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; `pip install triton`, or a torch build that brings it"
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            return f"it needs compute capability 8.0, {device} has {capability[0]}.{capability[1]}"
    return None


def why_not_dtype(dtype: torch.dtype) -> str | None:
    """Why the sequence kernels cannot take numbers of this type, or None."""
    if dtype in (torch.float32, torch.bfloat16, torch.float16):
        return None
    return f"the kernels take float32, bfloat16 and float16, the tensors are {dtype}"


def choose(
    backend: str | None,
    known: tuple[str, ...],
    why_not: Callable[[], str | None],
    device: torch.device,
    *,
    otherwise: str,
    gain: str,
) -> tuple[str, str]:
    """The backend a call takes and why: "triton" on a GPU where it can run.

    Args:
        backend: asked for, one of `known`; None for the fastest. why_not: says why "triton" cannot run.
        otherwise: what is taken in its place. gain: why it is the fastest.
    Raises:
        ValueError: `backend` is unknown, or cannot run; the reason is in the message.
    """
    if backend is not None and backend not in known:
        raise ValueError(f"backend: expected one of {', '.join(known)} or None, got {backend!r}")
    if backend not in (None, "triton"):
        return backend, "asked for"
    if backend is None and device.type == "cpu":  # soon said: it costs every call there
        return otherwise, "the kernels run on GPUs; Triton's interpreter is for tests, ask for it by name"
    if reason := why_not():
        if backend == "triton":
            raise ValueError(f"backend: 'triton' cannot run, {reason}")
        return otherwise, reason
    return ("triton", gain) if backend is None else (backend, "asked for")


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`, and at least 16, the smallest side of a product."""
    return max(16, 1 << (size - 1).bit_length())


def product_precision(dtype: torch.dtype, device: torch.device) -> str:
    """The kernels' name of how exact products are. float32 follows torch.get_float32_matmul_precision():
    three products of tf32 on NVIDIA's tensor cores are as exact as one of float32, which has no tensor cores
    there."""
    if device.type == "cpu":
        return "ieee" if dtype == torch.float32 else "upcast"
    if dtype != torch.float32 or torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def on_device(device: torch.device) -> AbstractContextManager:
    """Launches within it go to this device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
