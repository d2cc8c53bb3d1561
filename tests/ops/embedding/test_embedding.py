"""What `embed_tokens` means on every backend, and what it refuses."""

import pytest
import torch
from embedding_cases import OF_RETURNS, ORDERS, assert_near, exact, make_case, map_tensors, results
from torch.nn import functional as F

from dtag_fast.ops.embedding import choose_backend, embed_tokens


def test_two_steps_by_hand():
    """Width 2: LayerNorm gives (1, -1) or (-1, 1) by which of the two numbers is larger."""
    case = make_case(("state", "return", "action"), 1, 2, 1, 1, 2, 2, omit=0)
    case = map_tensors(case, torch.zeros_like)
    case["states"][0, :, 0] = torch.tensor([3.0, -3.0])
    case["state_weight"][:, 0] = torch.tensor([1.0, 0.0])
    case["return_bias"] = torch.tensor([0.0, 5.0])
    case["timestep_table"][1] = torch.tensor([1.0, 0.0])
    case["timesteps"] = torch.tensor([[1, 1]])
    case["norm_weight"], case["norm_bias"] = torch.tensor([2.0, 2.0]), torch.tensor([0.0, 10.0])
    tokens = embed_tokens(**case, eps=1e-12, backend="reference")
    up, down = [2.0, 8.0], [-2.0, 12.0]
    wanted = torch.tensor([[up, down, up, down, down, up]])  # state, return, action of both steps
    torch.testing.assert_close(tokens, wanted)


@pytest.mark.parametrize("order", ORDERS)
def test_the_gradient_of_the_reference(order):
    case = map_tensors(make_case(order), lambda x: x.double().requires_grad_())
    names = [name for name, x in case.items() if isinstance(x, torch.Tensor) and x.requires_grad]

    def run(*tensors):
        return embed_tokens(**(case | dict(zip(names, tensors, strict=True))), backend="reference")

    assert torch.autograd.gradcheck(run, tuple(case[name] for name in names))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("omit", [0, 1])
def test_torch_means_the_same(order, omit):
    case = make_case(order, states=17, actions=6, omit=omit)
    assert_near(results(case, "torch"), exact(case), 2e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_on_the_host_it_is_torch_bit_for_bit(order):
    case = make_case(order, states=17, actions=6)
    embedded = [
        F.linear(case[{"return": "returns_to_go"}.get(kind, f"{kind}s")], case[f"{kind}_weight"], bias)
        for kind, bias in ((kind, case[f"{kind}_bias"]) for kind in order)
    ]
    y = torch.stack(embedded, dim=2) + F.embedding(case["timesteps"], case["timestep_table"])[:, :, None]
    wanted = F.layer_norm(y.flatten(1, 2)[:, :-1], (16,), case["norm_weight"], case["norm_bias"])
    assert torch.equal(embed_tokens(**case), wanted)


def test_the_end_is_cut():
    case = make_case(omit=0)
    whole = embed_tokens(**case)
    for omit in (1, 2):
        assert torch.equal(embed_tokens(**(case | {"omit": omit})), whole[:, :-omit])


def test_a_timestep_outside_the_table_is_refused_on_the_host():
    case = make_case()
    case["timesteps"][1, 2] = 9
    with pytest.raises(IndexError):
        embed_tokens(**case)


def test_host_tensors_take_torch_and_say_why():
    name, reason = choose_backend(torch.zeros(4, 16))
    assert name == "torch" and reason
    assert choose_backend(torch.zeros(4, 16), "reference") == ("reference", "asked for")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": ("state", "state")}, "order: expected 'state', 'action' and perhaps 'return', each once"),
        ({"order": ("return", "state")}, "order: expected .* each once, got return, state"),
        (
            {"order": ("state", "action")},
            "returns_to_go: expected None as order has no 'return'",
        ),
        ({"return_bias": None}, "return_bias: expected a tensor, got None"),
        (
            {"timesteps": torch.zeros(3, 5)},
            r"timesteps: expected \(B, K\) of int64 or int32.* got \(3, 5\)",
        ),
        ({"timesteps": torch.zeros(3, 0, dtype=torch.int64)}, "timesteps: .* K at least 1, got"),
        ({"timesteps": torch.zeros(3, dtype=torch.int64)}, r"timesteps: expected \(B, K\)"),
        ({"timestep_table": torch.zeros(9)}, r"timestep_table: expected \(T, D\) floating-point numbers"),
        ({"timestep_table": torch.zeros(0, 16)}, r"timestep_table: expected \(T, D\)"),
        ({"states": torch.zeros(3, 4)}, r"states: expected \(3, 5, 4\), got \(3, 4\)"),
        ({"states": torch.zeros(3, 5, 6)}, r"states: expected \(3, 5, 4\), got \(3, 5, 6\)"),
        ({"actions": torch.zeros(2, 5, 2)}, r"actions: expected \(3, 5, 2\), got \(2, 5, 2\)"),
        ({"returns_to_go": torch.zeros(3, 5, 2)}, r"returns_to_go: expected \(3, 5, 1\)"),
        ({"action_weight": torch.zeros(8, 2)}, r"action_weight: expected \(16, 2\), got \(8, 2\)"),
        ({"norm_bias": torch.zeros(15)}, r"norm_bias: expected \(16,\), got \(15,\)"),
        ({"state_bias": torch.zeros(16).half()}, r"state_bias: expected torch.float32 as timestep_table"),
        ({"actions": torch.zeros(3, 5, 2, device="meta")}, "actions: expected it on cpu as timestep_table"),
        ({"timesteps": torch.zeros(3, 5, device="meta").long()}, "timesteps: expected it on cpu"),
        ({"omit": 3}, "omit: expected 0 to 2, tokens of the last step, got 3"),
        ({"omit": -1}, "omit: expected 0 to 2"),
        ({"eps": 0.0}, "eps: expected a number above 0, got 0.0"),
        ({"backend": "cuda"}, "backend: expected one of triton, torch, reference or None, got 'cuda'"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(ValueError, match=words):
        embed_tokens(**(make_case() | change))


@pytest.mark.parametrize("name", OF_RETURNS)
def test_a_lonely_tensor_of_returns_is_refused(name):
    case = make_case(ORDERS[2]) | {name: make_case()[name]}
    with pytest.raises(ValueError, match=f"{name}: expected None as order has no 'return'"):
        embed_tokens(**case)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (torch.zeros(4, 257), "the kernels take tokens up to 256 wide, these are 257"),
        (torch.zeros(4, 16, dtype=torch.float64), "the kernels take float32, bfloat16 and float16"),
        (torch.zeros(4, 16, device="meta"), "tensors are on meta, not on a CUDA device"),
    ],
)
def test_the_kernels_say_why_not(table, words, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=f"backend: 'triton' cannot run, {words}"):
        choose_backend(table, "triton")
    assert choose_backend(table)[0] == "torch"
