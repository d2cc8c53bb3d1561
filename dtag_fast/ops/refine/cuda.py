"""The compiled CUDA backend: hands a critic program and its options to `dtag_fast._C`.

All iterations of all rows are one kernel launch on the current stream, which waits for nothing: it can be
captured in a CUDA graph. Which kernel runs a call is decided in csrc/cuda/refine/heuristics.h, how streams
wait for each other in streams.py; a repeated call runs in csrc/prepared_call.cpp.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from dtag_fast.ops.compiled_module import _C
from dtag_fast.ops.watch import Seen

from .executor import InfoBuffers, PreparedCall
from .options import RefineOptions
from .plan_arguments import ARRAY_TYPES, call_arguments, layer_kinds, plan_settings, prior_arguments
from .program import CriticProgram, Layer, LayerNorm, Linear
from .streams import streams_of

MOST_STEPS = 1_000_000  # where only the device knows a call's largest number of steps


def why_not(
    program: CriticProgram, options: RefineOptions, device: torch.device, precision: str
) -> str | None:
    """Why this backend cannot run, or None."""
    if torch.device(device).type != "cuda" or torch.version.hip:
        return f"it runs on NVIDIA GPUs, the tensors are on {device}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"it needs compute capability 8.0, which {torch.cuda.get_device_name(device)} lacks"
    try:
        executor = CudaExecutor(program, options, precision, device=device)
    except (ValueError, RuntimeError) as error:  # RuntimeError: driver or GPU cannot run what was built
        return str(error)
    return executor.refusal()


class _Form:
    """A critic as one kernel reads it: structure and numbers, in device memory at addresses that stay."""

    def __init__(self, plan: Any, kernel: str, options: RefineOptions, device: torch.device) -> None:
        self.tables = torch.frombuffer(bytearray(plan.tables(kernel)), dtype=torch.uint8).to(device)
        self.numbers = torch.zeros(plan.numbers(kernel), dtype=torch.float32, device=device)
        self._pieces = plan.pieces(kernel)
        self.variants = torch.empty(0, dtype=torch.uint8)
        if options.variants:
            table = bytearray(plan.settings_table(self.numbers.data_ptr()))
            self.variants = torch.frombuffer(table, dtype=torch.uint8).to(device)
        for what, _, _, _, offset, _, columns, _, _ in self._pieces:
            if what in ("low", "high"):
                bound = torch.from_numpy(options.low if what == "low" else options.high)
                self.numbers[offset : offset + columns].copy_(bound)

    def write(self, members: Sequence[tuple[Layer, ...]], state_dim: int) -> None:
        """Write the members' numbers in place, on the current stream."""
        for what, kind, member, number, offset, rows, columns, padded, first in self._pieces:
            if what in ("low", "high"):
                continue
            source = _source(what, members[member][number], state_dim, number == 0, rows, columns, first)
            if kind == "float32":
                target = self.numbers[offset : offset + rows * padded]
            else:
                target = self.numbers[offset : offset + rows * padded // 2].view(torch.bfloat16)
            target = target.view(rows, padded)[:, :columns]
            if kind == "bf16_rest":  # nothing of infinity
                rounded = source.bfloat16().float()
                source = torch.where(rounded.isfinite(), source - rounded, 0.0)
            target.copy_(source) if isinstance(source, Tensor) else target.fill_(source)


class CudaExecutor:
    """An Executor (executor.py) over `_C.CudaPlan`; the program's tensors may be anywhere.

    Args:
        program, options, steps, lr, scale, prior_mean, prior_weight: as executor.py says.
        device: where it runs, None for the program's.
        precision: "fp32", "bf16x3" or "bf16": the least that products of hidden layers are computed in. Sums,
            actions, the optimizer's state and Q are float32 in all.
        kernel: "generic", "latency", "tensor" or "hopper" to use that kernel for every call, None for the
            rule.
        rows: how many rows a block (generic: 64, 32, 16, 8, 4; tensor: 128, 64, 32) or a group of blocks
            (latency: 1, 2, 4, 8; hopper: 64, 128) carries, None for the rule.
        clusters: False to leave clusters of blocks unused where the GPU has them; the latency kernel's blocks
            then meet in global memory, as they do where it has none.
        core: the module with CudaPlan; tests hand in the one that runs the kernels on the CPU.

    Raises:
        ValueError: for a critic beyond the limits of the layout.
    """

    name = "cuda"

    def __init__(
        self,
        program: CriticProgram,
        options: RefineOptions,
        precision: str = "fp32",
        steps: int = 10,
        lr: float = 0.03,
        scale: float | None = None,
        prior_mean: float = 0.0,
        prior_weight: float = 0.0,
        *,
        device: torch.device | None = None,
        kernel: str | None = None,
        rows: int | None = None,
        clusters: bool = True,
        core: Any = _C,
    ) -> None:
        self.device = torch.device(program.device if device is None else device)
        self._options = options
        settings, self._member = plan_settings(program, options)
        self._core = core
        self._program = program
        self._steps, self._lr, self._scale = steps, lr, 1.0 if scale is None else scale
        self._prior = {"prior_mean": prior_mean, "prior_weight": prior_weight}
        self._forms: dict[str, _Form] = {}
        self._lock = threading.Lock()
        self._streams = streams_of(self.device)
        self._plan = core.CudaPlan(
            state_dim=program.state_dim,
            action_dim=program.action_dim,
            members=[layer_kinds(layers) for layers in self._members()],
            precision=precision,
            bounded=options.low is not None,
            device=self.device.index or 0,
            clusters=clusters,
            **settings,
        )
        only = {"only": kernel or "", "only_rows": rows or 0}
        # (states, candidates) -> kernel, rows, floats of `folded`, reason, reasons of the others
        self._choice = lru_cache(64)(partial(self._plan.choice, **only))
        self._workspace_bytes = lru_cache(64)(partial(self._plan.workspace_bytes, **only))

    def describe_call(self, states: int, candidates: int = 1, steps: int = 10) -> tuple[str, list[str]]:
        """See Executor.describe_call."""
        _, _, _, reason, why_not_others = self._choice(states, candidates)
        return reason, why_not_others

    def refusal(self) -> str | None:
        """Why it can run no call at all, or None."""
        kernel, _, _, reason, others = self._choice(1, 1)
        return "; ".join([reason, *others]) if kernel == "none" else None

    def repack(self, program: CriticProgram) -> None:
        """Write a program's numbers in place, on the current stream, so that captured graphs see them too.

        Raises:
            RuntimeError: the stream is being captured, which would record the writing without doing it.
        """
        with self._lock, torch.no_grad(), self._streams.repacking():
            self._plan.renew()
            self._program = program
            for form in self._forms.values():
                form.write(self._members(), program.state_dim)

    def run(
        self,
        states: Tensor,
        actions: Tensor,
        out: Tensor,
        *,
        steps: int | Tensor,
        lr: float | Tensor,
        scale: float | Tensor | None = None,
        radius: Tensor | None = None,
        variant: Tensor | None = None,
        prior_mean: float | Tensor = 0.0,
        prior_weight: float | Tensor = 0.0,
        info: InfoBuffers | None,
    ) -> None:
        """See Executor.run."""
        batch, candidates, width = actions.shape
        if candidates > 1 and _overlap(out, actions):
            # Later rounds of candidates would read what the first has written.
            apart = torch.empty(batch, width, device=out.device)
            numbers = {"steps": steps, "lr": lr, "scale": scale, "radius": radius, "variant": variant}
            numbers |= {"prior_mean": prior_mean, "prior_weight": prior_weight}
            self.run(states, actions, apart, **numbers, info=info)
            out.copy_(apart)
            return
        kernel, rows, folded_floats, reason, _ = self._choice(batch, candidates)
        if kernel == "none":
            raise ValueError(f"refine: the cuda backend cannot run this call: {reason}")
        form = self._forms.get(kernel) or self._form(kernel)
        folded = torch.empty(folded_floats, dtype=torch.float32, device=self.device)
        if isinstance(steps, Tensor):
            traced = info is not None and info.trace_q is not None
            most = info.trace_q.shape[0] - 1 if traced else MOST_STEPS
        else:
            most = steps
        with self._lock:  # not between the many copies of a repack in another thread
            workspace = self._workspace(batch, candidates)
            self._plan.run(
                **call_arguments(states, actions, out, steps, most, lr, scale, radius, variant, info),
                **prior_arguments(prior_mean, prior_weight),
                numbers=form.numbers.data_ptr(),
                tables=form.tables.data_ptr(),
                folded=folded.data_ptr(),
                folded_floats=folded_floats,
                stream=self._streams.reading(self._packed()),
                only=kernel,
                only_rows=rows,
                workspace=workspace.data_ptr(),
                workspace_bytes=workspace.nbytes,
                variants=form.variants.data_ptr(),
            )

    def prepare_call(
        self,
        states_shape: Sequence[int],
        actions_shape: Sequence[int],
        seen: Seen,
        within_one: bool,
        known: PreparedCall | None,
    ) -> PreparedCall | None:
        """See PreparingExecutor.prepare_call."""
        batch = actions_shape[0] if len(actions_shape) > 1 else 1
        kernel, rows, folded_floats, _, _ = self._choice(batch, 1)
        form = self._forms[kernel]
        with self._lock:  # the stream must be ready for the numbers as they are when the call is made
            stream = self._streams.ready()
            if stream is None:
                return None
            workspace = self._workspace(batch, 1)
            return self._core.prepare_cuda_call(
                plan=self._plan,
                steps=self._steps,
                lr=self._lr,
                scale=self._scale,
                **self._prior,
                only=kernel,
                only_rows=rows,
                numbers=form.numbers.data_ptr(),
                tables=form.tables.data_ptr(),
                workspace=workspace.data_ptr(),
                workspace_bytes=workspace.nbytes,
                keep=(form, workspace),
                scratch=partial(torch.empty, folded_floats, dtype=torch.float32, device=self.device),
                lock=self._lock,
                host=self.device.type == "cpu",
                device=self.device.index or 0,
                stream=stream,
                stream_of=self._streams.teller(self._core),
                **ARRAY_TYPES,
                states_shape=states_shape,
                actions_shape=actions_shape,
                **seen._asdict(),
                within_one=within_one,
                known=known,
            )

    def _packed(self) -> list[Tensor]:
        """The memory that kernels read the critic from."""
        return [tensor for form in self._forms.values() for tensor in (form.tables, form.numbers)]

    def _workspace(self, batch: int, candidates: int) -> Tensor:
        """Where blocks without clusters meet: zeros before and after a launch, for one launch at a time."""
        size = self._workspace_bytes(batch, candidates)
        return _aligned(self._streams.zeros(size + 128)) if size else torch.empty(0, dtype=torch.uint8)

    def _form(self, kernel: str) -> _Form:
        with self._lock:
            form = self._forms.get(kernel)
            if form is None:
                self._streams.refuse_capture(
                    f"the {kernel} kernel runs for the first time: call the Refiner with this batch before"
                )

                def make() -> _Form:
                    new = _Form(self._plan, kernel, self._options, self.device)
                    new.write(self._members(), self._program.state_dim)
                    return new

                form = self._forms[kernel] = self._streams.pack_new(make, self._program.tensors())
        return form

    def _members(self) -> Sequence[tuple[Layer, ...]]:
        members = self._program.members
        return members if self._member is None else (members[self._member],)


def _aligned(buffer: Tensor) -> Tensor:
    """The part of it from the first multiple of 128 bytes on."""
    return buffer[-buffer.data_ptr() % 128 :]


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous tensors share memory."""
    ends = (a.data_ptr() + a.nbytes, b.data_ptr() + b.nbytes)
    return a.data_ptr() < ends[1] and b.data_ptr() < ends[0]


def _source(
    what: str, layer: Linear | LayerNorm, state_dim: int, in_front: bool, rows: int, columns: int, first: int
) -> Tensor | float:
    """What a piece holds (csrc/cuda/refine/pieces.h) of a layer; `in_front`: it is the first Linear."""
    weight, s = layer.weight, state_dim
    match what:
        case "bias" | "shift":
            return 0.0 if layer.bias is None else layer.bias[None]
        case "scale":
            return 1.0 if weight is None else weight[None]
        case "state":
            return weight[:, first : min(first + rows, s)].T
        case "inputs":
            return torch.cat([weight[:, s:], weight[:, :s]], 1)[:, :rows].T
        case "forward":
            return (weight[:, s:] if in_front else weight).T
        case _:
            return weight[:, s + first : s + first + columns] if in_front else weight
