"""The sizes with which the Triton kernel is launched: a written rule, so that no call waits for a search.

A tile of rows runs all iterations in one program instance. Weights come from the L2 cache once per tile and
product, so taller tiles ask less of it; but a GPU is full only when every multiprocessor has a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

from dtag_fast.ops.triton_support import power_of_two

SCRATCH_LIMIT = 256 * 2**20  # bytes for all program instances together
ROWS = (64, 32, 16)  # of a tile
# What a tile's weights cost to read, in rows of arithmetic: an L2 cache of 64 bytes a clock against tensor
# cores of 600 products a clock, as a multiprocessor of an H100 has them.
WEIGHTS_IN_ROWS = 32
WIDE_ACTION = 64  # above it tiles are small, to fit a multiprocessor
STATE_BLOCK = 16  # columns of the state taken at once


def padded(size: int, block: int) -> int:
    """`size` rounded up to whole blocks."""
    return -(-size // block) * block


def column_block(width: int, precision: str, action: int) -> int:
    """Columns of a layer taken at once: what registers hold, or less where that would pad by an eighth.

    Under `action` dimensions: the product with the action is not summed in blocks, so shared memory has to
    hold action x columns weights.
    """
    most = 32 if action > WIDE_ACTION else 64 if precision == "fp32" else 128
    largest = min(power_of_two(width), most)
    for block in (128, 64, 32):
        if block <= largest and padded(width, block) * 8 <= width * 9:
            return block
    return min(largest, 32)


@dataclass(frozen=True)
class Dots:
    """How products are summed: tl.dot's names of precisions, and the inner block.

    hidden: of hidden layers. action: of the first layer with the action, float32's accuracy in all cases,
    since an iterate may move by less than the spacing of tf32 or bf16. edge: of the first layer with the
    state, once per call, and on the way back to the action.
    """

    hidden: str
    action: str
    edge: str
    depth: int  # of an inner sum, at most
    state_block: int = STATE_BLOCK


def dots_for(precision: str, *, hip: bool, interpreted: bool) -> Dots:
    """The rule, for "fp32", "tf32" or "bf16"."""
    if precision == "fp32":
        return Dots("ieee", "ieee", "ieee", 16)
    hidden = "tf32" if precision == "tf32" else "upcast" if interpreted else "ieee"
    exact, edge = ("ieee", "ieee") if hip else ("tf32x3", "tf32")
    return Dots(hidden, exact, edge, 32)


@dataclass(frozen=True)
class Tiles:
    """How a call is cut.

    rows: of a tile. slots: candidates of one state side by side in it. count: tiles of the call. programs:
    instances of the kernel, each of which takes tile after tile; registers hold one on a multiprocessor.
    """

    rows: int
    slots: int
    count: int
    programs: int


def tiles_for(
    batch: int, candidates: int, action: int, multiprocessors: int, scratch_bytes_per_row: int
) -> Tiles:
    """The rule, for `batch` states of `candidates` actions: the height whose rounds of tiles cost least."""

    def cut(rows: int) -> Tiles:
        slots = min(rows, 1 << (candidates - 1).bit_length())
        count = -(-batch // (rows // slots))
        fitting = max(1, SCRATCH_LIMIT // (rows * scratch_bytes_per_row))
        return Tiles(rows, slots, count, min(count, multiprocessors, fitting))

    def cost(tiles: Tiles) -> int:
        turns = -(-candidates // tiles.slots)
        return -(-tiles.count // tiles.programs) * turns * (tiles.rows + WEIGHTS_IN_ROWS)

    return min(map(cut, ROWS[-1:] if action > WIDE_ACTION else ROWS), key=cost)


def launch_options(rows: int, precision: str, *, hip: bool) -> dict[str, int]:
    """What Triton is told beside the kernel's arguments; tools/triton_resources.py shows what comes of it.

    Without maxnreg ptxas spills registers of the fp32 kernel to fit more programs on a multiprocessor.
    """
    num_warps = 4 if hip or rows == 16 else 8
    most = {"maxnreg": 255} if precision == "fp32" and not hip else {}
    return {"num_warps": num_warps, "num_stages": 2, **most}
