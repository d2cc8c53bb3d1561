"""What `transformer_block` means on every backend, and what it refuses."""

import pytest
import torch
from block_cases import assert_near, exact, make_block, results
from padding_cases import PADDING, make_padding
from torch.nn import functional as F

from dtag_fast.models.transformer import Block
from dtag_fast.ops.attention import Padding
from dtag_fast.ops.block import BlockWeights, choose_backend, transformer_block
from dtag_fast.ops.block.reference import residual_factor


def weights_of(block):
    """The parameters of a module, in the order of BlockWeights."""
    layers = (
        *(block.attention.qkv, block.attention.out, block.norm_1, block.expand, block.contract, block.norm_2),
    )
    return BlockWeights(*(parameter for layer in layers for parameter in (layer.weight, layer.bias)))


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("rows", [None, (2,), (3, 2)])
def test_it_is_the_block_of_the_models(norm, activation, rows):
    torch.manual_seed(0)
    block = Block(24, 3, 0.0, norm, activation).double()
    x = torch.randn(3, 9, 24, dtype=torch.float64)
    start, length = torch.tensor([0, 2, 4]), torch.tensor([9, 8, 9])
    real = (torch.arange(9) >= start[:, None]) & (torch.arange(9) < length[:, None])
    rows = rows and torch.randint(4, 8, rows)  # real ones
    wanted = block(x, Padding(start, length), rows)
    options = {"n_head": 3, "norm": norm, "activation": activation}
    out = transformer_block(x, weights_of(block), start=start, length=length, queries=rows, **options)
    if rows is None:
        out, wanted = out[real], wanted[real]
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


def test_the_dropouts_by_hand():
    """Attention that gives each token itself, an MLP that gives back its input: both dropouts are visible."""
    zero, one, eye = torch.zeros(16), torch.ones(16), torch.eye(16)
    weights = BlockWeights(
        *(torch.cat((torch.zeros(32, 16), eye)), torch.zeros(48), eye, zero, one, zero),
        *(eye, zero, eye, zero, one, zero),
    )
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    seed, p = torch.tensor([4]), 0.3
    queries = torch.tensor([3])
    start, length = torch.tensor([3, 0]), torch.tensor([5, 2])  # the second row's token is padding
    out = transformer_block(
        *(x, weights), n_head=1, norm="pre", activation="relu", start=start, length=length, queries=queries,
        dropout_p=p, seed=seed,
    )  # fmt: skip
    tokens = queries.expand(2, -1)
    first, second = (residual_factor(seed, p, tokens, 16, third) for third in (1, 2))
    values = F.layer_norm(x[:, 3:4], (16,))
    weight = out.new_tensor([0.0, 0.0])[:, None, None]
    for kept in (0.0, 1 / (1 - p)):  # the one weight of attention may be dropped
        weight[0] = kept
        u = x[:, 3:4] + first * weight * values
        wanted = u + second * F.layer_norm(u, (16,)).relu()
        if torch.allclose(out, wanted, atol=1e-5):
            break
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    assert {round(float(f), 4) for f in torch.cat((first, second)).unique()} == {0.0, round(1 / 0.7, 4)}
    assert not torch.equal(first, second)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_composed_means_the_same(padding, norm):
    start, length = make_padding(padding, 3, 7)
    options = {"n_head": 2, "norm": norm, "activation": "gelu", "start": start, "length": length}
    options |= {
        "queries": torch.tensor([[6, 1], [2, 2], [0, 5]]),
        "dropout_p": 0.2,
        "seed": torch.tensor([8]),
    }
    x, weights = make_block(3, 7, 32)
    assert_near(results(x, weights, "composed", **options), exact(x, weights, **options), 4e-6)


def test_padding_is_seen_by_no_other_row():
    start, length = torch.tensor([2, 0]), torch.tensor([7, 4])
    x, weights = make_block(2, 7, 16)
    real = (torch.arange(7) >= start[:, None]) & (torch.arange(7) < length[:, None])
    options = {"n_head": 2, "norm": "post", "activation": "relu", "start": start, "length": length}
    other = torch.where(real[..., None], x, 5 * x + 1)
    out, changed = (transformer_block(rows, weights, **options) for rows in (x, other))
    assert torch.equal(out[real], changed[real]) and not torch.equal(out[~real], changed[~real])
    assert out.isfinite().all() and changed.isfinite().all()


def test_host_tensors_are_composed_and_say_why():
    name, reason = choose_backend(torch.zeros(1, 4, 16), 1)
    assert name == "composed" and reason
    assert choose_backend(torch.zeros(1, 4, 16), 1, backend="reference") == ("reference", "asked for")


GOOD = {"n_head": 2, "norm": "post", "activation": "gelu"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(2, 16)}, r"x: expected \(B, S, D\) floating-point numbers, got \(2, 16\)"),
        ({"x": torch.zeros(2, 5, 16, dtype=torch.int64)}, "x: expected .* of torch.int64"),
        ({"n_head": 3}, "n_head: expected a divisor of D = 16, got 3"),
        ({"norm": "both"}, "norm: expected one of post, pre, got 'both'"),
        ({"activation": "silu"}, "activation: expected one of gelu, relu, got 'silu'"),
        ({"x": torch.zeros(2, 5, 32)}, r"weights.qkv_weight: expected \(96, 32\), got \(48, 16\)"),
        (
            {"x": torch.zeros(2, 5, 16, dtype=torch.bfloat16)},
            "weights.qkv_weight: expected torch.bfloat16 as x",
        ),
        (
            {"x": torch.zeros(2, 5, 16, device="meta")},
            "weights.qkv_weight: expected it on meta as x, got cpu",
        ),
        ({"queries": torch.zeros(3, 1, dtype=torch.int64)}, r"queries: expected \(Q,\) or \(2, Q\)"),
        ({"queries": torch.zeros(1)}, "queries: expected int64 or int32, got torch.float32"),
        ({"start": torch.zeros(3, dtype=torch.int64)}, r"start: expected \(2,\), one per row"),
        ({"length": torch.zeros(2)}, "length: expected int64 or int32"),
        ({"seed": torch.tensor([1.0])}, r"seed: expected \(1,\) of torch.int64"),
        (
            {"seed": torch.zeros(1, dtype=torch.int64, device="meta")},
            "seed: expected it on cpu as x, got meta",
        ),
        ({"dropout_p": 1.0}, r"dropout_p: expected a probability in \[0, 1\), got 1.0"),
        ({"backend": "cuda"}, "backend: expected one of triton, composed, reference or None, got 'cuda'"),
    ],
)
def test_bad_input(change, words):
    x, weights = make_block(2, 5, 16)
    arguments = {"x": x, "weights": weights} | GOOD | change
    with pytest.raises(ValueError, match=words):
        transformer_block(**arguments)


@pytest.mark.parametrize("name", BlockWeights._fields)
def test_weights_of_another_shape_are_named(name):
    x, weights = make_block(2, 5, 16, hidden=40)
    wrong = weights._replace(**{name: getattr(weights, name)[..., :-1]})
    with pytest.raises(ValueError, match=rf"weights.{name}: expected"):
        transformer_block(x, wrong, **GOOD)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 65, 16), "the kernels take up to 64 tokens, the sequences have 65"),
        (torch.zeros(1, 4, 258), "the kernels take tokens up to 256 wide, these are 258"),
        (torch.zeros(1, 4, 16, dtype=torch.float64), "the kernels take float32, bfloat16 and float16"),
        (torch.zeros(1, 4, 16, device="meta"), "tensors are on meta, not on a CUDA device"),
    ],
)
def test_the_kernels_say_why_not(x, words, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=f"backend: 'triton' cannot run, {words}"):
        choose_backend(x, 2, backend="triton")
    assert choose_backend(x, 2)[0] == "composed"


def test_wide_heads_are_refused(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="the kernels take heads up to 128 wide, these are 256"):
        choose_backend(torch.zeros(1, 4, 256), 1, backend="triton")
