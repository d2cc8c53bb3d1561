"""Attention under padding: what a token sees, what padding may not do, and the partial evaluations."""

import math

import pytest
import torch

from dtag_fast.models import transformer
from dtag_fast.models.attention import CausalSelfAttention, attention_bias
from dtag_fast.models.transformer import Transformer
from dtag_fast.ops.dropout import dropout
from dtag_fast.ops.select_rows import select_rows

VALID = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],  # left padding
        [1, 1, 1, 0, 0, 0],  # right padding
        [0, 1, 1, 1, 0, 0],  # both
    ]
).bool()


def naive_attention(module: CausalSelfAttention, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """One token at a time, in float64, over an explicit list of the tokens it may see."""
    module = module.double()
    q, k, v = module.qkv(x.double()).chunk(3, dim=-1)
    heads, width = module.n_head, q.shape[-1] // module.n_head
    mixed = torch.zeros_like(q)
    for b, t, h in torch.cartesian_prod(*map(torch.arange, (*x.shape[:2], heads))):
        part = slice(h * width, (h + 1) * width)
        seen = [j for j in range(t + 1) if valid[b, j] or j == t]
        scores = torch.stack([q[b, t, part] @ k[b, j, part] for j in seen]) / math.sqrt(width)
        mixed[b, t, part] = torch.softmax(scores, 0) @ v[b, seen, part]
    return module.out(mixed)


@pytest.mark.parametrize("n_head", [1, 4])
@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "explicit"])
def test_attention_equals_the_definition(n_head, explicit):
    torch.manual_seed(0)
    module = CausalSelfAttention(8, n_head, dropout=1e-9 if explicit else 0.0).train(explicit)
    x = torch.randn(*VALID.shape, 8)
    q, k, v = module.project(x, None)
    out = module.attend(q, k, v, attention_bias(VALID), None)
    torch.testing.assert_close(out.double(), naive_attention(module, x, VALID), rtol=1e-5, atol=1e-6)


def test_padding_content_never_reaches_a_real_token():
    torch.manual_seed(0)
    stack = Transformer(8, 2, 2, 0.0, "post", "gelu")
    x = torch.randn(*VALID.shape, 8)
    other = torch.where(VALID[..., None], x, 1e6)
    bias = attention_bias(VALID)
    assert torch.equal(stack(x, bias)[VALID], stack(other, bias)[VALID])


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_gives_no_nan_in_outputs_or_gradients(norm):
    torch.manual_seed(0)
    stack = Transformer(8, 2, 2, 0.1, norm, "relu")
    x = torch.zeros(*VALID.shape, 8, requires_grad=True)
    out = stack(x, attention_bias(VALID))
    out[VALID].square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize(
    "rows", [torch.tensor([1, 4]), torch.tensor([[5], [3], [0], [2]])], ids=["shared", "own"]
)
def test_selected_rows_equal_those_of_the_whole(norm, rows):
    torch.manual_seed(0)
    stack = Transformer(8, 3, 2, 0.0, norm, "gelu")
    x, bias = torch.randn(*VALID.shape, 8), attention_bias(VALID)
    torch.testing.assert_close(stack(x, bias, rows), select_rows(stack(x, bias), rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_one_more_token_equals_the_longer_sequence(norm):
    torch.manual_seed(0)
    stack = Transformer(8, 3, 2, 0.0, norm, "gelu")
    x = torch.randn(*VALID.shape, 8)
    valid = VALID.clone()
    valid[:, -1] = True
    kept = []
    stack(x[:, :-1], attention_bias(valid[:, :-1]), keep=kept)
    bias = torch.zeros(4, 1, 1, 5).masked_fill_(~valid[:, None, None, :-1], -math.inf)
    together = stack(x, attention_bias(valid))[:, -1:]
    torch.testing.assert_close(stack.extend(x[:, -1:], kept, bias), together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 32, 100])
def test_mlp_in_pieces_equals_the_whole(monkeypatch, rows):
    torch.manual_seed(0)
    block = Transformer(8, 1, 2, 0.0, "post", "gelu").blocks[0]
    x = torch.randn(rows, 3, 8)
    whole = block._mlp(x)
    monkeypatch.setattr(transformer, "_HIDDEN_NUMBERS_IN_CACHE", 1)  # 32 rows at a time, the least
    with torch.inference_mode():
        torch.testing.assert_close(block._mlp(x), whole, rtol=1e-5, atol=1e-6)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="n_head: expected a divisor of d_model = 8, got 3"):
        CausalSelfAttention(8, 3, 0.0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation_and_its_rate(p):
    x = torch.ones(400_003)
    y = dropout(x, p, torch.Generator().manual_seed(0))
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    sigma = math.sqrt(p * (1 - p) / x.numel())
    assert abs((y == 0).float().mean().item() - p) < 5 * sigma
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-3)


def test_dropout_is_a_function_of_its_generator():
    x = torch.randn(7, 11)
    draws = [dropout(x, 0.3, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert dropout(x, 0.0, None) is x
