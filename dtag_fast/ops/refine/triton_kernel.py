"""The Triton kernel of refine: all iterations of a tile of rows and the choice of a candidate at one launch.

A row of a tile is one candidate of one state: some candidates of a state stand side by side (SLOTS), and
where there are more the tile is refined in several rounds.

The kernel is compiled for a Structure (triton_layout.py), options and products given as constant objects,
which constexpr functions read. Nested tuples would say the same, but Triton 3.7 unpacks a constant tuple and
then finds no type for the tuples within.
"""

import triton
import triton.language as tl

from .triton_critic import fold_states, group_of, value_and_gradient
from .triton_steps import optimizer_step, project, shape_gradient
from .triton_variants import LAST, RADIUS, of_rows

NO_CANDIDATE = tl.constexpr(2**31 - 1)


@triton.jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def ascend(
    a_0, n, r_steps, r_valid, r_flat, flat_rows, lr, scale, limit, r_line, vectors, matrices, floats,
    operands, low, high, trace_actions, trace_q, trace_grad,
    STRUCTURE: tl.constexpr, OPTIONS: tl.constexpr, ROWS: tl.constexpr, DOTS: tl.constexpr,
    SCALED: tl.constexpr,
):  # fmt: skip
    """The loop. Returns of each row q_0, and a, q and index of the iterate that is its result."""
    WIDTH: tl.constexpr = STRUCTURE.action_padded
    dims = tl.arange(0, WIDTH)
    own = (dims < STRUCTURE.action)[None, :]
    a, best_a = a_0, a_0
    q_0 = tl.zeros((ROWS,), tl.float32)
    best_q = tl.zeros((ROWS,), tl.float32)
    best_index = tl.zeros((ROWS,), tl.int32)
    running = r_valid
    m = tl.zeros((ROWS, WIDTH), tl.float32)
    v = tl.zeros((ROWS, WIDTH), tl.float32)
    for i in range(0, n + 1):
        q, g = value_and_gradient(
            a, i < n, vectors, matrices, floats, operands, r_line, STRUCTURE, ROWS, DOTS
        )
        q_0 = tl.where(i == 0, q, q_0)
        takes = running & (i > 0)
        if OPTIONS.mixed:
            takes = takes & ((tl.load(r_line + LAST) != 0) | (is_finite(q) & (q > best_q)))
        elif OPTIONS.select == "best":
            takes = takes & is_finite(q) & (q > best_q)
        takes = takes | (i == 0)
        best_a = tl.where(takes[:, None], a, best_a)
        best_q = tl.where(takes, q, best_q)
        best_index = tl.where(takes, i, best_index)
        if trace_q is not None:
            at = r_flat + i * flat_rows
            cells = at[:, None] * STRUCTURE.action + dims[None, :]
            nan = float("nan")
            tl.store(trace_q + at, tl.where(running, q, nan), mask=r_valid)
            tl.store(trace_actions + cells, tl.where(running[:, None], a, nan), mask=r_valid[:, None] & own)
            known = running[:, None] & (i < n)  # of the last iterate no gradient was asked for
            tl.store(trace_grad + cells, tl.where(known, g, nan), mask=r_valid[:, None] & own)
        if SCALED:
            g = g * scale
        steep = tl.max(tl.where(is_finite(g) | (own == 0), 0, 1), 1)
        running = running & is_finite(q_0) & (i < r_steps) & (steep == 0)
        delta, m, v = optimizer_step(shape_gradient(g, r_line, OPTIONS), lr, m, v, i, r_line, OPTIONS)
        if SCALED:
            delta = tl.where(scale == 0, 0.0, delta * scale)
        a_next = project(
            tl.where(delta == 0, a, a + delta), a_0, low, high, limit, scale, r_line, OPTIONS, SCALED
        )
        a = tl.where(running[:, None] & own, a_next, a)
    return q_0, best_a, best_q, best_index


@triton.jit
def refine_tile(
    tile, states, state_stride, actions, out, steps, n, lr_values, lr_number, lr_row_stride, lr_dim_stride,
    scale_values, scale_number, scale_row_stride, scale_dim_stride, radius_values, variants,
    row_variants, vectors, matrices, bounds, floats, operands, q_0, q_best, best_index, best_candidate,
    trace_actions, trace_q, trace_grad, batch, candidates,
    STRUCTURE: tl.constexpr, OPTIONS: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
    DOTS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Refines the candidates of ROWS / SLOTS states and writes the winners."""
    WIDTH: tl.constexpr = STRUCTURE.action_padded
    r = tl.arange(0, ROWS)
    dims = tl.arange(0, WIDTH)
    own = (dims < STRUCTURE.action)[None, :]
    tile = tl.zeros((ROWS,), tl.int64) + tile
    r_state = tile * (ROWS // SLOTS) + r // SLOTS  # rows of a state stand together
    present = r_state < batch
    tl.debug_barrier()  # the tile before this one may still be read
    for i in tl.static_range(len(STRUCTURE.groups)):
        fold_states(
            states, state_stride, r_state, present, vectors, floats, group_of(STRUCTURE, i), STRUCTURE, ROWS,
            DOTS,
        )  # fmt: skip
    low = tl.load(bounds + dims)[None, :]
    high = tl.load(bounds + STRUCTURE.action_padded + dims)[None, :]
    if steps is not None:
        r_steps = tl.load(steps + r_state, mask=present, other=0)
        if trace_q is None:
            n = tl.maximum(tl.max(r_steps, 0), 0)  # with a trace all iterates are written, so n is known
    else:
        r_steps = tl.zeros((ROWS,), tl.int32) + n
    if lr_values is not None:
        cells = r_state[:, None] * lr_row_stride + dims[None, :] * lr_dim_stride
        lr = tl.load(lr_values + cells, mask=present[:, None] & own, other=0.0)
    else:
        lr = tl.zeros((1, 1), tl.float32) + lr_number
    if scale_values is not None:
        cells = r_state[:, None] * scale_row_stride + dims[None, :] * scale_dim_stride
        scale = tl.load(scale_values + cells, mask=present[:, None] & own, other=1.0)
    else:
        scale = tl.zeros((1, 1), tl.float32) + scale_number
    if radius_values is not None:
        limit = tl.load(radius_values + r_state, mask=present, other=0.0)[:, None]
    else:
        limit = OPTIONS.radius
    r_line = None
    if OPTIONS.mixed:
        line = tl.load(row_variants + r_state, mask=present, other=0)
        line = tl.minimum(tl.maximum(line, 0), OPTIONS.variants - 1)  # nobody has checked it on the device
        r_line = variants + line * OPTIONS.columns
        limit = of_rows(r_line, RADIUS)
    flat_rows = batch.to(tl.int64) * candidates

    top_q = tl.full((ROWS,), float("-inf"), tl.float32)
    top_a = tl.zeros((ROWS, WIDTH), tl.float32)
    top_candidate = tl.zeros((ROWS,), tl.int32)
    for first in range(0, candidates, SLOTS):
        r_candidate = first + r % SLOTS
        valid = present & (r_candidate < candidates)
        r_flat = r_state * candidates + r_candidate
        cells = r_flat[:, None] * STRUCTURE.action + dims[None, :]
        a_0 = tl.load(actions + cells, mask=valid[:, None] & own, other=0.0)
        a_0 = tl.where(a_0 < low, low, tl.where(a_0 > high, high, a_0))  # NaN stays
        row_q_0, a, q, index = ascend(
            a_0, n, r_steps, valid, r_flat, flat_rows, lr, scale, limit, r_line, vectors, matrices, floats,
            operands, low, high, trace_actions, trace_q, trace_grad, STRUCTURE, OPTIONS, ROWS, DOTS, SCALED,
        )  # fmt: skip
        if q_0 is not None:
            tl.store(q_0 + r_flat, row_q_0, mask=valid)
            tl.store(q_best + r_flat, q, mask=valid)
            tl.store(best_index + r_flat, index, mask=valid)
        q = tl.where(valid & is_finite(q), q, float("-inf"))
        better = (first == 0) | (q > top_q)
        top_q = tl.where(better, q, top_q)
        top_a = tl.where(better[:, None], a, top_a)
        top_candidate = tl.where(better, r_candidate, top_candidate)

    winner = present
    if SLOTS > 1:
        # The smallest candidate number among those of greatest q: candidate 0 when all are -inf.
        q_slots = tl.reshape(top_q, (ROWS // SLOTS, SLOTS))
        is_top = q_slots == tl.max(q_slots, 1)[:, None]
        number = tl.where(is_top, tl.reshape(top_candidate, (ROWS // SLOTS, SLOTS)), NO_CANDIDATE)
        wins = number == tl.min(number, 1)[:, None]
        winner = winner & (tl.reshape(wins.to(tl.int32), (ROWS,)) == 1)
    cells = r_state[:, None] * STRUCTURE.action + dims[None, :]
    tl.store(out + cells, top_a, mask=winner[:, None] & own)
    if best_candidate is not None:
        tl.store(best_candidate + r_state, top_candidate, mask=winner)


# Sizes that vary from call to call: no new compilation when one of them becomes 1 or a multiple of 16.
@triton.jit(
    do_not_specialize=[
        "state_stride", "steps_number", "lr_number", "lr_row_stride", "lr_dim_stride", "scale_number",
        "scale_row_stride", "scale_dim_stride", "batch", "candidates", "tiles",
    ]
)  # fmt: skip
def refine_kernel(
    states, state_stride, actions, out, steps, steps_number, lr_values, lr_number, lr_row_stride,
    lr_dim_stride, scale_values, scale_number, scale_row_stride, scale_dim_stride, radius_values, variants,
    row_variants, vectors, matrices, bounds, floats, operands, q_0, q_best, best_index, best_candidate,
    trace_actions, trace_q, trace_grad, batch, candidates, tiles,
    STRUCTURE: tl.constexpr, OPTIONS: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
    DOTS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """See Executor.run (executor.py) for the semantics.

    Args:
        states, actions, out, q_0 ... trace_grad: as Executor.run has them; None for what is not asked for.
        steps: int32 (B,) or None for steps_number. lr_values: float32 or None for lr_number.
        scale_values: the same, not read unless SCALED. radius_values: float32 (B,) or None for OPTIONS'.
        variants, row_variants: the table of triton_variants.py and int32 (B,), or None where OPTIONS are not
            mixed.
        vectors, matrices, floats, operands: triton_layout.py; bounds: float32 (2, action_padded).
        PRECISION: of products of hidden layers, a name that tl.dot takes. EXACT: of those with the state and
            the action, which must tell neighbouring actions apart.
    """
    instance = tl.program_id(0)
    floats += instance.to(tl.int64) * (STRUCTURE.floats * ROWS)
    operands += instance.to(tl.int64) * (STRUCTURE.operands * ROWS)
    for tile in range(instance, tiles, tl.num_programs(0)):
        refine_tile(
            tile, states, state_stride, actions, out, steps, steps_number, lr_values, lr_number,
            lr_row_stride, lr_dim_stride, scale_values, scale_number, scale_row_stride, scale_dim_stride,
            radius_values, variants, row_variants, vectors, matrices, bounds, floats, operands, q_0, q_best,
            best_index, best_candidate, trace_actions, trace_q, trace_grad, batch, candidates,
            STRUCTURE, OPTIONS, ROWS, SLOTS, DOTS, SCALED,
        )  # fmt: skip
