"""The compiled networks with LayerNorm against PyTorch's operators in float64."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from dtag_fast.models import TwinCritic
from dtag_fast.models.critics import Networks, ValueNet
from dtag_fast.models.normalizer import InputNormalizer
from dtag_fast.ops.mlp import Norm, cpu, mlp, reference, why_not

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
ISAS = [*_C.isas(), "emulated512"]
ACTIVATIONS = ["relu", "elu", "gelu", "silu", "mish", "tanh"]
# inputs, hidden layers, outputs; members; rows: as in test_mlp.py, and a layer of a single unit
SHAPES = [
    ((23, 256, 256, 1), 2, 256),
    ((5, 33, 7, 3), 3, 50),
    ((1, 1, 1), 1, 1),
    ((4, 9, 1, 6), 2, 13),
    ((40, 64, 17), 1, 97),
    ((3, 130, 5), 2, 64),
    ((6, 16, 16, 2), 1, 1),
]


def networks(widths, members: int, eps: float = 1e-5):
    torch.manual_seed(0)

    def norm(width):
        return Norm(nn.Parameter(0.5 + torch.rand(width)), nn.Parameter(0.5 * torch.randn(width)), eps)

    found = []
    for _ in range(members):
        linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
        layers = [(m.weight, m.bias, norm(m.out_features)) for m in linear[:-1]]
        found.append([*layers, (linear[-1].weight, linear[-1].bias)])
    return found


def mapped(nets, function):
    """Networks with `function` of each of their tensors."""

    def layer(weight, bias, *norm):
        return (function(weight), function(bias), *[Norm(function(n[0]), function(n[1]), n[2]) for n in norm])

    return [[layer(*parts) for parts in network] for network in nets]


def flat(nets):
    found: list[torch.Tensor] = []
    mapped(nets, found.append)
    return found


def close(ours, exact):
    # of a single unit, which its LayerNorm makes zero, gradients are zero or rounding
    atol = 1e-6 + 3e-5 * exact.abs().max().item()
    assert torch.allclose(ours.double(), exact.double(), rtol=3e-4, atol=atol)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("widths", "members", "rows"), SHAPES)
def test_matches_the_operators(isa, activation, widths, members, rows):
    nets = networks(widths, members, eps=1e-3)
    x = torch.randn(rows, widths[0], requires_grad=True)
    ours = cpu.mlp(x, nets, activation, isa=isa)
    exact = reference(x.double(), mapped(nets, torch.Tensor.double), activation)
    weight = torch.randn_like(ours)
    close(ours, exact)
    asked = [x, *flat(nets)]
    assert len(asked) == 1 + members * (4 * (len(widths) - 2) + 2)
    found = torch.autograd.grad((ours * weight).sum(), asked)
    for one, other in zip(found, torch.autograd.grad((exact * weight).sum(), asked), strict=True):
        close(one, other)


@pytest.mark.parametrize("eps", [(1e-5, 1e-5), (0.3, 1e-3)])
def test_rows_of_two_parts_standardised_and_eps_by_layer(eps):
    nets = [
        [(*layer[:2], *[n._replace(eps=eps[i]) for n in layer[2:]]) for i, layer in enumerate(network)]
        for network in networks((7, 20, 12, 2), 2)
    ]
    torch.manual_seed(1)
    block = torch.randn(30, 9)
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    found = []
    for backend in ("compiled", "reference"):
        x, extra = block[:, 1:5].detach(), block[:, 5:8].detach()
        x.requires_grad_(), extra.requires_grad_()
        out = mlp(x, nets, "silu", extra=extra, mean=mean, std=std, backend=backend)
        found.append((out, *torch.autograd.grad(out.square().sum(), [x, extra, *flat(nets)])))
    for one, other in zip(*found, strict=True):
        close(one, other)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normed", [True, False])
def test_bits_do_not_depend_on_whether_a_way_back_is_kept(isa, activation, normed):
    nets, x = networks((5, 40, 7, 17, 1), 2), torch.randn(77, 5)
    nets = nets if normed else [[layer[:2] for layer in network] for network in nets]
    with torch.no_grad():
        alone = cpu.mlp(x, nets, activation, isa=isa)
    assert torch.equal(alone, cpu.mlp(x, nets, activation, isa=isa).detach())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("widths", [(23, 128, 96, 6), (23, 33, 1)])
def test_bits_depend_neither_on_threads_nor_on_other_rows(isa, widths):
    nets, x = networks(widths, 2), torch.randn(500, 23, requires_grad=True)
    before = torch.get_num_threads()

    def run(rows):
        out = cpu.mlp(rows, nets, "gelu", isa=isa)
        return [out, *torch.autograd.grad(out.square().sum(), [rows, *flat(nets)])]

    try:
        torch.set_num_threads(1)
        alone = run(x)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(alone, run(x), strict=True))
    finally:
        torch.set_num_threads(before)
    for rows in (slice(0, 1), slice(7, 20), slice(100, 500)):
        part = x[rows].detach().requires_grad_()
        out = cpu.mlp(part, nets, "gelu", isa=isa)
        assert torch.equal(out, alone[0][:, rows])
        assert torch.equal(torch.autograd.grad(out.square().sum(), part)[0], alone[1][rows])


def test_what_stands_in_memory_before_does_not_matter():
    """The sums behind the gradients of LayerNorm lie in memory that other calls have left full of numbers."""
    nets, x = networks((4, 40, 1), 1), torch.randn(100, 4)
    first = torch.autograd.grad(mlp(x, nets, "relu").sum(), flat(nets))
    large = networks((4, 300, 1), 2)
    torch.autograd.grad(mlp(torch.full((500, 4), torch.nan), large, "relu").sum(), flat(large))
    again = torch.autograd.grad(mlp(x, nets, "relu").sum(), flat(nets))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_only_what_is_asked_for_gets_a_gradient():
    nets, x = networks((4, 8, 1), 1), torch.randn(9, 4, requires_grad=True)
    frozen = mapped(nets, torch.Tensor.detach)
    (alone,) = torch.autograd.grad(mlp(x, frozen, "tanh").sum(), x)
    (with_others, *_) = torch.autograd.grad(mlp(x, nets, "tanh").sum(), [x, *flat(nets)])
    assert torch.equal(alone, with_others)
    scale = frozen[0][0][2].weight.requires_grad_()
    mlp(x.detach(), frozen, "tanh").sum().backward()
    (expected,) = torch.autograd.grad(reference(x.detach(), frozen, "tanh").sum(), scale)
    close(scale.grad, expected)
    assert all(p.grad is None for p in flat(frozen) if p is not scale)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_spoils_no_other(value):
    nets, x = networks((4, 8, 1), 1), torch.randn(9, 4)
    clean = mlp(x, nets, "relu")[0, :, 0]
    x[3, 1] = value
    out = mlp(x, nets, "relu")[0, :, 0]
    assert out.isnan().tolist() == [row == 3 for row in range(9)]
    others = torch.arange(9) != 3
    assert torch.equal(out[others], clean[others])


def test_rows_whose_units_are_all_equal():
    """Nothing but eps under the root."""
    nets, x = networks((4, 8, 2), 1), torch.zeros(3, 4, requires_grad=True)
    nets[0][0][1].data.fill_(0.7)
    found = []
    for backend in ("compiled", "reference"):
        out = mlp(x, nets, "elu", backend=backend)
        found.append((out, *torch.autograd.grad(out.sum(), [x, *flat(nets)])))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)  # 1 / sqrt(eps) magnifies the last bits


def test_second_derivatives():
    nets, x, extra = networks((6, 8, 2), 2), torch.randn(9, 4, requires_grad=True), torch.randn(9, 2)
    found = []
    for backend in ("compiled", "reference"):
        out = mlp(x, nets, "tanh", extra=extra, backend=backend)
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [x, *flat(nets)], allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            close(one, other)


def test_norms_that_the_compiled_one_does_not_take():
    x = torch.randn(5, 4)
    (first, second), (other_first, other_second) = networks((4, 8, 1), 2)
    wide = networks((4, 8, 8, 1), 1)[0]
    for nets in (
        [[wide[0], wide[1][:2], wide[2]]],  # after the first of two
        [[first[:2], second], [other_first, other_second]],  # in one network alone
        [[first, (*second, Norm(torch.ones(1), torch.zeros(1)))]],  # after the last layer
        [[first, second], [(*first[:2], first[2]._replace(eps=1.0)), other_second]],  # another eps
    ):
        assert "LayerNorms other than one after every hidden layer" in why_not(x, nets)
        with pytest.raises(ValueError, match="backend: compiled does not do this: LayerNorms other than"):
            mlp(x, nets, "relu", backend="compiled")
    after_last = mlp(x, [[first, (*second, Norm(torch.ones(1), torch.full((1,), 2.0)))]], "relu")
    assert torch.equal(after_last, torch.full((1, 5, 1), 2.0))
    double = [[(*first[:2], Norm(torch.ones(8, dtype=torch.float64), torch.zeros(8))), second]]
    assert "float32" in why_not(x, double)
    with pytest.raises(
        ValueError, match=r"expected a LayerNorm of \(8,\), as wide as its layer, got a weight"
    ):
        mlp(x, [[(*first[:2], Norm(torch.ones(7), torch.zeros(8))), second]], "relu")


def test_critics_with_it_take_the_compiled_networks_and_say_so():
    states, actions = torch.randn(6, 5), torch.randn(6, 2)
    for model, inputs in (
        (TwinCritic(5, 2, (16, 24), members=3, layer_norm=True), (states, actions)),
        (ValueNet(5, (16, 8), layer_norm=True, activation="mish"), (states,)),
    ):
        for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1.0, 0.3), nn.init.normal_(norm.bias, 0.0, 0.3)
        assert model.explain() == "networks: compiled, one call forwards and one backwards"
        parameters = list(model.parameters())
        ours = torch.stack(tuple(model(*inputs)))
        found = torch.autograd.grad(ours.square().sum(), parameters)
        hook = next(m for m in model.modules() if isinstance(m, nn.LayerNorm)).register_forward_hook(
            lambda *_: None
        )
        assert "hooks" in model.explain()
        by_operators = torch.stack(tuple(model(*inputs)))
        close(ours, by_operators)
        expected = torch.autograd.grad(by_operators.square().sum(), parameters)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
        hook.remove()


def test_a_critic_with_it_that_is_climbed_gives_its_parameters_nothing():
    critic, states = TwinCritic(5, 2, (16,), layer_norm=True), torch.randn(6, 5)
    found = []
    for call in (critic, critic.climbed):
        actions = torch.ones(6, 2, requires_grad=True)
        q = torch.stack(call(states, actions))
        found.append((q, *torch.autograd.grad(q.square().sum(), actions)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    torch.stack(critic.climbed(states, actions)).sum().backward()
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([nn.Linear(3, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 1)], "not right after a linear layer"),
        ([nn.LayerNorm(3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)], "not right after a linear layer"),
        (
            [nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False), nn.ReLU(), nn.Linear(4, 1)],
            "without weight and bias",
        ),
        (
            [nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)],
            "after every hidden layer",
        ),
    ],
)
def test_other_orders_of_layers_go_operator_by_operator(modules, reason):
    networks = Networks([modules], "relu", InputNormalizer(3))
    x = torch.randn(2, 3)
    assert networks.explain(x).startswith("networks: operator by operator (") and reason in networks.explain(
        x
    )
    assert networks(x) is None


def test_wrong_arguments_of_the_binding_are_named():
    made = {"widths": [3, 4, 2], "members": 2, "activation": "relu", "threads": lambda: 1}
    with pytest.raises(ValueError, match=r"norm_eps: expected one for each of the 1 hidden layers.*got 2"):
        _C.Mlp(**made, norm_eps=[1e-5, 1e-5])
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="norm_eps: expected a number in"):
            _C.Mlp(**made, norm_eps=[wrong])
    compiled = _C.Mlp(**made, norm_eps=[1e-5])
    assert compiled.normed and compiled.keeps_before
    assert not _C.Mlp(**made).normed
    x, rstd, out = (torch.zeros(64) for _ in range(3))
    hidden, before = torch.zeros(compiled.hidden_size(5)), torch.zeros(compiled.hidden_size(5))
    inputs = torch.zeros(5, compiled.padded_in)
    four = [x.data_ptr()] * 4

    def forward(**changes):
        given = {"before": before.data_ptr(), "rstd": rstd.data_ptr(), "scales": four[:2], "shifts": four[:2]}
        compiled.forward(
            rows=5, weights=four, biases=four, x=x.data_ptr(), x_stride=3, extra=0, extra_stride=0,
            extra_width=0, mean=0, std=0, in_=inputs.data_ptr(), hidden=hidden.data_ptr(),
            out=out.data_ptr(), **given | changes,
        )  # fmt: skip

    forward()
    forward(before=0, rstd=0)  # nothing will come back
    with pytest.raises(ValueError, match="scales: expected the addresses of 2 arrays, got 0"):
        forward(scales=[])
    with pytest.raises(ValueError, match="shifts: expected an address, got none"):
        forward(shifts=[0, four[0]])
    with pytest.raises(ValueError, match="rstd: expected an address, got none"):
        forward(rstd=0)
