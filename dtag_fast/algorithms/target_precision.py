"""In which precision the forward pass of a target model is made.

It takes no gradient, and its actions get noise or are draws: bf16's eight bits are enough for it. It costs a
third of an update of the policy, and comes with every update of the critic.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from dtag_fast.ops.compiled_module import instruction_sets

TargetPrecision = Literal["auto", "fp32", "bf16"]
WIDE = (
    128  # d_model from which on bf16's products save more than its conversions cost (2-core Intel Xeon, AMX)
)


def check_target_precision(config: Any) -> None:
    """Refuse a `target_precision` that there is not, with a ValueError."""
    if config.target_precision not in get_args(TargetPrecision):
        raise ValueError(
            f"target_precision: expected one of {', '.join(get_args(TargetPrecision))}, got "
            f"{config.target_precision!r}"
        )


def choose_target_precision(
    asked: TargetPrecision, d_model: int, device: torch.device
) -> tuple[Literal["fp32", "bf16"], str]:
    """The precision, and why.

    "auto" is bf16 where tokens are WIDE and the device multiplies it much faster than float32: GPUs of
    capability 8.0 and more, CPUs with AMX.
    """
    if asked != "auto":
        return asked, "asked for"
    if d_model < WIDE:
        return "fp32", f"tokens are {d_model} wide, bf16 pays from {WIDE} on"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU has tensor cores for it"
        return "fp32", "the GPU has no tensor cores for bf16"
    if device.type == "cpu" and any(isa.endswith("amx") for isa in instruction_sets()):
        return "bf16", "the CPU has AMX"
    return "fp32", "the device is not known to multiply bf16 much faster"
