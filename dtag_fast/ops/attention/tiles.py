"""The sizes with which the attention kernels are launched: a rule, so that no call waits for a search.

Sequences are short: where a program's registers hold one whole, with its scores, a program takes it, or takes
several of 16 tokens or fewer. Longer ones are cut into tiles. What the sizes below need was read from the
compiled kernels (tools/attention_resources.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from dtag_fast.ops.triton_support import power_of_two

MOST_TOKENS = 320  # of a sequence: the kernels are written for short ones
MOST_WIDTH = 128  # of a head


@dataclass(frozen=True)
class Limits:
    """For heads of up to `columns`: the longest sequence that one program takes, and how many short ones;
    queries and keys of a tile of longer ones; columns that a product of rows takes at a time; warps."""

    columns: int
    most_tokens: int
    group: int
    cut: tuple[int, int]
    chunk: int
    warps: int


# By bytes of a number. Four take twice the registers, and again twice for products as exact as float32.
FORWARD = {
    4: (
        Limits(32, 64, 2, (32, 32), 32, 8),
        Limits(64, 32, 1, (16, 32), 32, 8),
        Limits(128, 16, 1, (16, 16), 32, 8),
    ),
    2: (
        Limits(64, 64, 4, (32, 64), 64, 4),
        Limits(128, 64, 1, (32, 32), 128, 4),
    ),
}
BACKWARD = {
    4: (Limits(32, 32, 2, (32, 32), 32, 8), *FORWARD[4][1:]),
    2: (Limits(64, 64, 4, (32, 32), 64, 4), *FORWARD[2][1:]),
}
# Forward, 16-bit numbers and heads of up to 64: some queries with all keys up to here, for an exact softmax.
EXACT_TOKENS, EXACT_QUERIES = 128, 32


@dataclass(frozen=True)
class Tiles:
    """How a call is cut.

    group: sequences (each of one batch row and head) of a program. query_rows, key_rows: of a sequence, of a
    tile of it. whole: one tile holds all of a sequence's keys, backward all of its queries too. width: of a
    head, padded. chunk: columns of it that a product of rows takes at a time.
    """

    group: int
    query_rows: int
    key_rows: int
    whole: bool
    width: int
    chunk: int
    num_warps: int

    def constants(self, width: int) -> dict[str, int | bool]:
        """What a kernel for heads `width` wide is compiled for."""
        return {
            "WIDTH": width,
            "COLUMNS": self.width,
            "CHUNK": self.chunk,
            "GROUP": self.group,
            "QUERY_ROWS": self.query_rows,
            "KEY_ROWS": self.key_rows,
            "WHOLE": self.whole,
        }


def tiles_for(queries: int, tokens: int, width: int, itemsize: int, *, backward: bool) -> Tiles:
    """The rule, for `queries` rows over `tokens` keys of heads `width` wide, numbers of `itemsize` bytes."""
    columns, key_rows, query_rows = power_of_two(width), power_of_two(tokens), power_of_two(queries)
    rule = (BACKWARD if backward else FORWARD)[itemsize]
    limits = next(limits for limits in rule if columns <= limits.columns)
    chunk, rows = min(limits.chunk, columns), max(query_rows, key_rows)
    if rows <= limits.most_tokens:
        group = limits.group if rows == 16 else 1
        return Tiles(group, query_rows, key_rows, True, columns, chunk, 4 if rows == 16 else limits.warps)
    if not backward and itemsize == 2 and columns <= 64 and key_rows <= EXACT_TOKENS:
        return Tiles(1, min(EXACT_QUERIES, query_rows), key_rows, True, columns, chunk, limits.warps)
    most_queries, keys = limits.cut
    return Tiles(1, min(most_queries, query_rows), keys, False, columns, chunk, limits.warps)


def launch_options(tiles: Tiles, itemsize: int, *, hip: bool) -> dict[str, int]:
    """What Triton is told beside the kernel's arguments. Without maxnreg ptxas spills registers of float32
    kernels to fit more programs on a multiprocessor."""
    most = {"maxnreg": 255} if itemsize == 4 and not hip else {}
    return {"num_warps": tiles.num_warps, **most}
