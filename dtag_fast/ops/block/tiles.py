"""The sizes with which the block's kernels are launched: a rule, so that no call waits for a search.

A program owns whole sequences, one or several of up to 16 tokens, and what it works on at a time stays in
registers. What the sizes below need was read from the compiled kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from dtag_fast.ops.triton_support import power_of_two

MOST_TOKENS = 64  # of a sequence
MOST_WIDTH = 256  # of a token
MOST_HEAD = 128
NUM_WARPS = 8
MOST_ROWS = 64  # of a program that owns several sequences
PROGRAMS = 128  # about the multiprocessors of a large GPU: with fewer programs some would be idle
MOST_REGISTERS = 255  # of a thread: ptxas would take fewer, and spill, to fit more programs

# Products as exact as float32's own take three of tf32, each operand in two parts: so many rows by columns of
# a head fit backward.
EXACT = ("tf32x3", "ieee")
EXACT_NUMBERS = 64 * 32


@dataclass(frozen=True)
class Steps:
    """How much of a product is taken at a time.

    chunk: numbers of a token, or of its hidden features, that are summed over. span: features made. part:
    columns of what is done number by number. hidden_chunk: hidden features made. hidden_width: numbers of a
    token that are summed over for them, forward. stages, hidden_stages: rounds of the inner loops, and of
    forward's loop over hidden features, whose operands are in shared memory or on the way there.
    """

    chunk: int
    span: int
    part: int
    hidden_chunk: int
    hidden_width: int
    stages: int
    hidden_stages: int


# By bytes of a number.
FORWARD = {2: Steps(64, 64, 32, 32, 256, 3, 2), 4: Steps(16, 32, 32, 16, 16, 2, 1)}
# Backward stores the hidden features: its loop over them has inner loops over `chunk` numbers of a token.
BACKWARD = {2: Steps(64, 64, 32, 64, 0, 3, 0), 4: Steps(16, 32, 32, 32, 0, 2, 0)}


@dataclass(frozen=True)
class Tiles:
    """How a call is cut: batch rows of a program, rows of each, token and head padded; in what steps."""

    group: int
    query_rows: int
    key_rows: int
    columns: int
    head_columns: int
    steps: Steps

    def constants(self) -> dict[str, int]:
        """What a kernel is compiled for."""
        steps = self.steps
        return {
            "GROUP": self.group,
            "QUERY_ROWS": self.query_rows,
            "KEY_ROWS": self.key_rows,
            "COLUMNS": self.columns,
            "HEAD_COLUMNS": self.head_columns,
            "CHUNK": min(steps.chunk, self.columns),
            "SPAN": min(steps.span, self.columns),
            "PART": min(steps.part, self.columns),
            "HIDDEN_CHUNK": steps.hidden_chunk,
            "HIDDEN_WIDTH": min(steps.hidden_width, self.columns),
            "STAGES": steps.stages,
            "HIDDEN_STAGES": steps.hidden_stages,
        }


def _most_numbers(itemsize: int, precision: str) -> int:
    """Rows of a program by columns of a head."""
    return EXACT_NUMBERS if itemsize == 4 and precision in EXACT else MOST_ROWS * MOST_HEAD


def tiles_for(
    batch: int,
    queries: int | None,
    tokens: int,
    width: int,
    head: int,
    itemsize: int,
    precision: str,
    *,
    backward: bool,
) -> Tiles:
    """The rule, for tokens `width` wide in heads `head` wide; queries: None where all tokens are."""
    key_rows, head_columns = power_of_two(tokens), power_of_two(head)
    rows = max(key_rows, power_of_two(queries or 1))
    most_rows = min(MOST_ROWS, _most_numbers(itemsize, precision) // head_columns)
    group = 1
    while 2 * group * rows <= most_rows and key_rows == 16 and batch >= 2 * group * PROGRAMS:
        group *= 2
    query_rows = key_rows
    if queries is not None:  # with all that a program owns at least 16, the smallest side of a product
        query_rows = max(1 << (max(queries, 1) - 1).bit_length(), 16 // group)
    steps = (BACKWARD if backward else FORWARD)[itemsize]
    return Tiles(group, query_rows, key_rows, power_of_two(width), head_columns, steps)


def why_no_tiles(
    queries: int | None, tokens: int, width: int, head: int, itemsize: int, precision: str
) -> str | None:
    """Why the kernels have no sizes for a call, or None."""
    if tokens > MOST_TOKENS:
        return f"the kernels take up to {MOST_TOKENS} tokens, the sequences have {tokens}"
    if queries is not None and queries > MOST_TOKENS:
        return f"the kernels take up to {MOST_TOKENS} queries of a sequence, these are {queries}"
    if width > MOST_WIDTH:
        return f"the kernels take tokens up to {MOST_WIDTH} wide, these are {width}"
    if head > MOST_HEAD:
        return f"the kernels take heads up to {MOST_HEAD} wide, these are {head}"
    rows = power_of_two(max(tokens, queries or 0))
    most = _most_numbers(itemsize, precision) // rows
    if power_of_two(head) > most:
        return (
            f"the kernels' exact float32 takes heads up to {most} wide of {tokens} tokens, these are {head}; "
            f'after torch.set_float32_matmul_precision("high") they take {MOST_HEAD}'
        )
    return None


def launch_options(*, hip: bool) -> dict[str, int]:
    """What Triton is told beside the kernel's arguments."""
    return {"num_warps": NUM_WARPS} | ({} if hip else {"maxnreg": MOST_REGISTERS})
