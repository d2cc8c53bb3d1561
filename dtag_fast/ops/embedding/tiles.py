"""The sizes with which the embedding kernels are launched: a rule, so that no call waits for a search.

None depends on the batch, so that a step's tokens have the same bits in any batch. What the sizes need was
read from the compiled kernels (tools/embedding_resources.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from dtag_fast.ops.triton_support import power_of_two

MOST_WIDTH = 256  # of a token
# Up to here a program makes one kind of token, so that a small batch reaches more multiprocessors; above,
# all kinds, and reads the timestep embedding once for them.
FEW_TILES = 256
# Of inputs of up to so many numbers a backward program sums the weight's gradient over its steps: those sums
# are about as many bytes as the gradients of the tokens, from which a product makes it otherwise.
SUMMED_INPUTS = 32
# Up to here the gradient of the timestep table is made by looking at all steps for every tile of its rows, in
# one launch; above, that is much work and the steps are sorted. An estimate, no time on a GPU was measured.
FEW_STEPS = 8192


@dataclass(frozen=True)
class Tiles:
    """How a call is cut. rows: steps of a program. columns: of a token, padded. num_warps: of a program."""

    rows: int
    columns: int
    num_warps: int

    def constants(self, width: int) -> dict[str, int]:
        """What a kernel for tokens `width` wide is compiled for."""
        return {"ROWS": self.rows, "WIDTH": width, "COLUMNS": self.columns}


def tiles_for(width: int, inputs: int) -> Tiles:
    """The rule, for tokens `width` wide made of states or actions of up to `inputs` numbers.

    A thread has 16 numbers of a tile, as backward has several tiles at once. Rows are few, so that a small
    batch reaches more multiprocessors; more, where every program reads a large matrix.
    """
    columns = power_of_two(width)
    if columns <= 64:
        return Tiles(32, columns, 4)
    if columns == 128 and inputs > 64:
        return Tiles(32, columns, 8)
    return Tiles(16, columns, columns // 32)


def chunk_for(inputs: int, itemsize: int) -> int:
    """How many of the numbers of a state or an action one product takes."""
    return min(power_of_two(inputs), 32 if itemsize == 4 else 64)


@dataclass(frozen=True)
class TableTiles:
    """How the gradient of the timestep table is cut. rows, columns: of the table, of a program, which looks
    at `steps` together. num_warps: of it."""

    rows: int = 32
    columns: int = 64
    steps: int = 128
    num_warps: int = 8

    def constants(self, width: int) -> dict[str, int]:
        """What the kernel for tokens `width` wide is compiled for."""
        return {"ROWS": self.rows, "WIDTH": width, "COLUMNS": self.columns, "STEPS": self.steps}


def launch_options(tiles: Tiles | TableTiles, itemsize: int, *, hip: bool) -> dict[str, int]:
    """What Triton is told beside the kernel's arguments. Without maxnreg ptxas spills registers of float32
    kernels to fit more programs on a multiprocessor."""
    most = {"maxnreg": 255} if itemsize == 4 and not hip else {}
    return {"num_warps": tiles.num_warps, **most}
