"""Compiles the Triton kernels that make tokens for several GPUs; fails where one spills more than a little.

    python -m tools.embedding_resources [--out docs/results/embedding-resources.json] [--target cuda:90 ...]

Forward, and backward with the gradients of all weights, of the widths that the launch rule cuts differently
with narrow and wide states; Decision Transformer's order of tokens (tools/op_resources.py).
"""

import sys

from dtag_fast.ops.embedding.kernels import embedding_backward, embedding_forward, table_gradient
from dtag_fast.ops.embedding.launch import slot_constants, sum_constants, sum_rows
from dtag_fast.ops.embedding.tiles import TableTiles, launch_options, tiles_for

from . import tables
from .op_resources import BYTES, Call, main

table = tables.embedding_table
KERNELS = {"forward": embedding_forward, "backward": embedding_backward, "table": table_gradient}
SIZES = ((17, 6, 64), (11, 3, 128), (111, 8, 128), (45, 24, 256), (376, 17, 256))
SHAPES = tuple({"states": s, "actions": a, "width": width} for s, a, width in SIZES)
CASES = [(kernel, shape) for shape in SHAPES for kernel in ("forward", "backward")]
CASES.append(("table", SHAPES[1]))  # the same for any


def call(kernel: str, shape: dict[str, int], dtype: str, products: str, *, hip: bool) -> Call:
    """How a kernel is called for returns, states and actions, with the gradients of all weights."""
    if kernel == "table":
        return _table_call(shape["width"], hip)
    widths = (1, shape["states"], shape["actions"])
    tiles = tiles_for(shape["width"], max(widths))
    per_kind = ("x", "weight", "bias", "d_y")
    pointers = [f"{name}_{slot}" for name in per_kind for slot in range(3) if (name, slot) != ("d_y", 0)]
    types = dict.fromkeys((*pointers, "table", "norm_weight", "norm_bias", "out", "grad"), f"*{dtype}")
    types |= {"timesteps": "*i64", "clamped": "*i32", "d_time": "*fp32", "sums": "*fp32", "eps": "fp32"}
    numbers = [f"x_{axis}_{slot}" for axis in ("batch", "step") for slot in range(3)]
    numbers += ["time_batch", "time_step", "batches", "steps", "tokens", "table_rows"]
    types |= dict.fromkeys(numbers, "i32")
    constants = slot_constants(widths, BYTES[dtype]) | tiles.constants(shape["width"])
    if kernel == "backward":
        constants |= sum_constants(*sum_rows(widths))
    options = launch_options(tiles, BYTES[dtype], hip=hip)
    return Call(types, constants, (), options, f"{tiles.rows} x {tiles.columns}")


def _table_call(width: int, hip: bool) -> Call:
    tiles = TableTiles()
    exact = {} if hip else {"PRECISION": "tf32x3"}
    types = {"d_time": "*fp32", "clamped": "*i32", "out": "*fp32", "total": "i32", "table_rows": "i32"}
    options, tile = launch_options(tiles, 4, hip=hip), f"{tiles.rows} x {tiles.columns} from {tiles.steps}"
    return Call(types, tiles.constants(width) | exact, (), options, tile)


if __name__ == "__main__":
    sys.exit(main("embedding"))
