"""Attention under padding: what a token sees, what padding may not do, and the partial evaluations."""

import math

import pytest
import torch

from dtag_fast.models import transformer
from dtag_fast.models.attention import CausalSelfAttention
from dtag_fast.models.past import Kept
from dtag_fast.models.transformer import Transformer
from dtag_fast.ops.attention import Padding
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
PADDING = Padding(start=torch.tensor([0, 2, 0, 1]), length=torch.tensor([6, 6, 3, 4]))


def naive_attention(module: CausalSelfAttention, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """One token at a time, in float64, over an explicit list of the tokens it may see; zeros for padding."""
    module = module.double()
    q, k, v = module.qkv(x.double()).chunk(3, dim=-1)
    heads, width = module.n_head, q.shape[-1] // module.n_head
    mixed = torch.zeros_like(q)
    for b, t, h in torch.cartesian_prod(*map(torch.arange, (*x.shape[:2], heads))):
        if not valid[b, t]:
            continue
        part = slice(h * width, (h + 1) * width)
        seen = [j for j in range(t + 1) if valid[b, j]]
        scores = torch.stack([q[b, t, part] @ k[b, j, part] for j in seen]) / math.sqrt(width)
        mixed[b, t, part] = torch.softmax(scores, 0) @ v[b, seen, part]
    return module.out(mixed)


@pytest.mark.parametrize("n_head", [1, 4])
@pytest.mark.parametrize("explicit", [False, True], ids=["sdpa", "explicit"])
def test_attention_equals_the_definition(n_head, explicit):
    torch.manual_seed(0)
    module = CausalSelfAttention(8, n_head, dropout=1e-9 if explicit else 0.0).train(explicit)
    x = torch.randn(*VALID.shape, 8)
    out = module.attend(module.project(x), PADDING)
    torch.testing.assert_close(out.double(), naive_attention(module, x, VALID), rtol=1e-5, atol=1e-6)


def test_padding_content_never_reaches_a_real_token():
    torch.manual_seed(0)
    stack = Transformer(8, 2, 2, 0.0, "post", "gelu")
    x = torch.randn(*VALID.shape, 8)
    other = torch.where(VALID[..., None], x, 1e6)
    assert torch.equal(stack(x, PADDING)[VALID], stack(other, PADDING)[VALID])


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_gives_no_nan_in_outputs_or_gradients(norm):
    torch.manual_seed(0)
    stack = Transformer(8, 2, 2, 0.1, norm, "relu")
    x = torch.zeros(*VALID.shape, 8, requires_grad=True)
    out = stack(x, PADDING)
    out[VALID].square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize(
    "rows", [torch.tensor([1, 4]), torch.tensor([[5], [3], [0], [2]])], ids=["shared", "own"]
)
def test_selected_rows_equal_those_of_the_whole(norm, rows):
    torch.manual_seed(0)
    stack = Transformer(8, 3, 2, 0.0, norm, "gelu")
    x = torch.randn(*VALID.shape, 8)
    whole = select_rows(stack(x, PADDING), rows)
    torch.testing.assert_close(stack(x, PADDING, rows), whole, rtol=1e-5, atol=1e-6)
    projected = stack.blocks[0].project(x)
    torch.testing.assert_close(stack(x, PADDING, rows, projected=projected), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("n_layer", [1, 3])
@pytest.mark.parametrize("append", [True, False])
def test_new_tokens_equal_the_longer_sequence(norm, n_layer, append):
    torch.manual_seed(0)
    stack = Transformer(8, n_layer, 2, 0.0, norm, "gelu")
    x, start, new = torch.randn(4, 6, 8), torch.tensor([0, 2, 4, 1]), torch.tensor([4, 5])
    padding = Padding(start)
    kept = []
    stack(x[:, :-2] if append else x * (torch.arange(6) < 4)[:, None], padding, keep=kept)
    together = stack(x, padding)[:, -2:]
    with torch.no_grad():
        out = stack.extend(x[:, -2:], Kept(kept, new, append), padding)
        torch.testing.assert_close(out, together, rtol=1e-5, atol=1e-6)
        past = Kept(kept, new.expand(4, -1), append=False)  # written over once more
        (last, projected) = (torch.tensor([1]), stack.blocks[0].project(x[:, -2:]))
        out = stack.extend(x[:, -2:], past, padding, last, projected)
        torch.testing.assert_close(out, together[:, -1:], rtol=1e-5, atol=1e-6)


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
