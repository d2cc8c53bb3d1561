"""The embedding kernels: one launch forward, two backward, no atomics.

A program takes ROWS steps, counted over the batch, and makes the tokens of their kinds one after the other.
Kind k stands in slot k of a step; a third one may be absent. Backward makes the tokens again from the inputs,
which are a small part of the bytes, so forward leaves nothing behind for it.
"""

import triton
import triton.language as tl

from dtag_fast.ops.triton_rows import load_rows, product, store_rows

from .tiles import SUMMED_INPUTS

SUMMED = tl.constexpr(SUMMED_INPUTS)


@triton.jit
def load_vector(base, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    return tl.load(base + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)


@triton.jit
def store_vector(base, x, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    tl.store(base + columns, x.to(base.dtype.element_ty), mask=columns < WIDTH)


@triton.jit
def time_tile(
    timesteps, table, time_batch, time_step, batches, steps, table_rows,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each step of the program: its number, batch row and place in it, whether it exists, its row of the
    table (the nearest, if its timestep is outside), and the embedding there [ROWS, COLUMNS], else NaN."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = row < batches * steps
    batch, step = (row // steps).to(tl.int64), row % steps
    timestep = tl.load(timesteps + batch * time_batch + step * time_step, mask=present, other=0)
    known = (timestep >= 0) & (timestep < table_rows)
    timestep = tl.minimum(tl.maximum(timestep.to(tl.int64), 0), table_rows - 1)
    time = load_rows(table, timestep * WIDTH, present, WIDTH, COLUMNS).to(tl.float32)
    return row, batch, step, present, timestep, tl.where(known[:, None], time, float("nan"))


@triton.jit
def before_norm(
    x, x_at, present, weight, bias, time,
    INPUTS: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """W x + b + time. [ROWS, COLUMNS]"""
    columns = tl.arange(0, COLUMNS)
    if INPUTS == 1:
        b_x = tl.load(x + x_at, mask=present, other=0.0).to(tl.float32)
        y = b_x[:, None] * load_vector(weight, WIDTH, COLUMNS)[None, :]
    else:
        y = tl.zeros((x_at.shape[0], COLUMNS), tl.float32)
        for first in range(0, INPUTS, CHUNK):
            i = first + tl.arange(0, CHUNK)
            mask_x = present[:, None] & (i < INPUTS)[None, :]
            b_x = tl.load(x + x_at[:, None] + i[None, :], mask=mask_x, other=0.0)  # [ROWS, CHUNK]
            mask_w = (i < INPUTS)[:, None] & (columns < WIDTH)[None, :]
            at_w = columns[None, :] * INPUTS + i[:, None]
            b_w = tl.load(weight + at_w, mask=mask_w, other=0.0)  # [CHUNK, COLUMNS]
            y += product(b_x, b_w, PRECISION)
    return y + load_vector(bias, WIDTH, COLUMNS)[None, :] + time


@triton.jit
def normalised(y, eps, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """(y - mean) rstd, zeros in padded columns, and rstd [ROWS]."""
    real = (tl.arange(0, COLUMNS) < WIDTH)[None, :]
    centred = tl.where(real, y - (tl.sum(y, 1) / WIDTH)[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / WIDTH + eps)
    return centred * rstd[:, None], rstd


@triton.jit
def token_tile(
    x, x_batch, x_step, weight, bias, time, norm_weight, norm_bias, out, batch, step, present, tokens, eps,
    SLOT: tl.constexpr, SLOTS: tl.constexpr, INPUTS: tl.constexpr, CHUNK: tl.constexpr,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the tokens of one kind, out (B, tokens, WIDTH)."""
    x_at = batch * x_batch + step * x_step
    y = before_norm(x, x_at, present, weight, bias, time, INPUTS, CHUNK, WIDTH, COLUMNS, PRECISION)
    normal, _ = normalised(y, eps, WIDTH, COLUMNS)
    b_out = normal * load_vector(norm_weight, WIDTH, COLUMNS)[None, :]
    b_out += load_vector(norm_bias, WIDTH, COLUMNS)[None, :]
    token = step * SLOTS + SLOT
    store_rows(out, (batch * tokens + token) * WIDTH, present & (token < tokens), b_out, WIDTH, COLUMNS)


@triton.jit
def token_gradient(
    x, x_batch, x_step, weight, bias, time, norm_weight, grad, d_y, sums, row, batch, step, present, tokens,
    eps, SLOT: tl.constexpr, SLOTS: tl.constexpr, INPUTS: tl.constexpr, CHUNK: tl.constexpr,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient d before LayerNorm of tokens of one kind [ROWS, COLUMNS], and the sums over the rows for
    norm_weight and norm_bias; writes d to d_y (B K, WIDTH), the sum for the bias to `sums` and behind it, for
    few inputs, that for the weight (WIDTH, INPUTS). With g = grad norm_weight and n = normal:

        d = rstd (g - mean(g) - n mean(g n))
    """
    x_at = batch * x_batch + step * x_step
    y = before_norm(x, x_at, present, weight, bias, time, INPUTS, CHUNK, WIDTH, COLUMNS, PRECISION)
    normal, rstd = normalised(y, eps, WIDTH, COLUMNS)
    token = step * SLOTS + SLOT
    wanted = present & (token < tokens)
    b_grad = load_rows(grad, (batch * tokens + token) * WIDTH, wanted, WIDTH, COLUMNS).to(tl.float32)
    g = b_grad * load_vector(norm_weight, WIDTH, COLUMNS)[None, :]
    mean_g, mean_gn = tl.sum(g, 1) / WIDTH, tl.sum(g * normal, 1) / WIDTH
    d = rstd[:, None] * (g - mean_g[:, None] - normal * mean_gn[:, None])
    store_vector(sums, tl.sum(d, 0), WIDTH, COLUMNS)
    if INPUTS == 1:
        b_x = tl.load(x + x_at, mask=present, other=0.0).to(tl.float32)
        store_vector(sums + WIDTH, tl.sum(d * b_x[:, None], 0), WIDTH, COLUMNS)
    elif INPUTS <= SUMMED:
        b_x = load_rows(x, x_at, present, INPUTS, CHUNK)
        # With d as the first factor the kernel spilled up to 25 KB a thread for compute capability 8.0.
        d_weight = tl.trans(product(tl.trans(b_x), d.to(b_x.dtype), PRECISION))  # [COLUMNS, CHUNK]
        columns = tl.arange(0, COLUMNS)
        store_rows(sums + WIDTH, columns * INPUTS, columns < WIDTH, d_weight, INPUTS, CHUNK)
    if d_y is not None:
        store_rows(d_y, row.to(tl.int64) * WIDTH, present, d, WIDTH, COLUMNS)
    return d, tl.sum(b_grad * normal, 0), tl.sum(b_grad, 0)


# Their values must not be compiled in: batches and the layouts of their blocks change.
RUN_TIME = (
    "x_batch_0", "x_batch_1", "x_batch_2", "x_step_0", "x_step_1", "x_step_2", "time_batch", "time_step",
    "batches", "steps", "tokens", "table_rows",
)  # fmt: skip


@triton.jit(do_not_specialize=RUN_TIME)
def embedding_forward(
    x_0, x_1, x_2, weight_0, weight_1, weight_2, bias_0, bias_1, bias_2,
    timesteps, table, norm_weight, norm_bias, out,
    x_batch_0, x_batch_1, x_batch_2, x_step_0, x_step_1, x_step_2, time_batch, time_step,
    batches, steps, tokens, table_rows, eps,
    INPUTS_0: tl.constexpr, INPUTS_1: tl.constexpr, INPUTS_2: tl.constexpr,
    CHUNK_0: tl.constexpr, CHUNK_1: tl.constexpr, CHUNK_2: tl.constexpr,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[b, SLOTS t + k] = LayerNorm(W_k x_k[b, t] + b_k + table[timesteps[b, t]]), tokens of a row b.

    Launched as (tiles, 1), or as (tiles, SLOTS), each program then making one kind.
    """
    _, batch, step, present, _, time = time_tile(
        timesteps, table, time_batch, time_step, batches, steps, table_rows, ROWS, WIDTH, COLUMNS
    )
    every, slot = tl.num_programs(1) == 1, tl.program_id(1)
    if every | (slot == 0):
        token_tile(
            x_0, x_batch_0, x_step_0, weight_0, bias_0, time, norm_weight, norm_bias, out, batch, step,
            present, tokens, eps, 0, SLOTS, INPUTS_0, CHUNK_0, WIDTH, COLUMNS, PRECISION,
        )  # fmt: skip
    if every | (slot == 1):
        token_tile(
            x_1, x_batch_1, x_step_1, weight_1, bias_1, time, norm_weight, norm_bias, out, batch, step,
            present, tokens, eps, 1, SLOTS, INPUTS_1, CHUNK_1, WIDTH, COLUMNS, PRECISION,
        )  # fmt: skip
    if SLOTS == 3:  # noqa: SIM102 (decided when the kernel is compiled, the next one when it runs)
        if every | (slot == 2):
            token_tile(
                x_2, x_batch_2, x_step_2, weight_2, bias_2, time, norm_weight, norm_bias, out, batch, step,
                present, tokens, eps, 2, SLOTS, INPUTS_2, CHUNK_2, WIDTH, COLUMNS, PRECISION,
            )  # fmt: skip


@triton.jit(do_not_specialize=RUN_TIME)
def embedding_backward(
    x_0, x_1, x_2, weight_0, weight_1, weight_2, bias_0, bias_1, bias_2,
    timesteps, table, norm_weight, grad, d_y_0, d_y_1, d_y_2, d_time, clamped, sums,
    x_batch_0, x_batch_1, x_batch_2, x_step_0, x_step_1, x_step_2, time_batch, time_step,
    batches, steps, tokens, table_rows, eps,
    INPUTS_0: tl.constexpr, INPUTS_1: tl.constexpr, INPUTS_2: tl.constexpr,
    CHUNK_0: tl.constexpr, CHUNK_1: tl.constexpr, CHUNK_2: tl.constexpr,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr, SUMS: tl.constexpr, SUM_1: tl.constexpr, SUM_2: tl.constexpr,
):  # fmt: skip
    """From grad (B, tokens, WIDTH): d_y_k (B K, WIDTH), the gradient before LayerNorm of the tokens of kind k
    where one is given; d_time (B K, WIDTH), their sum over the kinds, with `clamped` (B K,), its rows of the
    table; and sums[program] (SUMS, WIDTH) over the program's steps: norm_weight, norm_bias, then of each kind
    the bias, followed by the weight where the inputs are few. Kind k's begin at row SUM_k.
    """
    row, batch, step, present, timestep, time = time_tile(
        timesteps, table, time_batch, time_step, batches, steps, table_rows, ROWS, WIDTH, COLUMNS
    )
    sums += tl.program_id(0).to(tl.int64) * SUMS * WIDTH
    d_sum, d_weight, d_bias = token_gradient(
        x_0, x_batch_0, x_step_0, weight_0, bias_0, time, norm_weight, grad, d_y_0, sums + 2 * WIDTH, row,
        batch, step, present, tokens, eps, 0, SLOTS, INPUTS_0, CHUNK_0, WIDTH, COLUMNS, PRECISION,
    )  # fmt: skip
    d, of_weight, of_bias = token_gradient(
        x_1, x_batch_1, x_step_1, weight_1, bias_1, time, norm_weight, grad, d_y_1, sums + SUM_1 * WIDTH, row,
        batch, step, present, tokens, eps, 1, SLOTS, INPUTS_1, CHUNK_1, WIDTH, COLUMNS, PRECISION,
    )  # fmt: skip
    d_sum, d_weight, d_bias = d_sum + d, d_weight + of_weight, d_bias + of_bias
    if SLOTS == 3:
        d, of_weight, of_bias = token_gradient(
            x_2, x_batch_2, x_step_2, weight_2, bias_2, time, norm_weight, grad, d_y_2, sums + SUM_2 * WIDTH,
            row, batch, step, present, tokens, eps, 2, SLOTS, INPUTS_2, CHUNK_2, WIDTH, COLUMNS, PRECISION,
        )  # fmt: skip
        d_sum, d_weight, d_bias = d_sum + d, d_weight + of_weight, d_bias + of_bias
    store_vector(sums, d_weight, WIDTH, COLUMNS)
    store_vector(sums + WIDTH, d_bias, WIDTH, COLUMNS)
    if d_time is not None:
        tl.store(clamped + row, timestep, mask=present)
        store_rows(d_time, row.to(tl.int64) * WIDTH, present, d_sum, WIDTH, COLUMNS)


@triton.jit(do_not_specialize=("total", "table_rows"))
def table_gradient(
    d_time, clamped, out, total, table_rows,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[r] = sum of d_time[i] over the steps i < total with clamped[i] = r, in their order: a program takes
    a tile of the table and adds one-hot' d_time of every tile of steps that has rows of it. Numbers that are
    not finite spread over the tile."""
    first_row, first_column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    rows, columns = tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
    gradient = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, total, STEPS):
        i = first + tl.arange(0, STEPS)
        row = tl.load(clamped + i, mask=i < total, other=-1) - first_row
        here = (row >= 0) & (row < ROWS)
        if tl.max(here.to(tl.int32), 0) > 0:
            mask = here[:, None] & (columns < WIDTH)[None, :]
            b_d = tl.load(d_time + i.to(tl.int64)[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0)
            one_hot = (rows[:, None] == row[None, :]).to(tl.float32)  # [ROWS, STEPS]
            gradient += product(one_hot, b_d, PRECISION)
    mask = (first_row + rows < table_rows)[:, None] & (columns < WIDTH)[None, :]
    at = (first_row + rows).to(tl.int64)[:, None] * WIDTH + columns[None, :]
    tl.store(out + at, gradient, mask=mask)
