"""The Triton backend: any GPU that Triton compiles for, without the compiled module.

One launch runs all iterations of all rows (triton_kernel.py). The kernel is compiled at the first call of a
critic's structure, options and tile height, which takes seconds; Triton keeps the result on disk.

With TRITON_INTERPRET=1 in the environment before Triton is first imported, its interpreter runs the same
kernel on host tensors, far too slowly for anything but tests.
"""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtag_fast.ops import triton_support

from .executor import InfoBuffers
from .options import SGD, Adam, RefineOptions
from .plan_arguments import radius_norm, reduction_of, strides_of, walk_settings
from .program import CriticProgram
from .streams import streams_of
from .triton_layout import DTYPES, Layout, Weights, layout_of
from .triton_tiles import Tiles, dots_for, launch_options, tiles_for

MAX_ELEMENTS = 2**31 - 1  # the kernel counts weights and scratch in 32 bits
_interpreter_lock = threading.Lock()  # the interpreter changes Triton itself while it runs


def why_not(
    program: CriticProgram | None, options: RefineOptions | None, device: torch.device, precision: str
) -> str | None:
    """Why this backend cannot run, or None: it takes every option, and all but huge critics."""
    device = torch.device(device)
    if reason := triton_support.why_not(device):
        return reason
    if precision not in DTYPES:
        return f"it computes in fp32, tf32 or bf16, {precision} was asked for"
    if program is not None and options is not None:
        layout = layout_of(program, shared_reduction(program, options), precision)
        packed = max(layout.vectors, layout.matrices)
        if packed > MAX_ELEMENTS:
            return f"the critic is too large: {packed} packed weights, at most {MAX_ELEMENTS} are taken"
    return None


@dataclass(frozen=True)
class KernelOptions:
    """RefineOptions as the kernel is compiled for them."""

    optimizer: str
    first: float  # momentum, beta1 or alpha
    second: float  # beta2
    log_first: float
    log_second: float
    eps: float
    nesterov: bool
    gradient: str  # "raw", "unit", "clip"
    clip: float
    ball: str  # "none", "inf", "l2"
    radius: float
    select: str
    mixed: bool = False  # rows differ in all of these: they are in a table (triton_variants.py)
    variants: int = 0
    columns: int = 0


def kernel_options(options: RefineOptions) -> KernelOptions:
    """The options in the kernel's form."""
    if options.variants:
        from .triton_variants import COLUMNS  # Triton takes seconds to import

        plain = kernel_options(RefineOptions())
        return replace(plain, mixed=True, variants=len(options.variants), columns=COLUMNS)
    optimizer, names = options.optimizer, {f.name for f in fields(KernelOptions)}
    values: dict[str, Any] = dict.fromkeys(names, 0.0) | {"nesterov": False}
    values |= {"mixed": False, "variants": 0, "columns": 0}
    if isinstance(optimizer, SGD):
        values |= {"optimizer": "sgd", "first": optimizer.momentum, "nesterov": optimizer.nesterov}
    elif isinstance(optimizer, Adam):
        first, second = optimizer.betas
        values |= {"optimizer": "adam", "first": first, "second": second, "eps": optimizer.eps}
        values |= {"log_first": _log(first), "log_second": _log(second)}
    else:
        values |= {"optimizer": "rmsprop", "first": optimizer.alpha, "eps": optimizer.eps}
    return KernelOptions(**values | {"ball": radius_norm(options)} | walk_settings(options))


def shared_reduction(program: CriticProgram, options: RefineOptions) -> str | int:
    """What the kernel is compiled for: "mixed" where rows may differ in it."""
    if options.variants and program.reduction is None:
        for one in options.each():
            reduction_of(program, one)  # refuses members that are not there
        return "mixed"
    return reduction_of(program, options)


def _log(beta: float) -> float:
    """log(beta), or a number whose every power is as good as beta = 0."""
    return math.log(beta) if beta > 0 else -1000.0


class TritonExecutor:
    """An Executor (executor.py) over one Triton kernel.

    Args:
        program, options, precision: as executor.py says; precision "fp32", "tf32" or "bf16".
        steps, lr, scale, prior_mean, prior_weight: not used, a call brings its own.

    Raises:
        ValueError: a member number outside the ensemble.
    """

    name = "triton"

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
    ) -> None:
        reduce = shared_reduction(program, options)
        self.device, self.precision = program.device, precision
        self._options = kernel_options(options)
        self._layout = layout_of(program, reduce, precision)
        self._table = None
        if options.variants:
            from .triton_variants import table_of

            self._table = table_of(program, options)
        self._bounds = _bounds(options, self._layout, self.device)
        on_gpu = self.device.type == "cuda"
        self._multiprocessors = (
            torch.cuda.get_device_properties(self.device).multi_processor_count if on_gpu else 1
        )
        self._lock = threading.Lock() if on_gpu else _interpreter_lock
        self._dots = dots_for(precision, hip=torch.version.hip is not None, interpreted=not on_gpu)
        self._streams = streams_of(self.device)
        self._streams.refuse_capture("the critic is packed for the first time: call the Refiner before")

        def pack() -> Weights:
            return Weights(program, self._layout, reduce, precision)

        self._weights = self._streams.pack_new(pack, program.tensors())

    def repack(self, program: CriticProgram) -> None:
        """Take the new numbers of a program of the same structure, at the addresses of the old ones.

        Raises:
            RuntimeError: the stream is being captured, which would record the writing without doing it.
        """
        with self._lock, self._streams.repacking():
            self._weights.pack(program)

    def tiles(self, batch: int, candidates: int) -> Tiles:
        """The sizes of a launch."""
        structure = self._layout.structure
        row = 4 * structure.floats + DTYPES[self.precision].itemsize * structure.operands
        return tiles_for(batch, candidates, structure.action, self._multiprocessors, row)

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
        """See Executor.run. Waits for nothing on the host."""
        from .triton_kernel import refine_kernel  # Triton takes seconds to import

        batch, candidates, _ = actions.shape
        tiles, structure = self.tiles(batch, candidates), self._layout.structure
        per_row, lr_tensor = isinstance(steps, Tensor), isinstance(lr, Tensor)
        traced = info is not None and info.trace_q is not None
        known_steps = info.trace_q.shape[0] - 1 if traced else None if per_row else steps
        lr_strides = strides_of(lr) if lr_tensor else (0, 0)
        scales = isinstance(scale, Tensor)
        scale_strides = strides_of(scale) if scales else (0, 0)
        means, weights = isinstance(prior_mean, Tensor), isinstance(prior_weight, Tensor)
        mean_strides = strides_of(prior_mean) if means else (0, 0)
        details = [info and getattr(info, field.name) for field in fields(InfoBuffers)]
        on_gpu = self.device.type == "cuda"
        with self._lock, torch.cuda.device(self.device) if on_gpu else nullcontext():
            self._streams.reading((self._weights.vectors, self._weights.matrices))
            floats = states.new_empty(tiles.programs * tiles.rows * structure.floats)
            operands = states.new_empty(
                tiles.programs * tiles.rows * structure.operands, dtype=DTYPES[self.precision]
            )
            refine_kernel[(tiles.programs,)](
                states,
                states.stride(0),
                actions,
                out,
                steps if per_row else None,
                0 if known_steps is None else known_steps,
                lr if lr_tensor else None,
                0.0 if lr_tensor else lr,
                *lr_strides,
                scale if scales else None,
                1.0 if scales or scale is None else scale,
                *scale_strides,
                radius,
                self._table,
                variant,
                prior_mean if means else None,
                0.0 if means else prior_mean,
                *mean_strides,
                prior_weight if weights else None,
                0.0 if weights else prior_weight,
                self._weights.vectors,
                self._weights.matrices,
                self._bounds,
                floats,
                operands,
                *details,
                batch,
                candidates,
                tiles.count,
                STRUCTURE=structure,
                OPTIONS=self._options,
                ROWS=tiles.rows,
                SLOTS=tiles.slots,
                DOTS=self._dots,
                SCALED=scale is not None and (scales or scale != 1.0),
                PRIOR=weights or prior_weight != 0.0,
                **launch_options(tiles.rows, self.precision, hip=torch.version.hip is not None),
            )


def _bounds(options: RefineOptions, layout: Layout, device: torch.device) -> Tensor:
    """low and high, (2, action_padded)."""
    width = layout.structure.action
    bounds = np.zeros((2, layout.structure.action_padded), np.float32)
    bounds[0, :width] = -np.inf if options.low is None else options.low
    bounds[1, :width] = np.inf if options.high is None else options.high
    return torch.as_tensor(bounds, device=device)
