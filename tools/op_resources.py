"""Compiles the Triton kernels of an operator for several GPUs; fails where one spills more than a little.

Each operator has a module of this folder, named after it (`attention` has tools/attention_resources.py), that
says what to compile:

    KERNELS             name -> Triton kernel
    CASES               which of them to compile, and for which shapes: (name, dict of sizes)
    call(kernel, shape, dtype, products, hip=...)
                        how the named kernel is called for a shape and a precision of products: a `Call`, or
                        None where the launch rule refuses it
    table(result)       the Markdown table of the result
    SPILL_LIMIT         where it is not the one below

and ends with a call of `main`. Needs Triton but no GPU. Exit code 1 with a sentence per fault.
"""

import argparse
import importlib
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .triton_compile import TARGETS, compiled, registers

PRECISIONS = {"fp32": ("fp32", "tf32x3"), "tf32": ("fp32", "tf32"), "bf16": ("bf16", "ieee")}
BYTES = {"fp32": 4, "bf16": 2}  # of a number, by Triton's name of its type
CHECKED = ("cuda:80", "cuda:90", "cuda:100")  # the launch rules were written for these
REGISTERS = 64 * 1024  # of a multiprocessor of NVIDIA's, 32-bit ones
# Bytes of a thread that may pass through local memory: a few numbers once in a tile. Modules may have theirs.
SPILL_LIMIT = 192
SHARED_LIMIT = {"cuda:80": 163 * 1024, "cuda:90": 227 * 1024, "cuda:100": 227 * 1024, "hip:gfx942": 64 * 1024}


@dataclass(frozen=True)
class Call:
    """A call of a kernel. types: of its run-time arguments, by Triton's names; others are constants, None
    where none is given. strides: arguments taken to be multiples of 16. tile: what a program takes, in words.
    """

    types: dict[str, str]
    constants: dict[str, int | bool]
    strides: tuple[str, ...]
    options: dict[str, int]
    tile: str


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes. spills: bytes stored, or on AMD vector registers; shared: bytes."""

    target: str
    precision: str
    kernel: str
    shape: dict[str, int]
    tile: str
    num_warps: int
    registers: int
    spills: int
    scalar_spills: int
    shared: int

    def record(self) -> dict:
        """A line of the result file: the fields in their order, each size of the shape one of them."""
        fields = {}
        for name, value in vars(self).items():
            fields |= value if name == "shape" else {name: value}
        return fields


def resources(
    operator: str, target: str, precision: str, kernel: str, shape: dict[str, int]
) -> Resources | None:
    """Compiles one kernel of an operator as a call would, and reads what it takes; None: it is not called."""
    about = importlib.import_module(f".{operator}_resources", __package__)
    device, (dtype, products) = TARGETS[target], PRECISIONS[precision]
    hip = device.backend == "hip"
    products = "ieee" if hip else products
    call = about.call(kernel, shape, dtype, products, hip=hip)
    if call is None:
        return None
    function = about.KERNELS[kernel]
    types = {name: kind for name, kind in call.types.items() if name in function.arg_names}
    constants = {"PRECISION": products} | call.constants
    strides = tuple(name for name in call.strides if name in types)
    made = compiled(function, types, constants, device, call.options, multiples_of_16=strides)
    return Resources(
        *(target, precision, kernel, shape, call.tile, call.options["num_warps"]),
        *registers(made, device),
        made.metadata.shared,
    )


def fault(r: Resources, spill_limit: int = SPILL_LIMIT) -> str | None:
    """What is wrong with it, as a sentence."""
    shape = ", ".join(f"{name} {size}" for name, size in r.shape.items())
    what = f"{r.target}, {r.precision}, {r.kernel} of {shape}"
    if r.spills > spill_limit:
        return f"{what}: spills {r.spills} bytes, allowed {spill_limit}."
    taken = 32 * r.num_warps * r.registers
    if r.target.startswith("cuda") and taken > REGISTERS:
        return f"{what}: a program takes {taken} registers, a multiprocessor has {REGISTERS}."
    if r.shared > SHARED_LIMIT[r.target]:
        return f"{what}: asks for {r.shared} bytes of shared memory, the device has {SHARED_LIMIT[r.target]}."
    return None


def main(operator: str, argv: list[str] | None = None) -> int:
    """The command line of an operator's module."""
    about = importlib.import_module(f".{operator}_resources", __package__)
    parser = argparse.ArgumentParser(description=about.__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(CHECKED))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    arguments = parser.parse_args(argv)
    work = [
        (operator, target, precision, kernel, shape)
        for target in arguments.target
        for precision in arguments.precision
        if TARGETS[target].backend != "hip" or precision != "tf32"
        for kernel, shape in about.CASES
    ]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = [r for r in pool.map(resources, *zip(*work, strict=True)) if r is not None]
    versions = {"format": 1, "triton": metadata.version("triton")}
    result = versions | {"kernels": [r.record() for r in found]}
    print(about.table(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    limit = getattr(about, "SPILL_LIMIT", SPILL_LIMIT)
    faults = [sentence for r in found if (sentence := fault(r, limit))]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return int(bool(faults))
