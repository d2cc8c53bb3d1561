"""What the forward and the backward kernel of a block share.

A program owns GROUP batch rows. Its tile of keys has KEY_ROWS rows of each, all its tokens; its tile of
queries QUERY_ROWS, the tokens whose output is wanted: the same where all are.
"""

import triton
import triton.language as tl

from dtag_fast.ops.attention.kernels import kept, products_of_rows, scores_of
from dtag_fast.ops.triton_rows import keep_factor, product

from .weights import NORM_EPS

EPS = tl.constexpr(NORM_EPS)
# Their values must not be compiled in: batches change.
RUN_TIME = ("position_stride", "batch_rows", "queries", "tokens", "threshold")


@triton.jit
def load_vector(vector, at, wanted):
    """Numbers of a bias or a LayerNorm, as a row of float32. [1, columns]"""
    return tl.load(vector + at, mask=wanted, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_block(base, row_at, row_wanted, column, column_wanted):
    """Columns of the rows that start at base + row_at; zeros where not wanted. [rows, columns]"""
    mask = row_wanted[:, None] & column_wanted[None, :]
    return tl.load(base + row_at[:, None] + column[None, :], mask=mask, other=0.0)


@triton.jit
def store_block(base, row_at, row_wanted, column, column_wanted, x):
    mask = row_wanted[:, None] & column_wanted[None, :]
    tl.store(base + row_at[:, None] + column[None, :], x.to(base.dtype.element_ty), mask=mask)


@triton.jit
def moments(source, at, wanted, WIDTH: tl.constexpr, PART: tl.constexpr):
    """Mean and inverse deviation of rows, as LayerNorm takes them: PART columns at a time, as whole rows of
    float32 would take the registers that products need."""
    total = tl.zeros((at.shape[0], PART), tl.float32)
    for first in range(0, WIDTH, PART):
        column = first + tl.arange(0, PART)
        total += load_block(source, at, wanted, column, column < WIDTH).to(tl.float32)
    mean = tl.sum(total, 1) / WIDTH
    total = tl.zeros((at.shape[0], PART), tl.float32)
    for first in range(0, WIDTH, PART):
        column = first + tl.arange(0, PART)
        rows = load_block(source, at, wanted, column, column < WIDTH).to(tl.float32)
        centred = tl.where((column < WIDTH)[None, :], rows - mean[:, None], 0.0)
        total += centred * centred
    return mean, tl.rsqrt(tl.sum(total, 1) / WIDTH + EPS)


@triton.jit
def store_layer_norm(target, source, at, wanted, weight, bias, WIDTH: tl.constexpr, PART: tl.constexpr):
    """target = LayerNorm(source), rows at the same places."""
    mean, inverse = moments(source, at, wanted, WIDTH, PART)
    for first in range(0, WIDTH, PART):
        column = first + tl.arange(0, PART)
        inside = column < WIDTH
        rows = load_block(source, at, wanted, column, inside).to(tl.float32)
        rows = (rows - mean[:, None]) * inverse[:, None] * load_vector(weight, column, inside)
        store_block(target, at, wanted, column, inside, rows + load_vector(bias, column, inside))


@triton.jit
def linear(
    a, a_at, a_wanted, weight, bias, n, n_wanted, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Features n of a W' + b: W has a row of WIDTH numbers for each feature. [rows of a, n] float32"""
    found = products_of_rows(a, a_at, a_wanted, weight, n * WIDTH, n_wanted, WIDTH, COLUMNS, CHUNK, PRECISION)
    return found + load_vector(bias, n, n_wanted)


@triton.jit
def times_weight(
    a, a_at, a_wanted, weight, n, n_wanted, OUT_STEP: tl.constexpr, IN_STEP: tl.constexpr,
    INPUTS: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum over i of a[:, i] weight[n OUT_STEP + i IN_STEP], CHUNK of the INPUTS at a time. [rows of a, n]

    W (features, INPUTS) gives a W' with the steps INPUTS and 1; W (INPUTS, features) gives a W with 1 and
    features.
    """
    total = tl.zeros((a_at.shape[0], n.shape[0]), tl.float32)
    for first in tl.range(0, INPUTS, CHUNK, num_stages=STAGES):
        i = first + tl.arange(0, CHUNK)
        rows = load_block(a, a_at, a_wanted, i, i < INPUTS)
        mask = (i < INPUTS)[:, None] & n_wanted[None, :]
        part = tl.load(weight + i[:, None] * IN_STEP + n[None, :] * OUT_STEP, mask=mask, other=0.0)
        total += product(rows, part, PRECISION)
    return total


@triton.jit
def store_times_weight(
    target, target_at, a, a_at, wanted, weight, bias, added, OUT_STEP: tl.constexpr, IN_STEP: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, SPAN: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """target = a W' + bias + added, the last two where given, SPAN of the OUTPUTS at a time (see
    times_weight). Rows of `added` are where those of the target are."""
    for first in tl.range(0, OUTPUTS, SPAN, disable_licm=True):
        n = first + tl.arange(0, SPAN)
        inside = n < OUTPUTS
        found = times_weight(
            a, a_at, wanted, weight, n, inside, OUT_STEP, IN_STEP, INPUTS, CHUNK, STAGES, PRECISION
        )
        if bias is not None:
            found += load_vector(bias, n, inside)
        if added is not None:
            found += load_block(added, target_at, wanted, n, inside).to(tl.float32)
        store_block(target, target_at, wanted, n, inside, found)


@triton.jit
def add_dropped(
    target, branch, at, wanted, residual, residual_at, residual_wanted, batch, token, seed, threshold,
    keep_scale, WHICH: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """target = residual + drop(branch), or without a residual drop(branch): WHICH is 1 for the branch of
    attention, 2 for that of the MLP. PART columns at a time: the registers that the random bits of whole rows
    are made in would be the kernel's most."""
    for first in range(0, WIDTH, PART):
        column = first + tl.arange(0, PART)
        inside = column < WIDTH
        rows = load_block(branch, at, wanted, column, inside).to(tl.float32)
        if seed is not None:
            counter = token[:, None] * WIDTH + column[None, :]
            second = batch[:, None] + tl.zeros_like(counter)
            rows *= keep_factor(seed, counter, second, WHICH, threshold, keep_scale)
        if residual is not None:
            rows += load_block(residual, residual_at, residual_wanted, column, inside).to(tl.float32)
        store_block(target, at, wanted, column, inside, rows)


@triton.jit
def head_weights(
    source, i_at, i_there, i_batch, i_token, i_real, j_at, j_present, j_batch, j_token, j_real,
    qkv_weight, qkv_bias, seed, head, tokens, scale, threshold, keep_scale,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, HEAD_COLUMNS: tl.constexpr,
    CHOSEN: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """q, k and v of a head from rows of `source`, its softmax, and that after dropout (float32).

    CHOSEN: queries are rows of their own, not those of the keys. A query that sees no key has weights of 0.
    """
    c = tl.arange(0, HEAD_COLUMNS)
    n = head * HEAD + c
    q = load_vector(qkv_bias, n, c < HEAD) + tl.zeros((i_at.shape[0], HEAD_COLUMNS), tl.float32)
    k = load_vector(qkv_bias, WIDTH + n, c < HEAD) + tl.zeros((j_at.shape[0], HEAD_COLUMNS), tl.float32)
    v = load_vector(qkv_bias, 2 * WIDTH + n, c < HEAD) + tl.zeros_like(k)
    for first in tl.range(0, WIDTH, CHUNK, num_stages=STAGES):
        column = first + tl.arange(0, CHUNK)
        inside = column < WIDTH
        rows = load_block(source, j_at, j_present, column, inside)
        part = load_block(qkv_weight, (WIDTH + n) * WIDTH, c < HEAD, column, inside)
        k += product(rows, tl.trans(part), PRECISION)
        part = load_block(qkv_weight, (2 * WIDTH + n) * WIDTH, c < HEAD, column, inside)
        v += product(rows, tl.trans(part), PRECISION)
        part = load_block(qkv_weight, n * WIDTH, c < HEAD, column, inside)
        if CHOSEN:
            rows = load_block(source, i_at, i_there, column, inside)
        q += product(rows, tl.trans(part), PRECISION)
    q = q.to(source.dtype.element_ty)
    k = k.to(source.dtype.element_ty)
    v = v.to(source.dtype.element_ty)
    products = product(q, tl.trans(k), PRECISION)
    s = scores_of(products, i_batch, i_token, i_real, j_batch, j_token, j_real, scale, GROUP)
    largest = tl.max(s, 1)
    weight = tl.exp2(s - tl.where(largest == float("-inf"), 0.0, largest)[:, None])
    total = tl.sum(weight, 1)
    weight = weight / tl.where(total > 0, total, 1.0)[:, None]
    dropped = weight
    if seed is not None:
        # No token is that late, which the compiler does not know: else it would make the first round of the
        # random numbers of all heads before the loop over them, and spill it.
        i_token = tl.minimum(i_token, tokens + head)
        dropped = weight * kept(seed, i_batch * HEADS + head, i_token, j_token, tokens, threshold, keep_scale)
    return q, k, v, weight, dropped


@triton.jit
def activated(h, GELU: tl.constexpr):
    """gelu(h) = h Phi(h), exact (Hendrycks and Gimpel 2016), or relu(h)."""
    if GELU:
        return 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
    return tl.maximum(h, 0.0)
