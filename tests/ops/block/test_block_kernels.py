"""The block's kernels against float64: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from block_cases import assert_near, exact, make_block, moved, results
from kernel_device import DEVICE
from padding_cases import PADDING, make_padding

from dtag_fast.ops.block import tiles, transformer_block

# Tokens, width, heads; norm, activation and padding in turn. The interpreter is slow on wide tokens.
SHAPES = [
    *((1, 16, 1), (5, 24, 2), (15, 64, 8), (16, 16, 2), (17, 24, 8), (60, 64, 2), (64, 16, 1), (1, 128, 1)),
    *((15, 24, 1), (16, 128, 2), (17, 16, 1), (60, 24, 2), (60, 128, 8), (15, 256, 2), (33, 20, 2)),
]
STYLES = [("post", "gelu"), ("pre", "relu"), ("pre", "gelu"), ("post", "relu")]
BOUND = 5e-6 if DEVICE == "cpu" else 2e-5  # sums over rows cancel in the gradients of biases


@pytest.fixture(autouse=True)
def few_steps_in_the_interpreter(monkeypatch):
    """Its time goes by the number of steps, not by what is in one."""
    if DEVICE == "cpu":
        for table in (tiles.FORWARD, tiles.BACKWARD):
            monkeypatch.setitem(table, 4, table[2])
        monkeypatch.setattr(tiles, "PROGRAMS", 1)


def check(x, weights, bound=BOUND, **options):
    """Results of the kernels, near those of the oracle."""
    x, weights, options = moved(DEVICE, x, weights, options)
    found = results(x, weights, "triton", **options)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert_near(found, exact(x, weights, **options), bound)
    return found


def style(number):
    norm, activation = STYLES[number % 4]
    return {"norm": norm, "activation": activation}


@pytest.mark.parametrize(("number", "shape"), list(enumerate(SHAPES)))
def test_every_shape(number, shape):
    tokens, width, heads = shape
    batch = 3 if tokens <= 17 else 2
    start, length = make_padding(PADDING[(number + number // 4) % 4], batch, tokens)
    check(*make_block(batch, tokens, width), n_head=heads, start=start, length=length, **style(number))


@pytest.mark.parametrize("number", range(4))
def test_every_style_with_everything(number, monkeypatch):
    """Programs of several batch rows, the last of fewer; padding on both sides, dropout."""
    monkeypatch.undo()
    monkeypatch.setattr(tiles, "PROGRAMS", 1)
    start, length = make_padding("both", 6, 7)
    options = {
        "n_head": 2,
        "start": start,
        "length": length,
        "dropout_p": 0.3,
        "seed": torch.tensor([1 << 40]),
    }
    check(*make_block(6, 7, 40), **options, **style(number))


@pytest.mark.parametrize("hidden", [24, 72])
def test_any_hidden_width(hidden):
    check(*make_block(2, 5, 16, hidden), n_head=1, **style(0))


@pytest.mark.parametrize(("tokens", "programs"), [(6, 128), (6, 1), (20, 128)])
@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_chosen_queries(tokens, programs, per_row, norm, monkeypatch):
    """Also with a token twice, and tokens that are padding."""
    monkeypatch.setattr(tiles, "PROGRAMS", programs)
    start, length = make_padding("both", 3, tokens)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, tokens, (3, 5) if per_row else (5,), generator=generator)
    rows[..., 1] = rows[..., 0]
    options = {"n_head": 2, "norm": norm, "activation": "gelu", "start": start, "length": length}
    check(*make_block(3, tokens, 24), queries=rows, dropout_p=0.2, seed=torch.tensor([5]), **options)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_chosen_queries_are_rows_of_the_whole(norm):
    x, weights = moved(DEVICE, *make_block(2, 9, 16))
    options = {"n_head": 1, "norm": norm, "activation": "relu", "backend": "triton", "dropout_p": 0.4}
    options["seed"] = torch.tensor([5], device=DEVICE)
    whole = transformer_block(x, weights, **options)
    part = transformer_block(x, weights, queries=torch.tensor([8, 3], device=DEVICE), **options)
    torch.testing.assert_close(part, whole[:, [8, 3]], rtol=1e-5, atol=1e-5)


def test_dropout_follows_the_seed():
    x, weights = moved(DEVICE, *make_block(2, 6, 16))
    options = {"n_head": 1, **style(0), "dropout_p": 0.3}
    seed = torch.tensor([3], device=DEVICE)
    first, again = (results(x, weights, "triton", seed=seed, **options) for _ in range(2))
    other = results(x, weights, "triton", seed=seed + 1, **options)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["out"], other["out"])


def test_without_a_seed_dropout_draws_one():
    x, weights = moved(DEVICE, *make_block(2, 6, 16))
    options = {"n_head": 1, **style(0), "dropout_p": 0.3, "backend": "triton"}

    def draw(seed):
        torch.manual_seed(seed)
        return transformer_block(x, weights, **options)

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_rows_do_not_depend_on_the_rest_of_the_batch(norm):
    start, length = make_padding("both", 3, 18)
    x, weights, start, length = moved(DEVICE, *make_block(3, 18, 16), start, length)
    options = {"n_head": 2, "norm": norm, "activation": "gelu", "backend": "triton"}
    whole = transformer_block(x, weights, start=start, length=length, **options)
    for row in range(3):
        part = slice(row, row + 1)
        alone = transformer_block(x[part], weights, start=start[part], length=length[part], **options)
        assert torch.equal(whole[part], alone)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("number", [0, 2])
def test_lower_precisions_stay_near(dtype, bound, number):
    start, length = make_padding("both", 3, 11)
    x, weights = make_block(3, 11, 64, dtype=dtype)
    options = {"start": start, "length": length, "dropout_p": 0.1, "seed": torch.tensor([3])}
    check(x, weights, bound, n_head=2, **options, **style(number))


def test_any_strides():
    x, weights = moved(DEVICE, *make_block(2, 7, 16))
    options = {"n_head": 2, **style(0)}
    wanted = exact(x, weights, **options)
    strange = weights._replace(expand_weight=weights.expand_weight.t().contiguous().t())
    found = results(x.transpose(0, 1).contiguous().transpose(0, 1), strange, "triton", **options)
    assert_near(found, wanted, BOUND)


@pytest.mark.parametrize(("batch", "queries"), [(0, None), (2, 0)])
def test_nothing_to_do(batch, queries):
    x, weights = moved(DEVICE, *make_block(batch, 5, 16))
    rows = None if queries is None else torch.zeros(queries, dtype=torch.int64, device=DEVICE)
    found = results(x, weights, "triton", n_head=2, queries=rows, **style(0))
    assert found["out"].shape == (batch, 5 if queries is None else queries, 16)
    assert found["x"].shape == x.shape and (found["x"] == 0).all() and (found["expand_weight"] == 0).all()


@pytest.mark.parametrize("backward", [False, True])
def test_the_rule_fits_what_it_takes(backward, monkeypatch):
    monkeypatch.undo()

    def rule(batch, tokens, width, head, itemsize=2, precision="ieee", queries=None):
        return tiles.tiles_for(batch, queries, tokens, width, head, itemsize, precision, backward=backward)

    assert [rule(batch, 15, 256, 32).group for batch in (1, 64, 256, 511, 512, 9999)] == [1, 1, 2, 2, 4, 4]
    assert rule(9999, 17, 256, 32).group == 1 and rule(9999, 15, 256, 32, queries=64).group == 1
    assert rule(9999, 15, 256, 128, 4, "tf32x3").group == 1 and rule(9999, 15, 256, 128, 4, "tf32").group == 4
    for batch in (1, 9999):
        for tokens, queries in ((15, None), (15, 1), (15, 16), (60, None), (60, 1), (33, 50)):
            for width, head in ((16, 16), (24, 3), (200, 100), (256, 128)):
                found = rule(batch, tokens, width, head, queries=queries)
                constants = found.constants()
                assert found.key_rows >= tokens and found.query_rows >= (queries or tokens)
                assert found.group * min(found.query_rows, found.key_rows) >= 16
                assert found.columns >= width and found.head_columns >= head
                assert all(constants[name] <= found.columns for name in ("CHUNK", "SPAN", "PART"))


def test_the_rule_names_what_does_not_fit():
    def reason(tokens, head, precision, queries=None):
        return tiles.why_no_tiles(queries, tokens, 256, head, 4, precision)

    assert reason(60, 128, "tf32") is None and reason(60, 32, "tf32x3") is None
    assert reason(15, 128, "tf32x3") is None
    assert "exact float32 takes heads up to 32 wide of 60 tokens, these are 64" in reason(60, 64, "tf32x3")
    assert "up to 64 queries of a sequence, these are 65" in reason(60, 64, "tf32", queries=65)
