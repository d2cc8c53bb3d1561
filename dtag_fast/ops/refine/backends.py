"""Which backend runs a call, and why not the others. Order of preference: cuda, triton, cpu, torch."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from . import cpu
from .options import RefineOptions
from .program import CriticProgram

BACKENDS = ("cuda", "triton", "cpu", "torch")
PRECISIONS = ("highest", "high", "medium")


def compiled_cpu() -> ModuleType | str:
    """The module of the compiled CPU backend, or why it cannot be used."""
    if cpu._C is None:
        return (
            f"the compiled module dtag_fast._C is missing ({cpu._MISSING}); DTAG_BUILD=0 leaves it out, "
            "`pip install -e .` with a C++ compiler builds it"
        )
    if not hasattr(cpu._C, "use_openmp"):
        return "the compiled module dtag_fast._C is older than the package; run `pip install -e .` again"
    return cpu


@dataclass(frozen=True)
class Choice:
    """The backend taken, the precision it computes in, and a reason for each backend not taken.

    slow_reason: why no compiled backend was possible, "" when one was.
    """

    backend: str
    precision: str  # "fp32" or "bf16"
    precision_reason: str
    reasons: dict[str, str]
    slow_reason: str = ""


def precision_of(backend: str, setting: str) -> tuple[str, str]:
    """What "highest", "high" and "medium" mean on a backend, and why."""
    if backend == "cpu":
        if setting == "medium":
            return "bf16", 'precision "medium": bf16 weights, fp32 accumulation'
        if setting == "high":
            return "fp32", 'precision "high": fp32, as the CPU has no tf32'
        return "fp32", 'precision "highest": fp32'
    return (
        "fp32",
        f'precision "{setting}": the loop is fp32; the critic follows torch.set_float32_matmul_precision',
    )


def why_not(
    backend: str,
    program: CriticProgram | str,
    options: RefineOptions,
    device: torch.device,
    setting: str,
) -> str | None:
    """None when `backend` can run it, else the reason. `program` is a reason itself when lowering failed."""
    if backend == "torch":
        return None
    if backend in ("cuda", "triton"):
        if device.type != "cuda":
            return f"tensors are on {device}, not on a CUDA device"
        return "not built: this release has no GPU kernels"
    if device.type != "cpu":
        return f"tensors are on {device}, not on the host"
    if isinstance(program, str):
        return program
    compiled = compiled_cpu()
    if isinstance(compiled, str):
        return compiled
    return compiled.why_not(program, options, device, precision_of("cpu", setting)[0])


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
    reasons = {name: why_not(name, program, options, device, setting) for name in BACKENDS}
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
            program if isinstance(program, str) else shown["cuda" if device.type == "cuda" else "cpu"]
        )
    return Choice(name, precision, precision_reason, shown, slow_reason)
