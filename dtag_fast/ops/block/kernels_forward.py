"""The block forward, one launch. What a program writes for its rows it reads back as operands of products."""

import triton
import triton.language as tl

from dtag_fast.ops.attention.kernels import key_tile, query_tile
from dtag_fast.ops.triton_rows import product, store_rows

from .kernel_parts import (
    RUN_TIME,
    activated,
    add_dropped,
    head_weights,
    linear,
    load_block,
    load_vector,
    store_layer_norm,
    store_times_weight,
)


@triton.jit(do_not_specialize=RUN_TIME)
def block_forward(
    x, out, mixed, attended, mlp_in, between,
    qkv_weight, qkv_bias, out_weight, out_bias, norm_1_weight, norm_1_bias,
    expand_weight, expand_bias, contract_weight, contract_bias, norm_2_weight, norm_2_bias,
    positions, start, length, seed,
    position_stride, batch_rows, queries, tokens, scale, threshold, keep_scale,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr,
    PRE: tl.constexpr, GELU: tl.constexpr, COLUMNS: tl.constexpr, HEAD_COLUMNS: tl.constexpr,
    GROUP: tl.constexpr, QUERY_ROWS: tl.constexpr, KEY_ROWS: tl.constexpr, CHUNK: tl.constexpr,
    PART: tl.constexpr, SPAN: tl.constexpr, HIDDEN_CHUNK: tl.constexpr, HIDDEN_WIDTH: tl.constexpr,
    STAGES: tl.constexpr, HIDDEN_STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out, and what backward needs: attended = x + drop(Attn(.)), mlp_in = the rows that the MLP reads, and
    `between`: LN1(x) with PRE, else the sum that LN2 is taken of."""
    row_0 = tl.program_id(0) * GROUP
    _, i_batch, i_row, i_token, i_present, i_real = query_tile(
        row_0, 0, batch_rows, 1, queries, tokens, positions, position_stride, start, length, GROUP, QUERY_ROWS
    )
    _, j_batch, j_token, j_present, j_real = key_tile(
        row_0, 0, batch_rows, 1, tokens, start, length, GROUP, KEY_ROWS
    )
    i_there = i_present & (i_token >= 0) & (i_token < tokens)
    i_at = (i_batch.to(tl.int64) * tokens + i_token) * WIDTH  # in x
    i_out = (i_batch.to(tl.int64) * queries + i_row) * WIDTH
    j_at = (j_batch.to(tl.int64) * tokens + j_token) * WIDTH
    columns = tl.arange(0, COLUMNS)
    wanted = columns < WIDTH

    source = x
    if PRE:
        store_layer_norm(between, x, j_at, j_present, norm_1_weight, norm_1_bias, WIDTH, PART)
        tl.debug_barrier()
        source = between
    for head in tl.range(0, HEADS, disable_licm=True):
        _q, _k, v, _weight, dropped = head_weights(
            source, i_at, i_there, i_batch, i_token, i_real, j_at, j_present, j_batch, j_token, j_real,
            qkv_weight, qkv_bias, seed, head, tokens, scale, threshold, keep_scale,
            WIDTH, HEADS, HEAD, HEAD_COLUMNS, positions is not None, CHUNK, STAGES, GROUP, PRECISION,
        )  # fmt: skip
        rows = product(dropped.to(v.dtype), v, PRECISION)
        store_rows(mixed + head * HEAD, i_out, i_present, rows, HEAD, HEAD_COLUMNS)
    tl.debug_barrier()
    store_times_weight(
        out, i_out, mixed, i_out, i_present, out_weight, out_bias, None, WIDTH, 1, WIDTH, WIDTH, SPAN,
        CHUNK, STAGES, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()
    add_dropped(
        attended, out, i_out, i_present, x, i_at, i_there, i_batch, i_token, seed, threshold, keep_scale, 1,
        WIDTH, PART,
    )  # fmt: skip
    tl.debug_barrier()
    if PRE:
        store_layer_norm(mlp_in, attended, i_out, i_present, norm_2_weight, norm_2_bias, WIDTH, PART)
    else:
        store_layer_norm(mlp_in, attended, i_out, i_present, norm_1_weight, norm_1_bias, WIDTH, PART)
    tl.debug_barrier()

    sums = tl.zeros((GROUP * QUERY_ROWS, COLUMNS), tl.float32)
    for first in tl.range(0, HIDDEN, HIDDEN_CHUNK, num_stages=HIDDEN_STAGES, disable_licm=True):
        n = first + tl.arange(0, HIDDEN_CHUNK)
        hidden = linear(
            mlp_in, i_out, i_present, expand_weight, expand_bias, n, n < HIDDEN, WIDTH, COLUMNS,
            HIDDEN_WIDTH, PRECISION,
        )  # fmt: skip
        hidden = activated(hidden, GELU).to(x.dtype.element_ty)
        part = load_block(contract_weight, columns * HIDDEN, wanted, n, n < HIDDEN)
        sums += product(hidden, tl.trans(part), PRECISION)
    store_rows(out, i_out, i_present, sums + load_vector(contract_bias, columns, wanted), WIDTH, COLUMNS)
    tl.debug_barrier()
    if PRE:  # in place: a part has at least as many numbers as the program threads, each its own
        add_dropped(
            out, out, i_out, i_present, attended, i_out, i_present, i_batch, i_token, seed, threshold,
            keep_scale, 2, WIDTH, PART,
        )  # fmt: skip
    else:
        add_dropped(
            between, out, i_out, i_present, mlp_in, i_out, i_present, i_batch, i_token, seed, threshold,
            keep_scale, 2, WIDTH, PART,
        )  # fmt: skip
        tl.debug_barrier()
        store_layer_norm(out, between, i_out, i_present, norm_2_weight, norm_2_bias, WIDTH, PART)
