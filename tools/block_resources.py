"""Compiles the Triton kernels of a transformer block for several GPUs; fails where one spills too much.

    python -m tools.block_resources [--out docs/results/block-resources.json] [--target cuda:90 ...]

Forward and backward with padding on both sides and dropout, the most that a call can ask for: Reinformer's
blocks in batches that give a program several rows, Decision Transformers' (tools/op_resources.py).
"""

import sys

from dtag_fast.ops.block.kernels_backward import block_backward
from dtag_fast.ops.block.kernels_forward import block_forward
from dtag_fast.ops.block.launch import constants, types
from dtag_fast.ops.block.tiles import launch_options, tiles_for, why_no_tiles

from . import tables
from .op_resources import BYTES, Call, main

table = tables.block_table
SPILL_LIMIT = 288  # between the steps of a block, once in each
KERNELS = {"forward": block_forward, "backward": block_backward}
NAMES = ("batch", "tokens", "width", "heads", "norm")
SHAPES = tuple(
    dict(zip(NAMES, sizes, strict=True))
    for sizes in ((4096, 15, 256, 8, "post"), (64, 60, 128, 1, "post"), (64, 60, 256, 8, "pre"))
)
CASES = [(kernel, shape) for shape in SHAPES for kernel in KERNELS]


def call(kernel: str, shape: dict[str, int], dtype: str, products: str, *, hip: bool) -> Call | None:
    """How a kernel is called with padding on both sides and dropout."""
    batch, tokens, width, heads, norm = shape.values()
    sizes = (tokens, width, width // heads, BYTES[dtype], products)
    if why_no_tiles(None, *sizes):
        return None
    function = KERNELS[kernel]
    tiles = tiles_for(batch, None, *sizes, backward=kernel == "backward")
    tile = f"{tiles.group} x {tiles.key_rows}"
    return Call(
        types(function, dtype, norm=norm, chosen=False),
        constants(function, tiles, width, 4 * width, heads, norm, "gelu", products),
        (),
        launch_options(hip=hip),
        tile,
    )


if __name__ == "__main__":
    sys.exit(main("block"))
