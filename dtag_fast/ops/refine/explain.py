"""Explanation: the answer of `explain`."""

from __future__ import annotations

from dataclasses import dataclass

from .backends import BACKENDS
from .binding import Binding
from .program import CriticProgram, Layer, Linear


@dataclass(frozen=True)
class Explanation:
    """Which backend runs a critic and why. `str()` is the text for people.

    backend: the one taken. precision: "fp32", "bf16x3", "tf32" or "bf16", precision_reason why. reasons:
    backend not taken -> why.
    critic: the critic as it was understood. lowered: whether it has a CriticProgram.
    kernel: how the backend runs a call of this size; kernel_reasons: why not by its other kernels.
    """

    backend: str
    precision: str
    precision_reason: str
    reasons: dict[str, str]
    critic: str
    lowered: bool
    kernel: str = ""
    kernel_reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"backend {self.backend}, {self.precision} ({self.precision_reason})",
            f"critic: {self.critic}",
        ]
        if self.kernel:
            lines.append(f"kernel: {self.kernel}")
        lines += [f"not its other kernel: {reason}" for reason in self.kernel_reasons]
        lines += [f"not {name}: {self.reasons[name]}" for name in BACKENDS if name in self.reasons]
        return "\n".join(lines)


def describe(binding: Binding, states: int, candidates: int, steps: int) -> Explanation:
    """The explanation of a binding for calls of this size."""
    choice, program = binding.choice, binding.program
    lowered = isinstance(program, CriticProgram)
    critic = summary(program) if lowered else f"{binding.lowering.outputs} Q by autograd; {program}"
    kernel, others = "", []
    if hasattr(binding.executor, "describe_call"):
        kernel, others = binding.executor.describe_call(states, candidates, steps)
    return Explanation(
        choice.backend,
        choice.precision,
        choice.precision_reason,
        dict(choice.reasons),
        critic,
        lowered,
        kernel,
        tuple(others),
    )


def summary(program: CriticProgram) -> str:
    """One line such as "2 members, 17 + 6 -> 256 relu -> 256 relu -> 1"."""
    shapes = {_layers(layers) for layers in program.members}
    count = f"{len(program.members)} member{'s' if len(program.members) > 1 else ''}"
    inside = f", {program.reduction} inside" if program.reduction else ""
    return f"{count}{inside}, {program.state_dim} + {program.action_dim}{' | '.join(sorted(shapes))}"


def _layers(layers: tuple[Layer, ...]) -> str:
    text = ""
    for layer in layers:
        if isinstance(layer, Linear):
            text += f" -> {layer.weight.shape[0]}"
        else:
            text += " layer_norm" if hasattr(layer, "width") else f" {layer.kind}"
    return text
