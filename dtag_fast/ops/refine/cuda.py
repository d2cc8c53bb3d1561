"""The compiled CUDA backend: hands a critic program and its options to `dtag_fast._C`.

All iterations of all rows are one kernel launch on the current stream, which waits for nothing: it can be
captured in a CUDA graph. Which kernel runs a call is decided in csrc/cuda/refine/heuristics.h.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from .cpu import _C
from .executor import InfoBuffers
from .options import RefineOptions
from .plan_arguments import call_arguments, layer_kinds, plan_settings
from .program import CriticProgram, Layer, LayerNorm, Linear

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
        for what, _, _, _, offset, _, columns, _, _ in self._pieces:
            if what in ("low", "high"):
                bound = torch.from_numpy(options.low if what == "low" else options.high)
                self.numbers[offset : offset + columns].copy_(bound)

    def write(self, members: Sequence[tuple[Layer, ...]], state_dim: int) -> None:
        """Write the members' numbers in place, on the current stream."""
        for what, kind, member, number, offset, rows, columns, padded, first in self._pieces:
            if what in ("low", "high"):
                continue
            source = _source(what, members[member][number], state_dim, number == 0, rows, first)
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
        program, options, steps, lr: as executor.py says.
        device: where it runs, None for the program's.
        precision: "fp32", "bf16x3" or "bf16": the least that products of hidden layers are computed in. Sums,
            actions, the optimizer's state and Q are float32 in all.
        kernel: "generic", "latency" or "tensor" to use that kernel for every call, None for the rule.
        rows: how many rows a block (generic: 64, 32, 16, 8, 4; tensor: 128, 64, 32) or a group of blocks
            (latency: 1, 2, 4, 8) carries, None for the rule.
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
        self._program = program
        self._forms: dict[str, _Form] = {}
        self._lock = threading.Lock()
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
        self._workspaces: dict[int, Tensor] = {}

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
        self._refuse_capture("the critic's weights changed: call the Refiner or refresh() before the capture")
        with self._lock, torch.no_grad():
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
        info: InfoBuffers | None,
    ) -> None:
        """See Executor.run."""
        batch, candidates, width = actions.shape
        if candidates > 1 and _overlap(out, actions):
            # Later rounds of candidates would read what the first has written.
            apart = torch.empty(batch, width, device=out.device)
            self.run(states, actions, apart, steps=steps, lr=lr, info=info)
            out.copy_(apart)
            return
        kernel, rows, folded_floats, reason, _ = self._choice(batch, candidates)
        if kernel == "none":
            raise ValueError(f"refine: the cuda backend cannot run this call: {reason}")
        form = self._forms.get(kernel) or self._form(kernel)
        folded = torch.empty(folded_floats, dtype=torch.float32, device=actions.device)
        if isinstance(steps, Tensor):
            traced = info is not None and info.trace_q is not None
            most = info.trace_q.shape[0] - 1 if traced else MOST_STEPS
        else:
            most = steps
        on_gpu = self.device.type == "cuda"  # or on its stand-in, in tests
        stream = torch.cuda.current_stream(self.device).cuda_stream if on_gpu else 0
        with self._lock:  # not between the many copies of a repack in another thread
            workspace = self._workspace(stream, self._workspace_bytes(batch, candidates))
            self._plan.run(
                **call_arguments(states, actions, out, steps, most, lr, info),
                numbers=form.numbers.data_ptr(),
                tables=form.tables.data_ptr(),
                folded=folded.data_ptr(),
                folded_floats=folded_floats,
                stream=stream,
                only=kernel,
                only_rows=rows,
                workspace=0 if workspace is None else workspace.data_ptr(),
                workspace_bytes=0 if workspace is None else workspace.nbytes,
            )

    def _workspace(self, stream: int, size: int) -> Tensor | None:
        """Where blocks without clusters meet: zeros before and after a launch, for one launch at a time."""
        if not size:
            return None
        zeros = partial(torch.zeros, size + 128, dtype=torch.uint8, device=self.device)
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return _aligned(zeros())  # the graph's own: it may be replayed beside this stream
        if stream not in self._workspaces or self._workspaces[stream].nbytes < size:
            self._workspaces[stream] = _aligned(zeros())
        return self._workspaces[stream]

    def _form(self, kernel: str) -> _Form:
        with self._lock, torch.no_grad():
            form = self._forms.get(kernel)
            if form is None:
                self._refuse_capture(
                    f"the {kernel} kernel runs for the first time: call the Refiner with this batch before"
                )
                form = _Form(self._plan, kernel, self._options, self.device)
                form.write(self._members(), self._program.state_dim)
                self._forms[kernel] = form
        return form

    def _refuse_capture(self, reason: str) -> None:
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(f"refine: not while a CUDA graph is captured, because {reason}")

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
    what: str, layer: Linear | LayerNorm, state_dim: int, in_front: bool, rows: int, first: int
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
            return weight[:, s:] if in_front else weight
