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
from .triton_steps import from_mean, optimizer_step, prior_cost, project, shape_gradient
from .triton_variants import LAST, RADIUS, of_rows

NO_CANDIDATE = tl.constexpr(2**31 - 1)


@triton.jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def ascend(
    a_0, n, r_steps, r_valid, r_flat, flat_rows, lr, scale, limit, r_line, mean, weight, vectors, matrices,
    floats, operands, low, high, trace_actions, trace_q, trace_grad,
    STRUCTURE: tl.constexpr, OPTIONS: tl.constexpr, ROWS: tl.constexpr, DOTS: tl.constexpr,
    SCALED: tl.constexpr, PRIOR: tl.constexpr,
):  # fmt: skip
    """The loop. Returns of each row q_0, and a, q, Q - F and index of the iterate that is its result."""
    WIDTH: tl.constexpr = STRUCTURE.action_padded
    dims = tl.arange(0, WIDTH)
    own = (dims < STRUCTURE.action)[None, :]
    a, best_a = a_0, a_0
    q_0 = tl.zeros((ROWS,), tl.float32)
    best_q = tl.zeros((ROWS,), tl.float32)
    best_cost = tl.zeros((ROWS,), tl.float32)
    cost = tl.zeros((ROWS,), tl.float32)
    startable = r_valid
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
        if PRIOR:
            cost = prior_cost(a, mean, weight, scale, SCALED)
            startable = startable & ((i > 0) | is_finite(q - cost))
            higher = is_finite(q - cost) & (q - best_q > cost - best_cost)
        else:
            higher = is_finite(q) & (q > best_q)
        if OPTIONS.mixed:
            takes = takes & ((tl.load(r_line + LAST) != 0) | higher)
        elif OPTIONS.select == "best":
            takes = takes & higher
        takes = takes | (i == 0)
        if PRIOR:
            best_cost = tl.where(takes, cost, best_cost)
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
        if PRIOR:
            g = g - tl.where(weight > 0, 2.0 * weight * from_mean(a, mean, scale, SCALED), 0.0)
        steep = tl.max(tl.where(is_finite(g) | (own == 0), 0, 1), 1)
        running = running & is_finite(q_0) & (i < r_steps) & (steep == 0)
        if PRIOR:
            running = running & startable
        delta, m, v = optimizer_step(shape_gradient(g, r_line, OPTIONS), lr, m, v, i, r_line, OPTIONS)
        if SCALED:
            delta = tl.where(scale == 0, 0.0, delta * scale)
        a_next = project(
            tl.where(delta == 0, a, a + delta), a_0, low, high, limit, scale, r_line, OPTIONS, SCALED
        )
        a = tl.where(running[:, None] & own, a_next, a)
    return q_0, best_a, best_q, best_cost, best_index


@triton.jit
def refine_tile(
    tile, states, state_stride, actions, out, steps, n, lr_values, lr_number, lr_row_stride, lr_dim_stride,
    scale_values, scale_number, scale_row_stride, scale_dim_stride, radius_values, variants, row_variants,
    mean_values, mean_number, mean_row_stride, mean_dim_stride, weight_values, weight_number,
    vectors, matrices, bounds, floats, operands, q_0, q_best, best_index, best_candidate,
    trace_actions, trace_q, trace_grad, batch, candidates,
    STRUCTURE: tl.constexpr, OPTIONS: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
    DOTS: tl.constexpr, SCALED: tl.constexpr, PRIOR: tl.constexpr,
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
    if mean_values is not None:
        cells = r_state[:, None] * mean_row_stride + dims[None, :] * mean_dim_stride
        mean = tl.load(mean_values + cells, mask=present[:, None] & own, other=0.0)
    else:
        mean = tl.where(own, mean_number, 0.0)
    if weight_values is not None:
        weight = tl.load(weight_values + r_state, mask=present, other=0.0)[:, None]
    else:
        weight = tl.zeros((1, 1), tl.float32) + weight_number
    weight = tl.div_rn(weight, tl.zeros_like(weight) + STRUCTURE.action)
    flat_rows = batch.to(tl.int64) * candidates

    top_q = tl.full((ROWS,), float("-inf"), tl.float32)
    top_cost = tl.zeros((ROWS,), tl.float32)
    top_a = tl.zeros((ROWS, WIDTH), tl.float32)
    top_candidate = tl.zeros((ROWS,), tl.int32)
    for first in range(0, candidates, SLOTS):
        r_candidate = first + r % SLOTS
        valid = present & (r_candidate < candidates)
        r_flat = r_state * candidates + r_candidate
        cells = r_flat[:, None] * STRUCTURE.action + dims[None, :]
        a_0 = tl.load(actions + cells, mask=valid[:, None] & own, other=0.0)
        a_0 = tl.where(a_0 < low, low, tl.where(a_0 > high, high, a_0))  # NaN stays
        row_q_0, a, q, cost, index = ascend(
            a_0, n, r_steps, valid, r_flat, flat_rows, lr, scale, limit, r_line, mean, weight, vectors,
            matrices, floats, operands, low, high, trace_actions, trace_q, trace_grad, STRUCTURE, OPTIONS,
            ROWS, DOTS, SCALED, PRIOR,
        )  # fmt: skip
        if q_0 is not None:
            tl.store(q_0 + r_flat, row_q_0, mask=valid)
            tl.store(q_best + r_flat, q, mask=valid)
            tl.store(best_index + r_flat, index, mask=valid)
        if PRIOR:
            finite = valid & is_finite(q - cost)
            q = tl.where(finite, q, float("-inf"))
            cost = tl.where(finite, cost, 0.0)
            better = (first == 0) | (finite & (q - top_q > cost - top_cost))
            top_cost = tl.where(better, cost, top_cost)
        else:
            q = tl.where(valid & is_finite(q), q, float("-inf"))
            better = (first == 0) | (q > top_q)
        top_q = tl.where(better, q, top_q)
        top_a = tl.where(better[:, None], a, top_a)
        top_candidate = tl.where(better, r_candidate, top_candidate)

    winner = present
    if SLOTS > 1:
        # The smallest candidate number among those of greatest q: candidate 0 when all are -inf.
        q_slots = tl.reshape(top_q, (ROWS // SLOTS, SLOTS))
        if PRIOR:  # F, measured from the greatest Q: costs are not lost beside that
            near = tl.max(q_slots, 1)[:, None]
            near = tl.where(is_finite(near), near, 0.0)
            q_slots = q_slots - near - tl.reshape(top_cost, (ROWS // SLOTS, SLOTS))
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
        "scale_row_stride", "scale_dim_stride", "mean_number", "mean_row_stride", "mean_dim_stride",
        "weight_number", "batch", "candidates", "tiles",
    ]
)  # fmt: skip
def refine_kernel(
    states, state_stride, actions, out, steps, steps_number, lr_values, lr_number, lr_row_stride,
    lr_dim_stride, scale_values, scale_number, scale_row_stride, scale_dim_stride, radius_values, variants,
    row_variants, mean_values, mean_number, mean_row_stride, mean_dim_stride, weight_values, weight_number,
    vectors, matrices, bounds, floats, operands, q_0, q_best, best_index, best_candidate,
    trace_actions, trace_q, trace_grad, batch, candidates, tiles,
    STRUCTURE: tl.constexpr, OPTIONS: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
    DOTS: tl.constexpr, SCALED: tl.constexpr, PRIOR: tl.constexpr,
):  # fmt: skip
    """See Executor.run (executor.py) for the semantics.

    Args:
        states, actions, out, q_0 ... trace_grad: as Executor.run has them; None for what is not asked for.
        steps: int32 (B,) or None for steps_number. lr_values: float32 or None for lr_number.
        scale_values: the same, not read unless SCALED. radius_values: float32 (B,) or None for OPTIONS'.
        variants, row_variants: the table of triton_variants.py and int32 (B,), or None where OPTIONS are not
            mixed.
        mean_values, weight_values: float32 or None for the numbers, of the prior; not read unless PRIOR.
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
            radius_values, variants, row_variants, mean_values, mean_number, mean_row_stride, mean_dim_stride,
            weight_values, weight_number, vectors, matrices, bounds, floats, operands, q_0, q_best,
            best_index, best_candidate, trace_actions, trace_q, trace_grad, batch, candidates,
            STRUCTURE, OPTIONS, ROWS, SLOTS, DOTS, SCALED, PRIOR,
        )  # fmt: skip
