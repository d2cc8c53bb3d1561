"""How close a refinement comes to what the arithmetic units of a device can do."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the documents' tables are made without torch
    from .peers import Problem

# Dense peak in FLOP/s by the vendor's datasheets, for the name the driver gives; fp32 is that of the plain
# units.
PEAKS = {
    "NVIDIA H100 80GB HBM3": {"fp32": 67e12, "tf32": 495e12, "bf16": 990e12},
    "NVIDIA H100 PCIe": {"fp32": 51e12, "tf32": 378e12, "bf16": 756e12},
    "NVIDIA H200": {"fp32": 67e12, "tf32": 495e12, "bf16": 990e12},
    "NVIDIA A100-SXM4-40GB": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A100-SXM4-80GB": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A100 80GB PCIe": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
}


def flops(problem: "Problem") -> int:
    """Multiplications and additions of n + 1 forward and n backward passes of both members.

    The state is counted once, folded into the first bias; the gradient is that of the action alone. A
    variant that does more work, or less (the backward pass of one member is enough), is held to the same.
    """
    batch, state_dim = problem.states.shape
    action_dim = problem.actions.shape[1]
    hidden = problem.critic.q1[0].out_features
    one_pass = 2 * (action_dim * hidden + hidden * hidden + hidden)
    return 2 * batch * (2 * state_dim * hidden + (2 * problem.steps + 1) * one_pass)


def fraction(work: int, seconds: float, device: str | None, precision: str) -> float | None:
    """Of the peak of this precision; None for a device that is not in the table."""
    peak = PEAKS.get(device or "", {}).get(precision)
    return work / seconds / peak if peak else None
