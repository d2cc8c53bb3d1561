"""The attention kernels: one launch forward, one backward, no atomics.

A "sequence" is one head of one batch row. A tile holds `GROUP` sequences of `QUERY_ROWS` queries and
`KEY_ROWS` keys each, one below the other; a query sees keys of its own sequence only. With WHOLE the keys of
a sequence are one tile, so the softmax is exact at once; otherwise the keys pass in tiles, with a running
maximum forward, and backward a program makes the gradient either of a tile of keys and values or of a tile
of queries.

Scores are kept in base 2: s = scale log2(e) q k, so that softmax is 2^(s - lse). Dropout of a weight follows
from a counter (Philox 4x32 of 7 rounds: Salmon et al. 2011), never from the order of execution.
"""

import triton
import triton.language as tl

from dtag_fast.ops.triton_rows import keep_factor, load_rows, product, store_rows

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def padding_of(start, length, batch, present, tokens):
    """First real token and end of the real tokens of batch rows; 0 and `tokens` where none are given."""
    first = tl.zeros_like(batch).to(tl.int32)
    end = tl.zeros_like(batch).to(tl.int32) + tokens
    if start is not None:
        first = tl.maximum(tl.load(start + batch, mask=present, other=0).to(tl.int32), 0)
    if length is not None:
        end = tl.minimum(tl.load(length + batch, mask=present, other=0).to(tl.int32), tokens)
    return first, end


@triton.jit
def query_tile(
    sequence_0, first_row, sequences, heads, queries, tokens, positions, position_stride, start, length,
    GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of each row of a tile of queries: its sequence, batch row, place among the queries and token; whether
    it exists, and whether its token is real."""
    r = tl.arange(0, GROUP * ROWS)
    sequence = sequence_0 + r // ROWS
    row = first_row + r % ROWS
    present = (sequence < sequences) & (row < queries)
    batch = sequence // heads
    if positions is None:
        token = row
    else:
        token = tl.load(positions + batch.to(tl.int64) * position_stride + row, mask=present, other=-1).to(
            tl.int32
        )
    first, end = padding_of(start, length, batch, present, tokens)
    real = present & (token >= first) & (token < end)
    return sequence, batch, row, token, present, real


@triton.jit
def key_tile(
    sequence_0, first_row, sequences, heads, tokens, start, length, GROUP: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Of each row of a tile of keys: its sequence, batch row and token; whether it exists, and is real."""
    r = tl.arange(0, GROUP * ROWS)
    sequence = sequence_0 + r // ROWS
    token = first_row + r % ROWS
    present = (sequence < sequences) & (token < tokens)
    batch = sequence // heads
    first, end = padding_of(start, length, batch, present, tokens)
    return sequence, batch, token, present, present & (token >= first) & (token < end)


@triton.jit
def products_of_rows(
    a, a_at, a_wanted, b, b_at, b_wanted, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """a b', CHUNK columns at a time: registers do not hold whole rows of float32. [rows of a, rows of b]"""
    total = tl.zeros((a_at.shape[0], b_at.shape[0]), tl.float32)
    for first in tl.static_range(0, COLUMNS, CHUNK):
        part_a = load_rows(a + first, a_at, a_wanted, WIDTH - first, CHUNK)
        part_b = load_rows(b + first, b_at, b_wanted, WIDTH - first, CHUNK)
        total += product(part_a, tl.trans(part_b), PRECISION)
    return total


@triton.jit
def scores_of(
    products, q_sequence, q_token, q_real, k_sequence, k_token, k_real, scale, GROUP: tl.constexpr
):  # fmt: skip
    """Base-2 scores from products of queries and keys, -inf where a query does not see a key."""
    seen = q_real[:, None] & k_real[None, :] & (k_token[None, :] <= q_token[:, None])
    if GROUP > 1:
        seen = seen & (q_sequence[:, None] == k_sequence[None, :])
    return tl.where(seen, products * (scale * LOG2_E), float("-inf"))


@triton.jit
def kept(seed, q_sequence, q_token, k_token, tokens, threshold, keep_scale):
    """What dropout multiplies each weight by: 0, or 1 / (1 - p). [queries, keys]"""
    counter = q_token[:, None] * tokens + k_token[None, :]
    return keep_factor(seed, counter, q_sequence[:, None] + tl.zeros_like(counter), 0, threshold, keep_scale)


# Their values must not be compiled in: batches change.
RUN_TIME = ("position_stride", "sequences", "heads", "queries", "tokens", "threshold")


@triton.jit(do_not_specialize=RUN_TIME)
def attention_forward(
    q, k, v, out, lse, positions, start, length, seed,
    q_batch, q_row, q_head, kv_batch, kv_row, kv_head, position_stride,
    sequences, heads, queries, tokens, scale, threshold, keep_scale,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    QUERY_ROWS: tl.constexpr, KEY_ROWS: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[b, i, h] = sum over j of softmax(scale q k)[i, j] v[j], and lse (base 2); zeros for padding."""
    sequence_0 = tl.program_id(0) * GROUP
    i_sequence, i_batch, i_row, i_token, i_present, i_real = query_tile(
        sequence_0, tl.program_id(1) * QUERY_ROWS, sequences, heads, queries, tokens, positions,
        position_stride, start, length, GROUP, QUERY_ROWS,
    )  # fmt: skip
    i_head = i_sequence % heads
    i_at = i_batch.to(tl.int64) * q_batch + i_row * q_row + i_head * q_head
    total = tl.zeros((GROUP * QUERY_ROWS,), tl.float32)
    largest = tl.full((GROUP * QUERY_ROWS,), float("-inf"), tl.float32)
    mixed = tl.zeros((GROUP * QUERY_ROWS, COLUMNS), tl.float32)
    last = tl.max(tl.where(i_real, i_token, -1), 0)  # no query of the tile sees a later key
    for from_key in range(0, last + 1, KEY_ROWS):
        j_sequence, j_batch, j_token, _, j_real = key_tile(
            sequence_0, from_key, sequences, heads, tokens, start, length, GROUP, KEY_ROWS
        )
        j_at = j_batch.to(tl.int64) * kv_batch + j_token * kv_row + j_sequence % heads * kv_head
        products = products_of_rows(q, i_at, i_real, k, j_at, j_real, WIDTH, COLUMNS, CHUNK, PRECISION)
        s = scores_of(products, i_sequence, i_token, i_real, j_sequence, j_token, j_real, scale, GROUP)
        b_v = load_rows(v, j_at, j_real, WIDTH, COLUMNS)
        if WHOLE:
            largest = tl.max(s, 1)
        else:
            before = largest
            largest = tl.maximum(before, tl.max(s, 1))
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        weight = tl.exp2(s - shift[:, None])
        if WHOLE:
            total = tl.sum(weight, 1)
        else:
            shrink = tl.exp2(before - shift)
            total = total * shrink + tl.sum(weight, 1)
            mixed = mixed * shrink[:, None]
        if seed is not None:
            weight = weight * kept(seed, i_sequence, i_token, j_token, tokens, threshold, keep_scale)
        mixed += product(weight.to(b_v.dtype), b_v, PRECISION)
    total = tl.where(total > 0, total, 1.0)
    shift = tl.where(i_real & (largest > float("-inf")), largest, 0.0)
    at = i_sequence.to(tl.int64) * queries + i_row
    tl.store(lse + at, tl.where(i_real, shift + tl.log2(total), 0.0), mask=i_present)
    i_out = (i_batch.to(tl.int64) * queries + i_row) * heads + i_head
    store_rows(out, i_out * WIDTH, i_present, mixed / total[:, None], WIDTH, COLUMNS)


@triton.jit
def backward_tile(
    q, k, v, out, lse, grad, dq, dk, dv, positions, start, length, seed,
    q_batch, q_row, q_head, kv_batch, kv_row, kv_head,
    dq_batch, dq_row, dq_head, dkv_batch, dkv_row, dkv_head, position_stride,
    sequences, heads, queries, tokens, scale, threshold, keep_scale, tile, from_step, to_step,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    QUERY_ROWS: tl.constexpr, KEY_ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """QUERIES: the gradient of tile `tile` of the queries, over tiles of keys in the range of steps. KEYS:
    that of tile `tile` of keys and values, over tiles of queries. Both: there is one tile of each."""
    sequence_0 = tl.program_id(0) * GROUP
    sum_q = tl.zeros((GROUP * QUERY_ROWS, COLUMNS), tl.float32)
    sum_k = tl.zeros((GROUP * KEY_ROWS, COLUMNS), tl.float32)
    sum_v = tl.zeros((GROUP * KEY_ROWS, COLUMNS), tl.float32)
    for step in range(from_step, to_step):
        i_sequence, i_batch, i_row, i_token, _, i_real = query_tile(
            sequence_0, (tile if QUERIES else step) * QUERY_ROWS, sequences, heads, queries, tokens,
            positions, position_stride, start, length, GROUP, QUERY_ROWS,
        )  # fmt: skip
        j_sequence, j_batch, j_token, _, j_real = key_tile(
            sequence_0,
            (tile if KEYS else step) * KEY_ROWS,
            sequences,
            heads,
            tokens,
            start,
            length,
            GROUP,
            KEY_ROWS,
        )
        i_at = i_batch.to(tl.int64) * q_batch + i_row * q_row + i_sequence % heads * q_head
        j_at = j_batch.to(tl.int64) * kv_batch + j_token * kv_row + j_sequence % heads * kv_head
        i_out = ((i_batch.to(tl.int64) * queries + i_row) * heads + i_sequence % heads) * WIDTH
        i_lse = tl.load(lse + i_sequence.to(tl.int64) * queries + i_row, mask=i_real, other=0.0)
        products = products_of_rows(q, i_at, i_real, k, j_at, j_real, WIDTH, COLUMNS, CHUNK, PRECISION)
        s = scores_of(products, i_sequence, i_token, i_real, j_sequence, j_token, j_real, scale, GROUP)
        weight = tl.exp2(s - i_lse[:, None])
        dropped = weight
        if seed is not None:
            dropped = weight * kept(seed, i_sequence, i_token, j_token, tokens, threshold, keep_scale)
        d_weight = dropped * products_of_rows(
            grad, i_out, i_real, v, j_at, j_real, WIDTH, COLUMNS, CHUNK, PRECISION
        )
        if QUERIES and KEYS:  # all keys are here
            delta = tl.sum(d_weight, 1)
        else:
            b_o = load_rows(out, i_out, i_real, WIDTH, COLUMNS).to(tl.float32)
            delta = tl.sum(b_o * load_rows(grad, i_out, i_real, WIDTH, COLUMNS).to(tl.float32), 1)
        ds = (d_weight - weight * delta[:, None]) * scale
        if KEYS:
            b_g = load_rows(grad, i_out, i_real, WIDTH, COLUMNS)
            sum_v += product(tl.trans(dropped.to(b_g.dtype)), b_g, PRECISION)
            b_q = load_rows(q, i_at, i_real, WIDTH, COLUMNS)
            sum_k += product(tl.trans(ds.to(b_q.dtype)), b_q, PRECISION)
        if QUERIES:
            b_k = load_rows(k, j_at, j_real, WIDTH, COLUMNS)
            sum_q += product(ds.to(b_k.dtype), b_k, PRECISION)
    if QUERIES:
        i_sequence, i_batch, i_row, _, i_present, _ = query_tile(
            sequence_0, tile * QUERY_ROWS, sequences, heads, queries, tokens, positions, position_stride,
            start, length, GROUP, QUERY_ROWS,
        )  # fmt: skip
        at = i_batch.to(tl.int64) * dq_batch + i_row * dq_row + i_sequence % heads * dq_head
        store_rows(dq, at, i_present, sum_q, WIDTH, COLUMNS)
    if KEYS:
        j_sequence, j_batch, j_token, j_present, _ = key_tile(
            sequence_0, tile * KEY_ROWS, sequences, heads, tokens, start, length, GROUP, KEY_ROWS
        )
        at = j_batch.to(tl.int64) * dkv_batch + j_token * dkv_row + j_sequence % heads * dkv_head
        store_rows(dk, at, j_present, sum_k, WIDTH, COLUMNS)
        store_rows(dv, at, j_present, sum_v, WIDTH, COLUMNS)


@triton.jit(do_not_specialize=RUN_TIME)
def attention_backward(
    q, k, v, out, lse, grad, dq, dk, dv, positions, start, length, seed,
    q_batch, q_row, q_head, kv_batch, kv_row, kv_head,
    dq_batch, dq_row, dq_head, dkv_batch, dkv_row, dkv_head, position_stride,
    sequences, heads, queries, tokens, scale, threshold, keep_scale,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    QUERY_ROWS: tl.constexpr, KEY_ROWS: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of q, k and v: with p = softmax, d = p after dropout, g = grad and delta = sum(g out),
    dv = d' g;  ds = d (g v') - p delta;  dq = scale ds k;  dk = scale ds' q (' is transposed).
    """
    if WHOLE:
        backward_tile(
            q, k, v, out, lse, grad, dq, dk, dv, positions, start, length, seed,
            q_batch, q_row, q_head, kv_batch, kv_row, kv_head,
            dq_batch, dq_row, dq_head, dkv_batch, dkv_row, dkv_head, position_stride,
            sequences, heads, queries, tokens, scale, threshold, keep_scale, 0, 0, 1,
            True, True, WIDTH, COLUMNS, CHUNK, GROUP, QUERY_ROWS, KEY_ROWS, PRECISION,
        )  # fmt: skip
    else:
        part, key_tiles = tl.program_id(1), tl.cdiv(tokens, KEY_ROWS)
        if part < key_tiles:
            from_tile = 0
            if positions is None:  # no earlier query sees these keys
                from_tile = part * KEY_ROWS // QUERY_ROWS
            backward_tile(
                q, k, v, out, lse, grad, dq, dk, dv, positions, start, length, seed,
                q_batch, q_row, q_head, kv_batch, kv_row, kv_head,
                dq_batch, dq_row, dq_head, dkv_batch, dkv_row, dkv_head, position_stride,
                sequences, heads, queries, tokens, scale, threshold, keep_scale,
                part, from_tile, tl.cdiv(queries, QUERY_ROWS),
                False, True, WIDTH, COLUMNS, CHUNK, GROUP, QUERY_ROWS, KEY_ROWS, PRECISION,
            )  # fmt: skip
        else:
            tile = part - key_tiles
            to_tile = key_tiles
            if positions is None:  # these queries see no later key
                to_tile = tl.minimum(key_tiles, tl.cdiv((tile + 1) * QUERY_ROWS, KEY_ROWS))
            backward_tile(
                q, k, v, out, lse, grad, dq, dk, dv, positions, start, length, seed,
                q_batch, q_row, q_head, kv_batch, kv_row, kv_head,
                dq_batch, dq_row, dq_head, dkv_batch, dkv_row, dkv_head, position_stride,
                sequences, heads, queries, tokens, scale, threshold, keep_scale, tile, 0, to_tile,
                True, False, WIDTH, COLUMNS, CHUNK, GROUP, QUERY_ROWS, KEY_ROWS, PRECISION,
            )  # fmt: skip
