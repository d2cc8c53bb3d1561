"""Compiles the Triton kernels of attention for several GPUs; fails where one spills more than a little.

    python -m tools.attention_resources [--out docs/results/attention-resources.json] [--target cuda:90 ...]

Forward and backward with padding on both sides and dropout, the most that a call can ask for, of the shapes
that the launch rule cuts differently. Needs Triton but no GPU. Exit code 1 with a sentence per fault.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dtag_fast.ops.attention.kernels import attention_backward, attention_forward
from dtag_fast.ops.attention.tiles import launch_options, tiles_for

from . import tables
from .triton_compile import TARGETS, compiled, registers

KERNELS = {"forward": attention_forward, "backward": attention_backward}
SHAPES = ((15, 32), (60, 32), (128, 64), (60, 128), (300, 128))  # tokens, width of a head
PRECISIONS = {"fp32": ("fp32", "tf32x3"), "tf32": ("fp32", "tf32"), "bf16": ("bf16", "ieee")}
BYTES = {"fp32": 4, "bf16": 2}
STRIDES = ("q", "kv", "dq", "dkv")
CHECKED = ("cuda:80", "cuda:90", "cuda:100")  # the launch rule was written for these
# Bytes of a thread that may pass through local memory: a few numbers once in a tile.
SPILL_LIMIT = 192
SHARED_LIMIT = {"cuda:80": 163 * 1024, "cuda:90": 227 * 1024, "cuda:100": 227 * 1024, "hip:gfx942": 64 * 1024}


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes. spills: bytes stored, or on AMD vector registers; shared: bytes."""

    target: str
    precision: str
    kernel: str
    tokens: int
    width: int
    tile: str
    num_warps: int
    registers: int
    spills: int
    scalar_spills: int
    shared: int


def resources(name: str, precision: str, kernel: str, tokens: int, width: int) -> Resources:
    """Compiles one kernel as a call with padding and dropout would, and reads what it takes."""
    target, (dtype, products) = TARGETS[name], PRECISIONS[precision]
    hip = target.backend == "hip"
    tiles = tiles_for(tokens, tokens, width, BYTES[dtype], backward=kernel == "backward")
    numbers = ("position_stride", "sequences", "heads", "queries", "tokens")
    types = dict.fromkeys(numbers, "i32") | {"scale": "fp32", "keep_scale": "fp32", "threshold": "i64"}
    strides = [f"{tensor}_{axis}" for tensor in STRIDES for axis in ("batch", "row", "head")]
    types |= dict.fromkeys(strides, "i32")
    types |= dict.fromkeys(("q", "k", "v", "out", "grad", "dq", "dk", "dv"), f"*{dtype}") | {"lse": "*fp32"}
    types |= dict.fromkeys(("start", "length", "seed"), "*i64")
    arguments = KERNELS[kernel].arg_names
    types = {argument: kind for argument, kind in types.items() if argument in arguments}
    constants = tiles.constants(width) | {"PRECISION": "ieee" if hip else products}
    options = launch_options(tiles, BYTES[dtype], hip=hip)
    made = compiled(KERNELS[kernel], types, constants, target, options, multiples_of_16=tuple(strides))
    tile = f"{tiles.group} x {tiles.query_rows} x {tiles.key_rows}" + (", whole" if tiles.whole else "")
    return Resources(
        *(name, precision, kernel, tokens, width, tile, tiles.num_warps),
        *registers(made, target),
        made.metadata.shared,
    )


def fault(r: Resources) -> str | None:
    """What is wrong with it, as a sentence."""
    what = f"{r.target}, {r.precision}, {r.kernel} of {r.tokens} tokens, width {r.width}"
    if r.spills > SPILL_LIMIT:
        return f"{what}: spills {r.spills} bytes, allowed {SPILL_LIMIT}."
    if r.shared > SHARED_LIMIT[r.target]:
        return f"{what}: asks for {r.shared} bytes of shared memory, the device has {SHARED_LIMIT[r.target]}."
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(CHECKED))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    arguments = parser.parse_args(argv)
    work = [
        (target, precision, kernel, *shape)
        for target in arguments.target
        for precision in arguments.precision
        if TARGETS[target].backend != "hip" or precision != "tf32"
        for shape in SHAPES
        for kernel in KERNELS
    ]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(resources, *zip(*work, strict=True)))
    result = {"format": 1, "triton": metadata.version("triton"), "kernels": [vars(r) for r in found]}
    print(tables.attention_table(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    faults = list(filter(None, map(fault, found)))
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
