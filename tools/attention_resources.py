"""Compiles the Triton kernels of attention for several GPUs; fails where one spills more than a little.

    python -m tools.attention_resources [--out docs/results/attention-resources.json] [--target cuda:90 ...]

Forward and backward with padding on both sides and dropout, the most that a call can ask for, of the shapes
that the launch rule cuts differently (tools/op_resources.py).
"""

import sys

from dtag_fast.ops.attention.kernels import attention_backward, attention_forward
from dtag_fast.ops.attention.tiles import launch_options, tiles_for

from . import tables
from .op_resources import BYTES, Call, main

table = tables.attention_table
KERNELS = {"forward": attention_forward, "backward": attention_backward}
SIZES = ((15, 32), (60, 32), (128, 64), (60, 128), (300, 128))
SHAPES = tuple({"tokens": tokens, "width": width} for tokens, width in SIZES)  # width of a head
CASES = [(kernel, shape) for shape in SHAPES for kernel in KERNELS]


def call(kernel: str, shape: dict[str, int], dtype: str, products: str, *, hip: bool) -> Call:
    """How a kernel is called with padding and dropout."""
    tokens, width = shape["tokens"], shape["width"]
    tiles = tiles_for(tokens, tokens, width, BYTES[dtype], backward=kernel == "backward")
    numbers = ("position_stride", "sequences", "heads", "queries", "tokens")
    types = dict.fromkeys(numbers, "i32") | {"scale": "fp32", "keep_scale": "fp32", "threshold": "i64"}
    tensors = ("q", "kv", "dq", "dkv")
    strides = tuple(f"{tensor}_{axis}" for tensor in tensors for axis in ("batch", "row", "head"))
    types |= dict.fromkeys(strides, "i32")
    types |= dict.fromkeys(("q", "k", "v", "out", "grad", "dq", "dk", "dv"), f"*{dtype}") | {"lse": "*fp32"}
    types |= dict.fromkeys(("start", "length", "seed"), "*i64")
    tile = f"{tiles.group} x {tiles.query_rows} x {tiles.key_rows}" + (", whole" if tiles.whole else "")
    options = launch_options(tiles, BYTES[dtype], hip=hip)
    return Call(types, tiles.constants(width), strides, options, tile)


if __name__ == "__main__":
    sys.exit(main("attention"))
