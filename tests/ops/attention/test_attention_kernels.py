"""The Triton kernels against float64: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from attention_cases import assert_near, exact, make_qkv, results
from kernel_device import DEVICE
from padding_cases import PADDING, make_padding

from dtag_fast.ops.attention import attention
from dtag_fast.ops.attention.dropout import dropout_factor
from dtag_fast.ops.attention.tiles import tiles_for

TOKENS = (1, 3, 5, 15, 16, 17, 60, 63, 64, 96, 128, 129, 300)
WIDTHS = (16, 24, 32, 64, 128)
HEADS = (1, 3, 8)
# Every number of tokens with two widths; widths, heads and padding in turn. The interpreter is slow on long
# sequences of one head already: these have two in place of eight.
SHAPES = [
    (
        tokens,
        WIDTHS[(i + 2 * k) % 5],
        min(HEADS[(i + k) % 3], 8 if tokens < 60 else 2),
        PADDING[(i + 3 * k) % 4],
    )
    for i, tokens in enumerate(TOKENS[:-2])
    for k in range(2)
]
SHAPES += [(129, 24, 1, "both"), (129, 128, 1, "right"), (300, 16, 1, "left"), (300, 64, 1, "both")]
BOUND = 2e-6 if DEVICE == "cpu" else 1e-5


def on_device(*tensors):
    return [None if x is None else x.to(DEVICE) for x in tensors]


def moved(x):
    """x on the device with the strides and the place in its memory that it has here."""
    memory = x.untyped_storage()
    flat = torch.empty(0, dtype=x.dtype).set_(memory, 0, (memory.nbytes() // x.itemsize,), (1,))
    return flat.to(DEVICE).as_strided(x.size(), x.stride(), x.storage_offset())


def check(qkv, bound=BOUND, dtype=None, **options):
    (qkv,) = on_device(qkv)
    options = {k: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    found = results(qkv, "triton", dtype, **options)
    assert_near(found, exact(qkv, **options), bound)
    return found


@pytest.mark.parametrize(("tokens", "width", "heads", "padding"), SHAPES)
def test_every_shape(tokens, width, heads, padding):
    batch = 3 if tokens < 60 and heads < 8 else 2
    start, length = make_padding(padding, batch, tokens)
    check(make_qkv(batch, tokens, heads, width), start=start, length=length)


@pytest.mark.parametrize("padding", PADDING)
def test_padding_gives_exact_zeros(padding):
    batch, tokens = 4, 20
    start, length = make_padding(padding, batch, tokens)
    out, grad = check(make_qkv(batch, tokens, 2, 16), start=start, length=length)
    at = torch.arange(tokens)[None]
    real = torch.ones(batch, tokens, dtype=torch.bool)
    if start is not None:
        real &= at >= start[:, None]
    if length is not None:
        real &= at < length[:, None]
    real = real.to(DEVICE)
    assert (out[~real] == 0).all() and (grad[~real] == 0).all()
    assert (out[real] != 0).any()


def test_numbers_in_padding_do_not_matter():
    batch, tokens = 3, 17
    start, length = make_padding("both", batch, tokens)
    qkv = make_qkv(batch, tokens, 1, 16)
    at = torch.arange(tokens)[None]
    padding = (at < start[:, None]) | (at >= length[:, None])
    spoilt = qkv.masked_fill(padding[..., None, None, None], float("nan"))
    options = dict(zip(("start", "length"), on_device(start, length), strict=True))
    clean, other = (results(x.to(DEVICE), "triton", **options) for x in (qkv, spoilt))
    assert all(torch.equal(x, y) for x, y in zip(clean, other, strict=True))


@pytest.mark.parametrize("tokens", [7, 40, 150])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("per_row", [True, False])
def test_chosen_queries(tokens, packed, per_row):
    """Also with a token twice, and tokens that are padding."""
    batch, heads, width = 3, 2, 24
    start, length = make_padding("both", batch, tokens)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, tokens, (batch, 5) if per_row else (5,), generator=generator)
    rows[..., 1] = rows[..., 0]
    qkv = make_qkv(batch, tokens, heads, width)
    options = {"queries": rows, "start": start, "length": length}
    if packed:
        check(qkv, **options)
        return
    options = dict(zip(options, on_device(*options.values()), strict=True))
    (qkv,) = on_device(qkv)
    every = rows.to(DEVICE).expand(batch, -1)[..., None, None].expand(-1, -1, heads, width)

    def separate(backend, dtype):
        kv = qkv[:, :, 1:].to(dtype).requires_grad_()
        q = qkv[:, :, 0].to(dtype).gather(1, every).requires_grad_()
        out = attention(kv, q=q, backend=backend, **options)
        out.backward(torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape).to(dtype))
        return out.detach().double(), torch.cat((q.grad.flatten(), kv.grad.flatten())).double()

    assert_near(separate("triton", torch.float32), separate("reference", torch.float64), BOUND)


@pytest.mark.parametrize("tokens", [6, 33, 130])
def test_dropout_follows_the_seed_forward_and_backward(tokens):
    qkv = make_qkv(2, tokens, 1 if tokens > 100 else 3, 16)
    start, _ = make_padding("left", 2, tokens)
    seed = torch.tensor([0x123456789ABCDEF0])
    options = {"start": start, "dropout_p": 0.3}
    found = check(qkv, seed=seed, **options)
    again = check(qkv, seed=seed, **options)
    other = check(qkv, seed=seed + 1, **options)
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    assert not torch.equal(found[0], other[0])


def test_dropout_follows_the_generator():
    (qkv,) = on_device(make_qkv(2, 9, 1, 16))

    def draw(seed):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        return [attention(qkv, dropout_p=0.5, generator=generator, backend="triton") for _ in range(2)]

    first, second = draw(0), draw(0)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], draw(1)[0])


@pytest.mark.parametrize("p", [0.1, 0.9])
def test_dropout_drops_its_share(p):
    """Of weights that are all alike, and of each key and query alike: within five standard deviations."""
    batch, heads, tokens = 8, 4, 48
    qkv = torch.zeros(batch, tokens, 3, heads, tokens)
    qkv[:, :, 2] = torch.eye(tokens)[:, None]  # the output is the weights
    seed = torch.tensor([7])
    out = attention(*on_device(qkv), dropout_p=p, seed=seed.to(DEVICE), backend="triton")
    weights = out.view(batch, tokens, heads, tokens)[:, -1].cpu() * tokens  # the last token sees all
    share = (weights > 0).double()
    spread = (p * (1 - p)) ** 0.5
    assert abs(share.mean() - (1 - p)) < 5 * spread / share.numel() ** 0.5
    for dim in (0, 1, 2):
        others = share.numel() / share.shape[dim]
        means = share.mean([d for d in range(3) if d != dim])
        assert (means - (1 - p)).abs().max() < 5 * spread / others**0.5
    torch.testing.assert_close(weights[weights > 0], torch.full_like(weights[weights > 0], 1 / (1 - p)))
    factor = dropout_factor(seed, p, batch, heads, torch.tensor([tokens - 1]), tokens)
    assert torch.equal(share, (factor[:, :, 0] > 0).double())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("tokens", [11, 60, 140])
def test_lower_precisions_stay_near(dtype, bound, tokens):
    batch, heads = (3, 2) if tokens < 100 else (2, 1)
    start, length = make_padding("both", batch, tokens)
    qkv = make_qkv(batch, tokens, heads, 32, dtype)
    check(qkv, bound, start=start, length=length, dropout_p=0.1, seed=torch.tensor([3]))


@pytest.mark.parametrize("layout", ["heads first", "sliced", "misaligned", "expanded", "width apart"])
def test_any_strides(layout):
    batch, tokens, heads, width = 2, 19, 3, 16
    qkv = make_qkv(batch, tokens, heads, width)
    wanted = exact(qkv.to(DEVICE))
    if layout == "heads first":
        qkv = qkv.permute(0, 3, 1, 2, 4).contiguous().permute(0, 2, 3, 1, 4)
    elif layout == "sliced":
        wide = torch.full((batch, tokens + 4, 4, heads + 1, width + 8), float("nan"))
        wide[:, 2:-2, 1:, :-1, :width] = qkv
        qkv = wide[:, 2:-2, 1:, :-1, :width]
    elif layout == "misaligned":
        flat = torch.empty(qkv.numel() + 1)
        flat[1:] = qkv.flatten()
        qkv = flat[1:].view(qkv.shape)
    elif layout == "expanded":
        qkv = qkv[:1].expand(batch, -1, -1, -1, -1)
        wanted = exact(qkv.to(DEVICE))
    else:
        qkv = qkv.transpose(-1, -2).contiguous().transpose(-1, -2)
    out, grad = results(moved(qkv), "triton")
    assert_near((out, grad), wanted, BOUND)


@pytest.mark.parametrize(("batch", "queries"), [(0, None), (2, 0)])
def test_nothing_to_do(batch, queries):
    qkv = make_qkv(batch, 5, 2, 16).to(DEVICE).requires_grad_()
    rows = None if queries is None else torch.zeros(queries, dtype=torch.int64, device=DEVICE)
    out = attention(qkv, queries=rows, backend="triton")
    assert out.shape == (batch, 5 if queries is None else queries, 32)
    out.sum().backward()
    assert qkv.grad.shape == qkv.shape and (qkv.grad == 0).all()


def test_rows_do_not_depend_on_the_rest_of_the_batch():
    start, length = make_padding("both", 5, 18)
    qkv = make_qkv(5, 18, 3, 16).to(DEVICE)
    start, length = on_device(start, length)
    whole = attention(qkv, start=start, length=length, backend="triton")
    for row in range(5):
        part = slice(row, row + 1)
        alone = attention(qkv[part], start=start[part], length=length[part], backend="triton")
        assert torch.equal(whole[part], alone)


def test_large_scores_do_not_overflow():
    qkv = make_qkv(2, 70, 1, 16).mul_(20)
    out, grad = check(qkv, bound=1e-3, scale=1.0)
    assert out.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("backward", [False, True])
def test_the_rule_cuts_what_does_not_fit(backward):
    def rule(tokens, width, itemsize):
        return tiles_for(tokens, tokens, width, itemsize, backward=backward)

    assert (rule(15, 32, 2).whole, rule(15, 32, 2).group) == (True, 4)
    assert rule(60, 128, 2).whole and not rule(60, 128, 4).whole
    assert rule(128, 64, 2).whole != backward and not rule(129, 16, 2).whole
    for tokens in TOKENS:
        for width in (*WIDTHS, 8, 100):
            for itemsize in (2, 4):
                tiles = rule(tokens, width, itemsize)
                assert tiles.width >= width and min(tiles.query_rows, tiles.key_rows, tiles.chunk) >= 16
                assert not tiles.whole or tiles.key_rows >= tokens
                assert not (tiles.whole and backward) or tiles.query_rows >= tokens
