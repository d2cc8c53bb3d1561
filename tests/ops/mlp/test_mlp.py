"""The compiled networks against PyTorch's operators: every instruction set, shape and activation."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from dtag_fast.models import TwinCritic
from dtag_fast.models.critics import ValueNet
from dtag_fast.models.policies import DeterministicPolicy
from dtag_fast.ops.mlp import cpu, mlp, reference, why_not
from dtag_fast.ops.mlp.api import MOST_ROWS

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
ISAS = [*_C.isas(), "emulated512"]
ACTIVATIONS = ["relu", "elu", "gelu", "silu", "mish", "tanh"]
# inputs, hidden layers, outputs; members; rows: widths that fill no panel and no vector, no hidden layer,
# outputs that are summed along rows and outputs in panels, a single row
SHAPES = [
    ((23, 256, 256, 1), 2, 256),
    ((5, 33, 7, 3), 3, 50),
    ((1, 1, 1), 1, 1),
    ((4, 6), 2, 13),
    ((40, 64, 17), 1, 97),
    ((3, 130, 5), 2, 64),
]


def networks(widths, members: int, dtype=torch.float32):
    torch.manual_seed(0)
    layers = [[nn.Linear(a, b, dtype=dtype) for a, b in pairwise(widths)] for _ in range(members)]
    return [[(layer.weight, layer.bias) for layer in network] for network in layers]


def flat(nets):
    return [p for network in nets for layer in network for p in layer]


def close(ours, exact):
    assert torch.allclose(ours.double(), exact.double(), rtol=2e-4, atol=2e-5 * exact.abs().max().item())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("widths", "members", "rows"), SHAPES)
def test_matches_the_operators(isa, activation, widths, members, rows):
    nets = networks(widths, members)
    x = torch.randn(rows, widths[0], requires_grad=True)
    ours = cpu.mlp(x, nets, activation, isa=isa)
    exact_nets = [[(w.double(), b.double()) for w, b in network] for network in nets]
    exact = reference(x.double(), exact_nets, activation)
    weight = torch.randn_like(ours)
    close(ours, exact)
    asked = [x, *flat(nets)]
    found = torch.autograd.grad((ours * weight).sum(), asked)
    for one, other in zip(found, torch.autograd.grad((exact * weight).sum(), asked), strict=True):
        close(one, other)


def test_rows_of_two_parts_standardised():
    nets = networks((7, 20, 2), 2)
    torch.manual_seed(1)
    block = torch.randn(30, 9)  # columns of a gathered block, as samplers give them
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    for backend in ("compiled", "reference"):
        x, extra = block[:, 1:5].detach(), block[:, 5:8].detach()
        x.requires_grad_(), extra.requires_grad_()
        out = mlp(x, nets, "silu", extra=extra, mean=mean, std=std, backend=backend)
        grads = torch.autograd.grad(out.square().sum(), [x, extra, *flat(nets)])
        if backend == "compiled":
            first = out, grads
    close(first[0], out)
    for one, other in zip(first[1], grads, strict=True):
        close(one, other)


@pytest.mark.parametrize("leading", [(4, 5), (7,), ()])
def test_leading_axes(leading):
    nets, x, extra = networks((6, 12, 2), 3), torch.randn(*leading, 4), torch.randn(*leading, 2)
    out = mlp(x, nets, "relu", extra=extra)
    assert out.shape == (3, *leading, 2)
    close(out, mlp(x, nets, "relu", extra=extra, backend="reference"))


@pytest.mark.parametrize("isa", ISAS)
def test_bits_depend_neither_on_threads_nor_on_other_rows(isa):
    nets, x = networks((23, 128, 96, 6), 2), torch.randn(500, 23)
    before = torch.get_num_threads()

    def run(rows):
        out = cpu.mlp(rows, nets, "gelu", isa=isa)
        return [out, *torch.autograd.grad(out.square().sum(), flat(nets))]

    try:
        torch.set_num_threads(1)
        alone = run(x)
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(alone, run(x), strict=True))
    finally:
        torch.set_num_threads(before)
    for rows in (slice(0, 1), slice(7, 20), slice(100, 500)):
        assert torch.equal(cpu.mlp(x[rows], nets, "gelu", isa=isa), alone[0][:, rows])


def test_only_what_is_asked_for_gets_a_gradient():
    nets, x = networks((4, 8, 1), 1), torch.randn(9, 4, requires_grad=True)
    frozen = [[(w.detach(), b.detach()) for w, b in network] for network in nets]
    mlp(x, frozen, "tanh").sum().backward()
    assert x.grad is not None
    mlp(x.detach(), nets, "tanh").sum().backward()
    assert all(p.grad is not None for p in flat(nets))
    assert not mlp(x.detach(), frozen, "tanh").requires_grad
    with torch.no_grad():
        assert not mlp(x, nets, "tanh").requires_grad


def test_nan_goes_through():
    nets, x = networks((4, 8, 1), 1), torch.randn(9, 4)
    x[3, 1] = torch.nan
    out = mlp(x, nets, "relu")[0, :, 0]
    assert out.isnan().tolist() == [row == 3 for row in range(9)]


def test_second_derivatives():
    nets, x, extra = networks((6, 8, 2), 2), torch.randn(9, 4, requires_grad=True), torch.randn(9, 2)
    found = []
    for backend in ("compiled", "reference"):
        out = mlp(
            x, nets, "tanh", extra=extra, mean=torch.ones(4), std=torch.full((4,), 2.0), backend=backend
        )
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [x, *flat(nets)[:-1]]))
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_where_the_compiled_one_steps_back():
    nets, x = networks((4, 8, 1), 1), torch.randn(9, 4)
    assert why_not(x, nets) is None
    assert "float32" in why_not(x.double(), networks((4, 8, 1), 1, torch.float64))
    assert "float32" in why_not(x, networks((4, 8, 1), 1, torch.float64))
    assert "rows" in why_not(x[:0], nets)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in why_not(x, nets)
    reasons = []
    torch.vmap(lambda row: reasons.append(why_not(row[None], nets)) or row)(x)
    assert "torch.func" in reasons[0]
    with pytest.raises(ValueError, match="backend: compiled does not do this"):
        mlp(x.double(), networks((4, 8, 1), 1, torch.float64), "relu", backend="compiled")
    assert mlp(x[:0], nets, "relu").shape == (1, 0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "softplus"}, "activation: expected one of relu"),
        ({"networks": []}, "networks: expected at least one"),
        ({"networks": networks((5, 8, 1), 1)}, "networks: expected a weight of"),
        ({"networks": networks((4, 8, 1), 1) + networks((4, 9, 1), 1)}, "of the shape of the first"),
        ({"mean": torch.zeros(4)}, "mean, std"),
        ({"extra": torch.zeros(3, 1)}, "extra: expected"),
        ({"backend": "triton"}, "backend: expected compiled"),
    ],
)
def test_refusals(change, message):
    given = {"networks": networks((4, 8, 1), 1), "activation": "relu"} | change
    with pytest.raises(ValueError, match=message):
        mlp(torch.randn(9, 4), given.pop("networks"), given.pop("activation"), **given)


def test_models_take_it_and_say_so():
    states, actions = torch.randn(6, 5), torch.randn(6, 2)
    for model, inputs in (
        (TwinCritic(5, 2, (16,), members=3), (states, actions)),
        (ValueNet(5, (16, 8), activation="mish"), (states,)),
    ):
        assert model.explain() == "networks: compiled, one call forwards and one backwards"
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        called: list[bool] = []
        hook = layers[0].register_forward_hook(lambda *_, called=called: called.append(True))
        assert "hooks" in model.explain()
        hooked = model(*inputs)
        assert called
        hook.remove()
        for one, other in zip(model(*inputs), hooked, strict=True):
            close(one, other)
    assert "float64" in TwinCritic(5, 2, (16,)).double().explain()
    policy = DeterministicPolicy(5, 2, (16,), dropout=0.5).eval()
    close(policy.act(states), policy.double().act(states.double()))


def test_a_models_row_does_not_depend_on_the_batch():
    policy, states = DeterministicPolicy(5, 2).eval(), torch.randn(70, 5)
    together = policy.act(states)
    assert all(torch.equal(policy.act(states[i : i + 1])[0], together[i]) for i in (0, 33, 69))


def test_a_critic_that_is_climbed_gives_its_parameters_nothing():
    critic, states = TwinCritic(5, 2, (16,)), torch.randn(6, 5)
    found = []
    for call in (critic, critic.climbed):
        actions = torch.ones(6, 2, requires_grad=True)
        q = torch.stack(call(states, actions))
        found.append((q, *torch.autograd.grad(q.square().sum(), actions)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    torch.stack(critic.climbed(states, actions)).sum().backward()
    assert all(p.grad is None for p in critic.parameters())


def test_many_rows_with_gradients_go_by_operators():
    nets = networks((4, 8, 1), 1)
    many = torch.randn(MOST_ROWS + 1, 4)
    assert "caches" in why_not(many, nets)
    with torch.no_grad():
        assert why_not(many, nets) is None


def test_wrong_arguments_of_the_binding_are_named():
    """Addresses and threads, as every binding takes them."""

    def mlp(threads=lambda: 1, **changes):
        return _C.Mlp(**{"widths": [3, 4, 2], "members": 1, "activation": "relu"} | changes, threads=threads)

    def forward(mlp, weights, rows=5):
        x, w = torch.zeros(8, 8), torch.zeros(64)
        hidden, out = torch.zeros(mlp.hidden_size(rows)), torch.zeros(64)
        addresses = [w.data_ptr()] * 2 if weights is None else weights
        inputs = torch.zeros(rows, mlp.padded_in)
        mlp.forward(
            rows, addresses, [w.data_ptr()] * 2, x.data_ptr(), 8, 0, 0, 0, 0, 0, inputs.data_ptr(),
            hidden.data_ptr(), 0, out.data_ptr(),
        )  # fmt: skip

    forward(mlp(), None)
    with pytest.raises(TypeError, match="threads: expected a function that tells how many to use"):
        mlp(threads=3)
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        forward(mlp(threads=lambda: 0), None)
    with pytest.raises(ValueError, match="weights: expected the addresses of 2 arrays, got 1"):
        forward(mlp(), [64])
    with pytest.raises(ValueError, match="weights: expected an address, got none"):
        forward(mlp(), [0, 64])
    with pytest.raises(ValueError, match="weights: address is not aligned to 4 bytes"):
        forward(mlp(), [65, 64])
    with pytest.raises(ValueError, match="widths: expected those of inputs, hidden layers and outputs"):
        mlp(widths=[3])
    with pytest.raises(ValueError, match=r'activation: expected one of "relu".*got "sine"'):
        mlp(activation="sine")
