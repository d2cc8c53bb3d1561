"""Compiles the Triton kernel of refine for several GPUs; fails where the standard problem spills registers.

    python -m tools.triton_resources [--out docs/results/triton-resources.json]
                                     [--target cuda:90 ...] [--precision fp32 ...]

The standard problem: twin critic, 17 states, 6 actions, two layers of 256 ReLU, SGD in the box [-1, 1]. Needs
Triton but no GPU. Exit code 1 with a sentence per kernel that spills. An AMD compiler also parks scalar
registers in lanes of vector registers, which touches no memory: shown, not counted as a spill.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

from dtag_fast.ops.refine.options import RefineOptions
from dtag_fast.ops.refine.program import Activation, CriticProgram, Linear
from dtag_fast.ops.refine.triton import kernel_options, shared_reduction
from dtag_fast.ops.refine.triton_kernel import refine_kernel
from dtag_fast.ops.refine.triton_layout import layout_of
from dtag_fast.ops.refine.triton_tiles import ROWS, dots_for, launch_options

from . import tables
from .triton_compile import TARGETS, compiled, registers

PRECISIONS = ("fp32", "tf32", "bf16")
NUMBERS = (
    "state_stride",
    "steps_number",
    "lr_row_stride",
    "lr_dim_stride",
    "scale_row_stride",
    "scale_dim_stride",
    "mean_row_stride",
    "mean_dim_stride",
    "batch",
    "candidates",
    "tiles",
)
OPTIONAL_FLOATS = (
    "lr_values",
    "scale_values",
    "radius_values",
    "mean_values",
    "weight_values",
    "q_0",
    "q_best",
    "trace_actions",
    "trace_q",
    "trace_grad",
)
OPTIONAL_INTEGERS = ("steps", "best_index", "best_candidate")
FLOATS = ("states", "actions", "out", "vectors", "bounds", "floats")


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes. spills: bytes stored, or on AMD vector registers; shared: bytes."""

    target: str
    precision: str
    rows: int
    num_warps: int
    registers: int
    spills: int
    scalar_spills: int
    shared: int


def standard_program() -> CriticProgram:
    """Twin critic, S = 17, A = 6, [256, 256] ReLU; of its numbers only the shapes matter."""
    shapes, relu = ((256, 23), (256, 256), (1, 256)), Activation("relu")
    first, second, last = (Linear(torch.zeros(shape), torch.zeros(shape[0])) for shape in shapes)
    return CriticProgram(17, 6, ((first, relu, second, relu, last),) * 2)


def compile_kernel(
    program: CriticProgram,
    options: RefineOptions,
    precision: str,
    target: GPUTarget,
    rows: int,
    *,
    slots: int = 1,
    everything: bool = False,
) -> CompiledKernel:
    """The kernel as `TritonExecutor.run` would have it compiled.

    everything: with steps, lr, scale, radius and prior of each row, details and traces, instead of numbers
    and the result alone.
    """
    hip = target.backend == "hip"
    constants = {
        "STRUCTURE": layout_of(program, shared_reduction(program, options), precision).structure,
        "OPTIONS": kernel_options(options),
        "ROWS": rows,
        "SLOTS": slots,
        "DOTS": dots_for(precision, hip=hip, interpreted=False),
        "SCALED": everything,
        "PRIOR": everything,
    }
    types = dict.fromkeys(NUMBERS, "i32") | dict.fromkeys(FLOATS, "*fp32") | {"lr_number": "fp32"}
    types |= dict.fromkeys(("scale_number", "mean_number", "weight_number"), "fp32")
    types |= dict.fromkeys(("matrices", "operands"), "*bf16" if precision == "bf16" else "*fp32")
    if options.variants:
        types |= {"variants": "*fp32", "row_variants": "*i32"}
    if everything:
        types |= dict.fromkeys(OPTIONAL_FLOATS, "*fp32") | dict.fromkeys(OPTIONAL_INTEGERS, "*i32")
    return compiled(refine_kernel, types, constants, target, launch_options(rows, precision, hip=hip))


def resources(name: str, precision: str, rows: int) -> Resources:
    """Compiles one kernel of the standard problem and reads what it takes."""
    target = TARGETS[name]
    low = np.full(6, -1, np.float32)
    kernel = compile_kernel(standard_program(), RefineOptions(low=low, high=-low), precision, target, rows)
    return Resources(
        name, precision, rows, kernel.metadata.num_warps, *registers(kernel, target), kernel.metadata.shared
    )


def table(found: list[Resources]) -> str:
    """Markdown, one row per kernel."""
    header = (
        "target",
        "precision",
        "rows",
        "warps",
        "registers per thread",
        "spills",
        "shared memory, bytes",
    )
    rows = [
        (
            *(r.target, r.precision, str(r.rows), str(r.num_warps), str(r.registers)),
            f"{r.spills}" + (f" ({r.scalar_spills} scalar)" if r.scalar_spills else ""),
            f"{r.shared:,}",
        )
        for r in found
    ]
    return tables.markdown(header, rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    arguments = parser.parse_args(argv)
    found = [
        resources(target, precision, rows)
        for target in arguments.target
        for precision in arguments.precision
        for rows in ROWS
    ]
    print(table(found))
    if arguments.out:
        result = {"format": 1, "triton": metadata.version("triton"), "kernels": [vars(r) for r in found]}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for r in found:
        if r.spills:
            print(f"{r.target}, {r.precision}, {r.rows} rows: spills ({r.spills})", file=sys.stderr)
    return int(any(r.spills for r in found))


if __name__ == "__main__":
    sys.exit(main())
