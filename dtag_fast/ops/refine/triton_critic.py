"""Q and dQ/da of a tile of rows in Triton: forward through all stages of all members, and back.

Values and slopes of a stage go through scratch in global memory, small enough to stay in the L2 cache: a
tensor in registers cannot be cut into the blocks that products are summed over, and a critic may be wide.

Barriers. Threads of a program instance read from scratch what others of the same instance have written; a
barrier stands between every such pair of stages. It is also what keeps a stage of the next iteration from
overwriting what a slower thread still reads. Other instances have their own scratch.

Names: r a tile's rows, c a block of columns; (ROWS, n) is the shape of a tile of n columns.
"""

import triton
import triton.language as tl

from .triton_activations import activations
from .triton_variants import joined, of_all


@triton.constexpr_function
def group_of(structure, i):
    """The i-th group of a Structure."""
    return structure.groups[i]


@triton.constexpr_function
def stage_of(group, i):
    """The i-th stage of a Group."""
    return group.stages[i]


@triton.constexpr_function
def depth_block(width, dots):
    """How much of an inner sum over `width` is taken at once."""
    return min(width, dots.depth)


@triton.jit
def at(rows, columns, WIDTH: tl.constexpr):
    """Offsets (rows, columns) in a row-major matrix."""
    return rows[:, None] * WIDTH + columns[None, :]


@triton.jit
def own_columns(x, columns, STAGE: tl.constexpr):
    """x with zeros in the padding, where infinity times a zero weight would leave NaN."""
    if STAGE.width == STAGE.outer:
        return x
    else:
        return tl.where(columns[None, :] < STAGE.width, x, 0.0)


@triton.jit
def fold_states(
    states, state_stride, r_state, r_valid, vectors, floats,
    GROUP: tl.constexpr, STRUCTURE: tl.constexpr, ROWS: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """Writes W1_s s + b1 of every member of a group into its columns of `floats`."""
    STAGE: tl.constexpr = stage_of(GROUP, 0)
    BLOCK: tl.constexpr = STAGE.block
    r = tl.arange(0, ROWS)
    for e in range(GROUP.count):
        member = vectors + e * GROUP.vectors_stride
        for start in range(0, STAGE.outer, STAGE.block):
            c = start + tl.arange(0, STAGE.block)
            z = tl.zeros((ROWS, BLOCK), tl.float32)
            for first in range(0, STRUCTURE.state_padded, DOTS.state_block):
                k = first + tl.arange(0, DOTS.state_block)
                valid = r_valid[:, None] & (k < STRUCTURE.state)[None, :]
                s = tl.load(states + r_state[:, None] * state_stride + k[None, :], mask=valid, other=0.0)
                w = tl.load(member + GROUP.state_weights + c[None, :] * STRUCTURE.state_padded + k[:, None])
                z = tl.dot(s, w, z, input_precision=DOTS.edge)
            z += tl.load(member + STAGE.vectors + c)[None, :]
            base = floats + (GROUP.base + e * STAGE.outer) * ROWS
            tl.store(base + at(r, c, STAGE.outer), z)


@triton.jit
def product(
    x, weights, c, ROWS: tl.constexpr, INNER: tl.constexpr, SUM_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """Columns c of x W, (ROWS, BLOCK): x is (ROWS, INNER), W[k, c] at k SUM_STRIDE + c COLUMN_STRIDE."""
    r = tl.arange(0, ROWS)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, INNER, DEPTH):
        k = first + tl.arange(0, DEPTH)
        left = tl.load(x + at(r, k, INNER))
        right = tl.load(weights + k[:, None] * SUM_STRIDE + c[None, :] * COLUMN_STRIDE)
        if DOTS.hidden == "upcast":  # Triton's interpreter has no bf16 product
            left, right = left.to(tl.float32), right.to(tl.float32)
            sums = tl.dot(left, right, sums, input_precision="ieee")
        else:
            sums = tl.dot(left, right, sums, input_precision=DOTS.hidden)
    return sums


@triton.jit
def norm_sums(inputs, STAGE: tl.constexpr, ROWS: tl.constexpr):
    """Mean (ROWS,) and 1 / sqrt(var + eps) (ROWS,) of a LayerNorm's inputs (ROWS, outer)."""
    r = tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, STAGE.outer, STAGE.block):
        c = start + tl.arange(0, STAGE.block)
        total += tl.sum(tl.load(inputs + at(r, c, STAGE.outer)), 1)
    mean = total / STAGE.width
    squares = tl.zeros((ROWS,), tl.float32)
    for start in range(0, STAGE.outer, STAGE.block):
        c = start + tl.arange(0, STAGE.block)
        d = tl.load(inputs + at(r, c, STAGE.outer)) - mean[:, None]
        squares += tl.sum(own_columns(d * d, c, STAGE), 1)
    return mean, 1.0 / tl.sqrt_rn(squares / STAGE.width + STAGE.eps)


@triton.jit
def forward_stage(
    a, q, vectors, matrices, floats, operands, e, INDEX: tl.constexpr, GROUP: tl.constexpr,
    STRUCTURE: tl.constexpr, ROWS: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """A stage's values and slopes into scratch. The last one adds its part of Q instead, and writes dQ/dz."""
    STAGE: tl.constexpr = stage_of(GROUP, INDEX)
    BEFORE: tl.constexpr = stage_of(GROUP, INDEX - 1)  # of the first stage: not used
    LAST: tl.constexpr = len(GROUP.stages) == INDEX + 1
    r = tl.arange(0, ROWS)
    dims = tl.arange(0, STRUCTURE.action_padded)
    if STAGE.kind == "norm":
        inputs = floats + BEFORE.values * ROWS
        mean, scale = norm_sums(inputs, STAGE, ROWS)
        tl.store(floats + (STAGE.normalised + STAGE.outer) * ROWS + r, scale)
    for start in range(0, STAGE.outer, STAGE.block):
        c = start + tl.arange(0, STAGE.block)
        if STAGE.kind == "first":
            z = tl.load(floats + (GROUP.base + e * STAGE.outer) * ROWS + at(r, c, STAGE.outer))
            w = tl.load(vectors + GROUP.action_weights + c[None, :] * STRUCTURE.action_padded + dims[:, None])
            z = tl.dot(a, w, z, input_precision=DOTS.action)
        elif STAGE.kind == "linear":
            z = product(
                operands + BEFORE.values * ROWS, matrices + STAGE.matrix, c, ROWS, STAGE.inner, 1,
                STAGE.inner, STAGE.block, depth_block(BEFORE.block, DOTS), DOTS,
            )  # fmt: skip
            z += tl.load(vectors + STAGE.vectors + c)[None, :]
        else:
            x = tl.load(inputs + at(r, c, STAGE.outer))
            x = own_columns((x - mean[:, None]) * scale[:, None], c, STAGE)
            tl.store(floats + STAGE.normalised * ROWS + at(r, c, STAGE.outer), x)
            w = tl.load(vectors + STAGE.vectors + c)
            z = x * w[None, :] + tl.load(vectors + STAGE.vectors + STAGE.outer + c)[None, :]
        h, slope = activations(z, STAGE)
        h, slope = own_columns(h, c, STAGE), own_columns(slope, c, STAGE)
        slopes = operands + STAGE.slopes * ROWS + at(r, c, STAGE.outer)
        if LAST:
            out = tl.load(vectors + GROUP.out + c)[None, :]
            q += tl.sum(h * out, 1)
            tl.store(slopes, (slope * out).to(operands.dtype.element_ty))
        else:
            values = floats if STAGE.before_norm else operands
            tl.store(values + STAGE.values * ROWS + at(r, c, STAGE.outer), h.to(values.dtype.element_ty))
            if len(STAGE.activations) > 0:
                tl.store(slopes, slope.to(operands.dtype.element_ty))
    return q


@triton.jit
def backward_stage(
    vectors, matrices, floats, operands, INDEX: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    DOTS: tl.constexpr,
):  # fmt: skip
    """From dQ/dz of stage INDEX to dQ/dz of the stage before it, which takes the place of its slopes."""
    STAGE: tl.constexpr = stage_of(GROUP, INDEX)
    BEFORE: tl.constexpr = stage_of(GROUP, INDEX - 1)
    r = tl.arange(0, ROWS)
    if STAGE.kind == "norm":
        scale = tl.load(floats + (STAGE.normalised + STAGE.outer) * ROWS + r)[:, None]
        plain = tl.zeros((ROWS,), tl.float32)
        along = tl.zeros((ROWS,), tl.float32)
        for start in range(0, STAGE.outer, STAGE.block):
            c = start + tl.arange(0, STAGE.block)
            d = tl.load(operands + STAGE.slopes * ROWS + at(r, c, STAGE.outer)).to(tl.float32)
            d *= tl.load(vectors + STAGE.vectors + c)[None, :]
            plain += tl.sum(d, 1)
            along += tl.sum(d * tl.load(floats + STAGE.normalised * ROWS + at(r, c, STAGE.outer)), 1)
        plain = plain[:, None] / STAGE.width
        along = along[:, None] / STAGE.width
    for start in range(0, BEFORE.outer, BEFORE.block):
        c = start + tl.arange(0, BEFORE.block)
        if STAGE.kind == "linear":
            d = product(
                operands + STAGE.slopes * ROWS, matrices + STAGE.matrix, c, ROWS, STAGE.outer, STAGE.inner, 1,
                BEFORE.block, depth_block(STAGE.block, DOTS), DOTS,
            )  # fmt: skip
        else:
            d = tl.load(operands + STAGE.slopes * ROWS + at(r, c, STAGE.outer)).to(tl.float32)
            x = tl.load(floats + STAGE.normalised * ROWS + at(r, c, STAGE.outer))
            d = scale * (d * tl.load(vectors + STAGE.vectors + c)[None, :] - plain - x * along)
        slopes = operands + BEFORE.slopes * ROWS + at(r, c, BEFORE.outer)
        if len(BEFORE.activations) > 0:
            d *= tl.load(slopes).to(tl.float32)
        tl.store(slopes, own_columns(d, c, BEFORE).to(operands.dtype.element_ty))


@triton.jit
def action_gradient(
    vectors, operands, GROUP: tl.constexpr, STRUCTURE: tl.constexpr, ROWS: tl.constexpr,
    DOTS: tl.constexpr,
):  # fmt: skip
    """dQ/da (ROWS, action_padded) from dQ/dz of the first stage."""
    STAGE: tl.constexpr = stage_of(GROUP, 0)
    WIDTH: tl.constexpr = STRUCTURE.action_padded
    DEPTH: tl.constexpr = depth_block(STAGE.block, DOTS)
    r = tl.arange(0, ROWS)
    dims = tl.arange(0, STRUCTURE.action_padded)
    g = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, STAGE.outer, DEPTH):
        c = start + tl.arange(0, DEPTH)
        d = tl.load(operands + STAGE.slopes * ROWS + at(r, c, STAGE.outer)).to(tl.float32)
        w = tl.load(vectors + GROUP.action_weights + at(c, dims, STRUCTURE.action_padded))
        g = tl.dot(d, w, g, input_precision=DOTS.edge)
    return g


@triton.jit
def member_value_and_gradient(
    a, wants_gradient, vectors, matrices, floats, operands, e, GROUP: tl.constexpr, STRUCTURE: tl.constexpr,
    ROWS: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """Q (ROWS,) and dQ/da (ROWS, action_padded) of member e of a group; zeros when no gradient is wanted."""
    WIDTH: tl.constexpr = STRUCTURE.action_padded
    vectors += e * GROUP.vectors_stride
    matrices += e * GROUP.matrices_stride
    q = tl.zeros((ROWS,), tl.float32) + tl.load(vectors + GROUP.out_bias)
    for i in tl.static_range(len(GROUP.stages)):
        tl.debug_barrier()
        q = forward_stage(
            a, q, vectors, matrices, floats, operands, e, i, GROUP, STRUCTURE, ROWS, DOTS,
        )  # fmt: skip
    g = tl.zeros((ROWS, WIDTH), tl.float32)
    if wants_gradient:
        for i in tl.static_range(len(GROUP.stages) - 1):
            tl.debug_barrier()
            backward_stage(
                vectors, matrices, floats, operands, len(GROUP.stages) - 1 - i, GROUP, ROWS, DOTS,
            )  # fmt: skip
        tl.debug_barrier()
        g = action_gradient(vectors, operands, GROUP, STRUCTURE, ROWS, DOTS)
    return q, g


@triton.jit
def value_and_gradient(
    a, wants_gradient, vectors, matrices, floats, operands, r_line, STRUCTURE: tl.constexpr,
    ROWS: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """Reduced Q (ROWS,) and its gradient (ROWS, action_padded), as executor.py defines the reduction; where
    that is "mixed", as each row's variant does (triton_variants.py)."""
    WIDTH: tl.constexpr = STRUCTURE.action_padded
    q = tl.zeros((ROWS,), tl.float32)
    g = tl.zeros((ROWS, WIDTH), tl.float32)
    for i in tl.static_range(len(STRUCTURE.groups)):
        for e in range(group_of(STRUCTURE, i).count):
            q_e, g_e = member_value_and_gradient(
                a, wants_gradient, vectors, matrices, floats, operands, e, group_of(STRUCTURE, i), STRUCTURE,
                ROWS, DOTS,
            )  # fmt: skip
            if STRUCTURE.reduce == "mixed":
                number = group_of(STRUCTURE, i).first + e
                q, g = joined(q, g, q_e, g_e, number, number == 0, r_line)
            elif STRUCTURE.reduce == "mean":
                q += q_e
                g += g_e
            else:
                beats = q_e < q if STRUCTURE.reduce == "min" else q_e > q
                first = group_of(STRUCTURE, i).first + e == 0
                takes = first | beats | ((q_e != q_e) & (q == q))  # the first NaN, as torch.min has it
                q = tl.where(takes, q_e, q)
                g = tl.where(takes[:, None], g_e, g)
    if STRUCTURE.reduce == "mean":
        q = q / STRUCTURE.members
        g = g / STRUCTURE.members
    elif STRUCTURE.reduce == "mixed":
        q, g = of_all(q, g, STRUCTURE.members, r_line)
    return q, g
