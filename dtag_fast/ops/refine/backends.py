"""Which backend runs a call, and why not the others. Order of preference: cuda, triton, cpu, torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from dtag_fast.ops.compiled_module import _C, why_missing

from . import cpu, cuda, triton
from .options import RefineOptions
from .program import CriticProgram

BACKENDS = ("cuda", "triton", "cpu", "torch")
PRECISIONS = ("highest", "high", "medium")


def compiled_cpu() -> ModuleType | str:
    """The module of the compiled CPU backend, or why it cannot be used."""
    return why_missing() or cpu


def compiled_cuda() -> ModuleType | str:
    """The module of the compiled CUDA backend, or why it cannot be used."""
    if why_missing():
        return why_missing()
    if not hasattr(_C, "CudaPlan"):
        return "the compiled module has no CUDA kernels: nvcc was not found at installation, or DTAG_CUDA=OFF"
    return cuda


@dataclass(frozen=True)
class Backend:
    """A backend that takes a CriticProgram.

    device: the type of device it runs on without being asked for. module: gives the module with its `why_not`
    and executor, or why there is none. executor: the name of the class there (executor.py).
    """

    device: str
    module: Callable[[], ModuleType | str]
    executor: str


FAST_BACKENDS: dict[str, Backend] = {
    "cuda": Backend("cuda", lambda: compiled_cuda(), "CudaExecutor"),
    "triton": Backend("cuda", lambda: triton, "TritonExecutor"),
    "cpu": Backend("cpu", lambda: compiled_cpu(), "CpuExecutor"),
}


def executor_class(backend: str) -> type:
    """The executor of one of FAST_BACKENDS that can be used."""
    entry = FAST_BACKENDS[backend]
    return getattr(entry.module(), entry.executor)


@dataclass(frozen=True)
class Choice:
    """The backend taken, the precision it computes in, and a reason for each backend not taken.

    slow_reason: why no compiled backend was possible, "" when one was.
    """

    backend: str
    precision: str  # "fp32", "bf16x3", "tf32" or "bf16"
    precision_reason: str
    reasons: dict[str, str]
    slow_reason: str = ""


_PRECISIONS: dict[str, dict[str, tuple[str, str]]] = {  # backend -> setting -> precision, and what that means
    "cpu": {
        "highest": ("fp32", "fp32"),
        "high": ("fp32", "fp32, as the CPU has no tf32"),
        "medium": ("bf16", "bf16 weights, fp32 accumulation"),
    },
    "cuda": {
        "highest": ("fp32", "fp32"),
        "high": ("bf16x3", "hidden layers in bf16x3 (three products of halves) or better"),
        "medium": ("bf16", "hidden layers in bf16 or better, fp32 accumulation"),
    },
    "triton": {
        "highest": ("fp32", "fp32"),
        "high": ("tf32", "tf32, fp32 accumulation"),
        "medium": ("bf16", "bf16 weights and layer inputs, fp32 accumulation"),
    },
}


def precision_of(backend: str, setting: str) -> tuple[str, str]:
    """What "highest", "high" and "medium" mean on a backend, and why."""
    if backend not in _PRECISIONS:
        found = "fp32", "the loop is fp32; the critic follows torch.set_float32_matmul_precision"
    elif backend == "triton" and setting == "high" and torch.version.hip is not None:
        found = "fp32", "fp32, as most AMD GPUs have no tf32"
    else:
        found = _PRECISIONS[backend][setting]
    return found[0], f'precision "{setting}": {found[1]}'


def why_not(
    backend: str,
    program: CriticProgram | str,
    options: RefineOptions,
    device: torch.device,
    setting: str,
    *,
    wanted: bool = False,
) -> str | None:
    """None when `backend` can run it, else the reason. `program` is a reason itself when lowering failed.

    wanted: it was asked for by name, and may then run on another device than its own.
    """
    if backend == "torch":
        return None
    entry = FAST_BACKENDS[backend]
    if device.type != entry.device and not wanted:
        own = "a CUDA device" if entry.device == "cuda" else "the host"
        return f"tensors are on {device}, not on {own}"
    if isinstance(program, str):
        return program
    module = entry.module()
    if isinstance(module, str):
        return module
    return module.why_not(program, options, device, precision_of(backend, setting)[0])


def choose(
    program: CriticProgram | str,
    options: RefineOptions,
    device: torch.device,
    setting: str,
    wanted: str | None,
) -> Choice:
    """The first backend that can run it, or the one wanted.

    Raises:
        ValueError: the wanted backend cannot run it.
    """
    reasons = {
        name: why_not(name, program, options, device, setting, wanted=name == wanted) for name in BACKENDS
    }
    if wanted is not None and reasons[wanted] is not None:
        raise ValueError(f"backend: {wanted!r} cannot run this call: {reasons[wanted]}")
    name = wanted or next(name for name in BACKENDS if reasons[name] is None)
    shown = {
        other: reason or (f"backend={wanted!r} was asked for" if wanted else f"{name} comes first")
        for other, reason in reasons.items()
        if other != name
    }
    precision, precision_reason = precision_of(name, setting)
    slow_reason = ""
    if name == "torch":
        slow_reason = (
            program if isinstance(program, str) else shown["triton" if device.type == "cuda" else "cpu"]
        )
    return Choice(name, precision, precision_reason, shown, slow_reason)
