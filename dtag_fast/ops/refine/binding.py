"""A critic tied to dimensions, a device and options: an executor, and what it watches."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from dtag_fast.ops.watch import Slot, Watch, structure_of

from .backends import FAST_BACKENDS, Choice, choose, executor_class
from .critic import CriticCall, CriticError, unwrap
from .lowering import Lowered, lower
from .options import NO_PRIOR, Prior, RefineOptions
from .program import CriticProgram
from .reference import TorchExecutor, evaluate_program


class Critic:
    """A user's critic, held strongly or weakly: one or several modules, or a program.

    Raises:
        TypeError: naming `critic`, for anything else.
    """

    def __init__(self, critic: Any, *, weak: bool) -> None:
        parts = (critic,) if isinstance(critic, nn.Module | CriticProgram) else critic
        if isinstance(critic, nn.ModuleList):
            parts = tuple(critic)
        modules = (
            isinstance(parts, Sequence) and len(parts) > 0 and all(isinstance(m, nn.Module) for m in parts)
        )
        self.is_program = isinstance(critic, CriticProgram)
        if not modules and not self.is_program:
            raise TypeError(
                f"critic: expected an nn.Module, a sequence of them or a CriticProgram, got "
                f"{type(critic).__name__}; dtag_fast.interop.load_critic makes one of a file or of another "
                "library's model; wrap a function in a module"
            )
        parts = parts if self.is_program else tuple(unwrap(m) for m in parts)
        self.refs = tuple(weakref.ref(part) for part in parts)
        self.has_modes = not self.is_program
        self._keep = None if weak else (critic, *parts)

    def parts(self) -> tuple:
        """The modules, or the program alone."""
        return tuple([ref() for ref in self.refs])

    def modes(self) -> tuple[bool, ...]:
        """The `training` flag of every module."""
        return tuple([ref().training for ref in self.refs]) if self.has_modes else ()


def tensors_of(part: nn.Module | CriticProgram) -> list[Tensor]:
    """The parameters and buffers of a module, or the weights of a program."""
    return part.tensors() if isinstance(part, CriticProgram) else [*part.parameters(), *part.buffers()]


class Lowering:
    """What is known of a critic for some S, A and modes, shared by all Refiners of it."""

    def __init__(self, critic: Critic, state_dim: int, action_dim: int) -> None:
        self.call: CriticCall | None = None
        parts = critic.parts()
        if critic.is_program:
            (program,) = parts
            if (program.state_dim, program.action_dim) != (state_dim, action_dim):
                raise CriticError(
                    f"critic: the program takes states (B, {program.state_dim}) and actions "
                    f"(B, {program.action_dim}), got widths {state_dim} and {action_dim}"
                )
            self.lowered: Lowered | str = fixed_program(program)
            self.device = program.device
            self.outputs = 1 if program.reduction else len(program.members)
            self.structure = ()
        else:
            for module in parts:
                for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                    check_finite(repr(name), [tensor.detach()])
            self.call = CriticCall(parts, state_dim, action_dim)
            self.lowered = lower(parts, self.call, state_dim, action_dim)
            self.device, self.outputs = self.call.device, self.call.members
            self.structure = structure_of(parts)


def fixed_program(program: CriticProgram) -> Lowered:
    """A program given by the user: its own tensors are the slots."""
    store = dict(enumerate(program.tensors()))
    slots: tuple[Slot, ...] = tuple((store, i) for i in store)
    reference = weakref.ref(program)
    return Lowered(slots, lambda tensors: reference())


def check_finite(name: str, tensors: Sequence[Tensor]) -> None:
    """Weights with NaN or infinity make every Q meaningless: refuse them where that is cheap, on the host."""
    for tensor in tensors:
        if tensor.device.type != "cpu" or not tensor.is_floating_point() or isfinite(tensor.sum()):
            continue  # the sum is quick; it may also overflow, which the next line tells apart
        if not tensor.isfinite().all():
            raise ValueError(
                f"critic: {name} {tuple(tensor.shape)} holds NaN or infinite numbers; was its training "
                "stable?"
            )


class Binding:
    """An executor ready for (S, A, device), with weights that follow the critic's."""

    def __init__(
        self,
        critic: Critic,
        lowering: Lowering,
        options: RefineOptions,
        device: torch.device,
        *,
        setting: str,
        wanted: str | None,
        steps: int | Tensor,
        lr: float | Tensor,
        scale: float | Tensor | None = None,
        prior: Prior = NO_PRIOR,
        cpu_kernel: str | None = None,
    ) -> None:
        self.lowering, self.options = lowering, options
        lowered = lowering.lowered
        if lowering.device is not None and lowering.device != device:
            raise ValueError(
                f"states: expected the critic's device, {lowering.device}, got {device}; use .to()"
            )
        for one in options.each():
            if isinstance(one.reduce, int) and not 0 <= one.reduce < lowering.outputs:
                raise ValueError(
                    f"reduce: expected a member in 0..{lowering.outputs - 1}, as the critic returns "
                    f"{lowering.outputs} Q, got {one.reduce}"
                )
        program, snapshot, self.watch = lowered, None, None
        if isinstance(lowered, Lowered):
            self.watch = Watch(lowered.slots)
            program, snapshot = self._program()
        self.program = program
        self.choice: Choice = choose(program, options, device, setting, wanted)
        self.loop_dtype = torch.float32
        if self.choice.backend in FAST_BACKENDS:
            numbers = isinstance(steps, int) and not isinstance(lr, Tensor) and not isinstance(scale, Tensor)
            known = {"steps": steps, "lr": lr, "scale": scale} if numbers else {}
            if not prior.several:
                known |= {"prior_mean": prior.mean, "prior_weight": prior.weight}
            if self.choice.backend == "cpu":
                known["kernel"] = cpu_kernel
            self.executor = executor_class(self.choice.backend)(
                program, options, self.choice.precision, **known
            )
            self.watch.accept(snapshot)
        else:
            self.watch = None  # the reference reads the critic itself
            self.executor = self._torch(critic, options)

    def _program(self):
        snapshot = self.watch.snapshot()
        with torch.no_grad():
            program = self.lowering.lowered.build(snapshot[0])
            check_finite("a weight", program.tensors())
        return program, snapshot

    def _torch(self, critic: Critic, options: RefineOptions) -> TorchExecutor:
        call = self.lowering.call
        if call is None:
            return TorchExecutor(lambda s, a: evaluate_program(critic.parts()[0], s, a), options)
        self.loop_dtype = call.loop_dtype
        return TorchExecutor(lambda s, a: call(critic.parts(), s, a), options)

    def update(self) -> None:
        """Take the critic's present numbers."""
        if self.watch is not None:
            self.program, snapshot = self._program()
            self.watch.forget()
            self.executor.repack(self.program)
            self.watch.accept(snapshot)
