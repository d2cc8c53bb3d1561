"""From a user's critic to a CriticProgram, by tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..critic import CriticCall
from ..program import CriticProgram
from ..watch import Slot


@dataclass(frozen=True)
class Lowered:
    """A critic that has a program: `build(tensors of the slots)` evaluates it anew, without tracing."""

    slots: tuple[Slot, ...]
    build: Callable[[Sequence[Tensor]], CriticProgram]


def lower(modules: Sequence[nn.Module], call: CriticCall, state_dim: int, action_dim: int) -> Lowered | str:
    """A Lowered, or the reason why there is none."""
    return "modules are not traced yet"
