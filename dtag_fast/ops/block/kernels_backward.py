"""The block backward, one launch: the gradient of x, and what the products for the weights' gradients read.

Hidden features and the weights of attention are computed again; forward kept the rest (launch.Kept).
"""

import triton
import triton.language as tl

from dtag_fast.ops.attention.kernels import key_tile, query_tile
from dtag_fast.ops.triton_rows import product, store_rows

from .kernel_parts import (
    RUN_TIME,
    activated,
    add_dropped,
    head_weights,
    load_block,
    load_vector,
    moments,
    store_block,
    store_times_weight,
    times_weight,
)


@triton.jit
def activated_slope(h, GELU: tl.constexpr):
    """gelu'(h) = Phi(h) + h phi(h), or relu'(h)."""
    if GELU:
        density = 0.3989422804014327 * tl.exp(-0.5 * h * h)
        return 0.5 * (1.0 + tl.erf(h * 0.7071067811865476)) + h * density
    return tl.where(h > 0, 1.0, 0.0)


@triton.jit
def store_layer_norm_backward(
    target, grad, source, at, wanted, weight, residual, sums, WIDTH: tl.constexpr, PART: tl.constexpr
):  # fmt: skip
    """target = the gradient of rows that a LayerNorm took, plus `residual` where given; at sums, the
    gradients of its weight and bias.

    With n = the normalised rows and g = grad weight: (g - mean(g) - n mean(g n)) / deviation.
    """
    mean, inverse = moments(source, at, wanted, WIDTH, PART)
    plain = tl.zeros((at.shape[0], PART), tl.float32)
    along = tl.zeros((at.shape[0], PART), tl.float32)
    for first in range(0, WIDTH, PART):
        column = first + tl.arange(0, PART)
        inside = column < WIDTH
        rows = load_block(source, at, wanted, column, inside).to(tl.float32)
        rows = (rows - mean[:, None]) * inverse[:, None]
        g = load_block(grad, at, wanted, column, inside).to(tl.float32)
        tl.store(sums + column, tl.sum(g * rows, 0), mask=inside)
        tl.store(sums + WIDTH + column, tl.sum(g, 0), mask=inside)
        g *= load_vector(weight, column, inside)
        plain += g
        along += g * rows
    mean_plain, mean_along = tl.sum(plain, 1) / WIDTH, tl.sum(along, 1) / WIDTH
    for first in range(0, WIDTH, PART):
        column = first + tl.arange(0, PART)
        inside = column < WIDTH
        rows = load_block(source, at, wanted, column, inside).to(tl.float32)
        rows = (rows - mean[:, None]) * inverse[:, None]
        g = load_block(grad, at, wanted, column, inside).to(tl.float32) * load_vector(weight, column, inside)
        found = (g - mean_plain[:, None] - rows * mean_along[:, None]) * inverse[:, None]
        if residual is not None:
            found += load_block(residual, at, wanted, column, inside).to(tl.float32)
        store_block(target, at, wanted, column, inside, found)


@triton.jit
def store_sums(sums, source, at, wanted, WIDTH: tl.constexpr, PART: tl.constexpr):
    """Sums over the rows, the gradient of a bias."""
    for first in range(0, WIDTH, PART):
        column = first + tl.arange(0, PART)
        rows = load_block(source, at, wanted, column, column < WIDTH).to(tl.float32)
        tl.store(sums + column, tl.sum(rows, 0), mask=column < WIDTH)


@triton.jit
def store_head(d_qkv, at, wanted, x, sums, n, HEAD: tl.constexpr, HEAD_COLUMNS: tl.constexpr):
    """A head's part of the gradient of q, k or v, which starts at feature n, and its sum over the rows."""
    c = tl.arange(0, HEAD_COLUMNS)
    store_rows(d_qkv + n, at, wanted, x, HEAD, HEAD_COLUMNS)
    tl.store(sums + n + c, tl.sum(x, 0), mask=c < HEAD)


@triton.jit(do_not_specialize=RUN_TIME)
def block_backward(
    x, grad, attended, mlp_in, between,
    dx, hidden, d_hidden, d_mlp, d_attended, d_out, d_qkv, d_source, placed, sums,
    qkv_weight, qkv_bias, out_weight, norm_1_weight, expand_weight, expand_bias, contract_weight,
    norm_2_weight, positions, start, length, seed,
    position_stride, batch_rows, queries, tokens, scale, threshold, keep_scale,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr,
    PRE: tl.constexpr, GELU: tl.constexpr, HEAD_COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    QUERY_ROWS: tl.constexpr, KEY_ROWS: tl.constexpr, CHUNK: tl.constexpr, PART: tl.constexpr,
    SPAN: tl.constexpr, HIDDEN_CHUNK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx, and of every row: hidden = act(h), d_hidden = the gradient of h, d_mlp and d_out those of what the
    MLP and attention gave before dropout, d_qkv that of queries, keys and values; d_attended that of
    `attended`. sums: a row for each program, of the gradients of biases and LayerNorms in their order."""
    row_0 = tl.program_id(0) * GROUP
    _, i_batch, i_row, i_token, i_present, i_real = query_tile(
        row_0, 0, batch_rows, 1, queries, tokens, positions, position_stride, start, length, GROUP, QUERY_ROWS
    )
    _, j_batch, j_token, j_present, j_real = key_tile(
        row_0, 0, batch_rows, 1, tokens, start, length, GROUP, KEY_ROWS
    )
    i_there = i_present & (i_token >= 0) & (i_token < tokens)
    i_at = (i_batch.to(tl.int64) * tokens + i_token) * WIDTH  # in x
    i_place = i_batch.to(tl.int64) * queries + i_row
    i_out = i_place * WIDTH
    j_place = j_batch.to(tl.int64) * tokens + j_token
    j_at = j_place * WIDTH
    sums += tl.program_id(0).to(tl.int64) * (9 * WIDTH + HIDDEN)
    out_sums, norm_1_sums, expand_sums = sums + 3 * WIDTH, sums + 4 * WIDTH, sums + 6 * WIDTH
    contract_sums, norm_2_sums = expand_sums + HIDDEN, expand_sums + HIDDEN + WIDTH

    # The half of the MLP. d_residual: the gradient of the sum of MLP and residual path.
    d_residual = grad
    if not PRE:
        store_layer_norm_backward(
            d_attended, grad, between, i_out, i_present, norm_2_weight, None, norm_2_sums, WIDTH, PART
        )
        tl.debug_barrier()
        d_residual = d_attended
    add_dropped(
        d_mlp, d_residual, i_out, i_present, None, i_out, i_present, i_batch, i_token, seed, threshold,
        keep_scale, 2, WIDTH, PART,
    )  # fmt: skip
    tl.debug_barrier()
    store_sums(contract_sums, d_mlp, i_out, i_present, WIDTH, PART)
    for first in tl.range(0, HIDDEN, HIDDEN_CHUNK, disable_licm=True):
        n = first + tl.arange(0, HIDDEN_CHUNK)
        inside = n < HIDDEN
        h = times_weight(
            mlp_in, i_out, i_present, expand_weight, n, inside, WIDTH, 1, WIDTH, CHUNK, STAGES, PRECISION
        ) + load_vector(expand_bias, n, inside)
        dh = times_weight(
            d_mlp, i_out, i_present, contract_weight, n, inside, 1, HIDDEN, WIDTH, CHUNK, STAGES, PRECISION
        ) * activated_slope(h, GELU)
        store_block(hidden, i_place * HIDDEN, i_present, n, inside, activated(h, GELU))
        store_block(d_hidden, i_place * HIDDEN, i_present, n, inside, dh)
        tl.store(expand_sums + n, tl.sum(dh, 0), mask=inside)
    tl.debug_barrier()
    # d_out is scratch here: the gradient of the sum of attention and residual path comes out of a LayerNorm.
    store_times_weight(
        d_out, i_out, d_hidden, i_place * HIDDEN, i_present, expand_weight, None, None if PRE else d_residual,
        1, WIDTH, HIDDEN, WIDTH, SPAN, CHUNK, STAGES, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()
    if PRE:
        store_layer_norm_backward(
            d_attended, d_out, attended, i_out, i_present, norm_2_weight, d_residual, norm_2_sums, WIDTH, PART
        )
    else:
        store_layer_norm_backward(
            d_attended, d_out, attended, i_out, i_present, norm_1_weight, None, norm_1_sums, WIDTH, PART
        )
    tl.debug_barrier()

    # The half of attention.
    add_dropped(
        d_out, d_attended, i_out, i_present, None, i_out, i_present, i_batch, i_token, seed, threshold,
        keep_scale, 1, WIDTH, PART,
    )  # fmt: skip
    tl.debug_barrier()
    store_sums(out_sums, d_out, i_out, i_present, WIDTH, PART)
    source = x
    if PRE:
        source = between
    d_residual = d_attended
    if positions is not None:
        # Which query is which token: a product with it moves rows to their tokens, and adds those of one.
        same = (j_batch[:, None] == i_batch[None, :]) & (j_token[:, None] == i_token[None, :])
        place = (same & j_present[:, None] & i_there[None, :]).to(x.dtype.element_ty)
        for first in range(0, WIDTH, PART):
            column = first + tl.arange(0, PART)
            rows = load_block(d_attended, i_out, i_present, column, column < WIDTH)
            rows = product(place, rows, "tf32x3" if PRECISION == "tf32" else PRECISION)  # exact
            store_block(placed, j_at, j_present, column, column < WIDTH, rows)
        tl.debug_barrier()
        d_residual = placed
    c = tl.arange(0, HEAD_COLUMNS)
    for head in tl.range(0, HEADS, disable_licm=True):
        q, k, v, weight, dropped = head_weights(
            source, i_at, i_there, i_batch, i_token, i_real, j_at, j_present, j_batch, j_token, j_real,
            qkv_weight, qkv_bias, seed, head, tokens, scale, threshold, keep_scale,
            WIDTH, HEADS, HEAD, HEAD_COLUMNS, positions is not None, CHUNK, STAGES, GROUP, PRECISION,
        )  # fmt: skip
        n = head * HEAD
        d_mixed = times_weight(
            d_out, i_out, i_present, out_weight, n + c, c < HEAD, 1, WIDTH, WIDTH, CHUNK, STAGES, PRECISION
        ).to(v.dtype)
        d_weight = dropped * product(d_mixed, tl.trans(v), PRECISION)
        ds = ((d_weight - weight * tl.sum(d_weight, 1)[:, None]) * scale).to(v.dtype)
        dv = product(tl.trans(dropped.to(v.dtype)), d_mixed, PRECISION)
        dk = product(tl.trans(ds), q, PRECISION)
        dq = product(ds, k, PRECISION)
        if positions is not None:
            dq = product(place, dq.to(v.dtype), PRECISION)
        store_head(d_qkv, j_place * (3 * WIDTH), j_present, dq, sums, n, HEAD, HEAD_COLUMNS)
        store_head(d_qkv, j_place * (3 * WIDTH), j_present, dk, sums, WIDTH + n, HEAD, HEAD_COLUMNS)
        store_head(d_qkv, j_place * (3 * WIDTH), j_present, dv, sums, 2 * WIDTH + n, HEAD, HEAD_COLUMNS)
    tl.debug_barrier()
    if PRE:
        store_times_weight(
            d_source, j_at, d_qkv, j_place * (3 * WIDTH), j_present, qkv_weight, None, None,
            1, WIDTH, 3 * WIDTH, WIDTH, SPAN, CHUNK, STAGES, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        store_layer_norm_backward(
            dx, d_source, x, j_at, j_present, norm_1_weight, d_residual, norm_1_sums, WIDTH, PART
        )
    else:
        store_times_weight(
            dx, j_at, d_qkv, j_place * (3 * WIDTH), j_present, qkv_weight, None, d_residual,
            1, WIDTH, 3 * WIDTH, WIDTH, SPAN, CHUNK, STAGES, PRECISION,
        )  # fmt: skip
