"""What `attention` means on every backend, and what it refuses."""

import math

import pytest
import torch
from attention_cases import assert_near, exact, make_qkv, results
from padding_cases import PADDING, make_padding

from dtag_fast.ops.attention import attention, choose_backend
from dtag_fast.ops.attention.reference import attention_reference, visible


def test_three_tokens_by_hand():
    """q = k = 0, so every token averages the values it sees; then one score of log 3."""
    qkv = torch.zeros(1, 3, 3, 1, 1)
    qkv[0, :, 2, 0, 0] = torch.tensor([3.0, 6.0, 12.0])
    assert attention(qkv, backend="reference").flatten().tolist() == pytest.approx([3, 4.5, 7])
    qkv[0, 1, 0] = 2.0
    qkv[0, 1, 1] = math.log(3) / 2
    out = attention(qkv, scale=1.0, backend="reference").flatten().tolist()
    assert out == pytest.approx([3, (3 * 1 + 6 * 3) / 4, 7])
    left = attention(qkv, scale=1.0, start=torch.tensor([1]), backend="reference").flatten().tolist()
    assert left == pytest.approx([0, 6, 9])
    right = attention(qkv, scale=1.0, length=torch.tensor([2]), backend="reference").flatten().tolist()
    assert right == pytest.approx([out[0], out[1], 0])


def test_who_sees_whom():
    seen = visible(4, torch.arange(4), torch.tensor([0, 1, 3]), torch.tensor([4, 3, 3]))
    assert seen[0].int().tolist() == torch.ones(4, 4).tril().int().tolist()
    assert seen[1].int().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert not seen[2].any()


def test_the_gradient_of_the_reference():
    start, length = make_padding("both", 3, 5)
    qkv = make_qkv(3, 5, 2, 3, torch.float64).requires_grad_()
    factor = torch.rand(3, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(x):
        return attention_reference(*x.unbind(2), torch.arange(5), start, length, 0.7, factor)

    assert torch.autograd.gradcheck(run, (qkv,))


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("chosen", [None, (2,), (3, 2)])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_sdpa_means_the_same(padding, chosen, p):
    start, length = make_padding(padding, 3, 9)
    rows = chosen and torch.randint(0, 9, chosen, generator=torch.Generator().manual_seed(3))
    options = {"start": start, "length": length, "queries": rows, "dropout_p": p}
    options["seed"] = torch.tensor([5]) if p else None
    qkv = make_qkv(3, 9, 2, 8)
    assert_near(results(qkv, "sdpa", **options), exact(qkv, **options), 2e-6)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_padding_gives_exact_zeros(backend):
    start, length = make_padding("both", 4, 11)
    out, grad = results(make_qkv(4, 11, 2, 8), backend, start=start, length=length)
    at = torch.arange(11)[None]
    padding = (at < start[:, None]) | (at >= length[:, None])
    assert padding.any() and (out[padding] == 0).all() and (grad[padding] == 0).all()


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_dropout_follows_the_generator(backend):
    qkv = make_qkv(2, 9, 1, 8)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return attention(qkv, dropout_p=0.5, generator=generator, backend=backend)

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_host_tensors_take_sdpa_and_say_why():
    name, reason = choose_backend(make_qkv(1, 4, 1, 8))
    assert name == "sdpa" and reason
    assert choose_backend(make_qkv(1, 4, 1, 8), "reference") == ("reference", "asked for")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qkv": torch.zeros(2, 5, 2, 1, 8)}, r"qkv: expected \(B, S, 3, H, D\), got \(2, 5, 2, 1, 8\)"),
        ({"qkv": torch.zeros(2, 5, 3, 1, 8, dtype=torch.int64)}, "qkv: expected floating-point numbers"),
        ({"q": torch.zeros(2, 5, 1, 8)}, r"qkv: expected \(B, S, 2, H, D\)"),
        ({"queries": torch.zeros(3, 1, dtype=torch.int64)}, r"queries: expected \(Q,\) or \(2, Q\)"),
        ({"queries": torch.zeros(1)}, "queries: expected int64 or int32, got torch.float32"),
        ({"start": torch.zeros(3, dtype=torch.int64)}, r"start: expected \(2,\), one per row"),
        ({"length": torch.zeros(2)}, "length: expected int64 or int32"),
        ({"seed": torch.tensor([1.0])}, r"seed: expected \(1,\) of torch.int64"),
        ({"dropout_p": 1.0}, r"dropout_p: expected a probability in \[0, 1\), got 1.0"),
        ({"backend": "flash"}, "backend: expected one of triton, sdpa, reference or None, got 'flash'"),
        (
            {"start": torch.zeros(2, dtype=torch.int64, device="meta")},
            "start: expected it on cpu as qkv, got meta",
        ),
    ],
)
def test_bad_input(change, words):
    arguments = {"qkv": torch.zeros(2, 5, 3, 1, 8)} | change
    with pytest.raises(ValueError, match=words):
        attention(arguments.pop("qkv"), **arguments)


def test_queries_of_another_shape_are_refused():
    kv, rows = torch.zeros(2, 5, 2, 1, 8), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="queries: expected the tokens that q was made for, got None"):
        attention(kv, q=torch.zeros(2, 2, 1, 8))
    with pytest.raises(
        ValueError, match=r"q: expected \(2, 2, 1, 8\) to match qkv and queries, got \(2, 3, 1, 8\)"
    ):
        attention(kv, q=torch.zeros(2, 3, 1, 8), queries=rows)
    with pytest.raises(ValueError, match=r"q: expected torch\.float32 as qkv"):
        attention(kv, q=torch.zeros(2, 2, 1, 8, dtype=torch.float64), queries=rows)


@pytest.mark.parametrize(
    ("qkv", "words"),
    [
        (torch.zeros(1, 321, 3, 1, 8), "the kernels take up to 320 tokens, the sequences have 321"),
        (torch.zeros(1, 4, 3, 1, 129), "the kernels take heads up to 128 wide, these are 129"),
        (torch.zeros(1, 4, 3, 1, 8, dtype=torch.float64), "the kernels take float32, bfloat16 and float16"),
        (torch.zeros(1, 4, 3, 1, 8, device="meta"), "tensors are on meta, not on a CUDA device"),
    ],
)
def test_the_kernels_say_why_not(qkv, words, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=f"backend: 'triton' cannot run, {words}"):
        attention(qkv, backend="triton")
    assert choose_backend(qkv)[0] == "sdpa"
