"""Lowering: critics as people write them become programs that equal them; the rest says why not."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from critic_zoo import ZOO, A, CleanRL, E, FunctionalStack, H, Normalised, Quantiles, S, mlp, stacked
from torch import nn

from dtag_fast import CriticProgram, explain, refine
from dtag_fast.ops.refine.critic import CriticCall
from dtag_fast.ops.refine.lowering import Lowered, lower
from dtag_fast.ops.refine.lowering.verify import value_and_slope
from dtag_fast.ops.refine.program import Activation, LayerNorm, Linear
from dtag_fast.ops.refine.reference import evaluate_program
from dtag_fast.ops.watch import Watch


def parts_of(critic):
    return tuple(critic) if isinstance(critic, list) else (critic,)


def randomise(parts):
    """Away from the tidy numbers of initialisation: norms have weights, statistics are not 0 and 1."""
    with torch.no_grad():
        for module in parts:
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor.add_(0.1 * torch.rand_like(tensor))


def lowered_of(critic):
    parts = parts_of(critic)
    call = CriticCall(parts, S, A)
    found = lower(parts, call, S, A)
    assert isinstance(found, Lowered), found
    return found, call


def program_of(found, dtype=None):
    tensors = [store[name] for store, name in found.slots]
    return found.build([t.detach() if dtype is None else t.detach().to(dtype) for t in tensors])


@pytest.mark.parametrize("name", ZOO)
def test_program_equals_module(name):
    torch.manual_seed(0)
    critic = ZOO[name]()
    randomise(parts_of(critic))
    found, call = lowered_of(critic)
    for rows in (1, 9):
        states, actions = torch.randn(rows, S), torch.rand(rows, A) * 2 - 1
        ours = value_and_slope(lambda s, a: evaluate_program(program_of(found), s, a), states, actions)
        theirs = value_and_slope(lambda s, a: call(parts_of(critic), s, a), states, actions)
        tolerance = 0.02 if call.dtype is torch.bfloat16 else 2e-5
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * float(y.abs().max()))


@pytest.mark.parametrize("name", ZOO)
def test_new_numbers_need_no_new_trace(name):
    """The same recipe, evaluated on changed parameters, equals the changed module."""
    torch.manual_seed(1)
    critic = ZOO[name]()
    found, call = lowered_of(critic)
    randomise(parts_of(critic))
    states, actions = torch.randn(4, S), torch.rand(4, A)
    q = evaluate_program(program_of(found), states, actions)
    expected = call(parts_of(critic), states, actions).detach().float()
    tolerance = 0.02 if call.dtype is torch.bfloat16 else 2e-5
    torch.testing.assert_close(q, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_structure_of_the_program():
    """Normalisation folds into the first layer and the scale of Q into the last: nothing is added."""
    found, _ = lowered_of(Normalised())
    (layers,) = program_of(found).members
    assert [type(layer) for layer in layers] == [Linear, Activation, Linear, Activation, Linear]
    found, _ = lowered_of(Quantiles())
    program = program_of(found)
    assert program.reduction == "min" and [layers[-1].weight.shape[0] for layers in program.members] == [1, 1]
    found, _ = lowered_of(FunctionalStack(norm=True))
    program = program_of(found)
    assert len(program.members) == E and program.reduction is None
    assert [type(layer) for layer in program.members[0]] == [Linear, LayerNorm, Activation] * 2 + [Linear]


def test_plain_weights_are_not_copied_or_recomputed():
    critic = mlp(S + A, H, 1)
    found, _ = lowered_of(critic)
    (layers,) = program_of(found).members
    assert layers[0].weight.data_ptr() == critic[0].weight.data_ptr()
    assert layers[-1].bias.data_ptr() == critic[2].bias.data_ptr()


class StateEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.s, self.out = mlp(S, H, H), mlp(H + A, H, 1)

    def forward(self, state, action):
        return self.out(torch.cat([F.relu(self.s(state)), action], -1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(S + A, H), nn.Linear(H, H), nn.Linear(H, 1)

    def forward(self, state, action):
        h = F.relu(self.a(torch.cat([state, action], -1)))
        return self.c(h + F.relu(self.b(h)))


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.s, self.a = nn.Linear(S, H), nn.Linear(A, H)

    def forward(self, state, action):
        return (self.s(state) * self.a(action)).sum(-1)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(S + A, H, 1)

    def forward(self, state, action):
        q = self.net(torch.cat([state, action], -1))
        return q * 2 if q.mean() > 0 else q


class MixesRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(S + A, H, 1)

    def forward(self, state, action):
        q = self.net(torch.cat([state, action], -1))
        return q - q.mean()


class DetachedAction(nn.Module):
    """Half of the action carries no gradient: the values agree with a program, the gradients do not."""

    def __init__(self):
        super().__init__()
        self.net = mlp(S + A, H, 1)

    def forward(self, state, action):
        action = torch.cat([action[:, :1].detach(), action[:, 1:]], -1)
        return self.net(torch.cat([state, action], -1))


FALLBACKS = {
    "encoded state": (StateEncoder, "different depth"),
    "residual": (Residual, "skip connection"),
    "bilinear": (Bilinear, "multiplies features with features"),
    "data-dependent": (DataDependent, "cannot be traced"),
    "mixes rows": (MixesRows, "rows of the batch"),
    "detached action": (DetachedAction, "differs from the module"),
    "sigmoid": (lambda: mlp(S + A, H, 1, activation=nn.Sigmoid), "aten.sigmoid"),
    "clipped state": (lambda: stacked(nn.Hardtanh(-5, 5), mlp(S + A, H, 1)), "aten.hardtanh"),
    "too deep": (lambda: mlp(S + A, *[4] * 8, 1), "limit of 8"),
    "too wide": (lambda: mlp(S + A, 2049, 1), "limit of 2048"),
    "dropout": (lambda: stacked(nn.Linear(S + A, H), nn.Dropout(0.5), nn.Linear(H, 1)), "critic.eval()"),
    "functional dropout": (
        lambda: type(
            "D", (CleanRL,), {"forward": lambda m, s, a: F.dropout(CleanRL.forward(m, s, a), 0.3)}
        )(),
        "critic.eval()",
    ),
    "spectral norm in training": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(S + A, 1)),
        "critic.eval()",
    ),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_does_not_lower_says_why(name):
    torch.manual_seed(0)
    make, reason = FALLBACKS[name]
    critic = make()
    call = CriticCall((critic,), S, A)
    found = lower((critic,), call, S, A)
    assert isinstance(found, str) and reason in found
    states, actions = torch.randn(4, S), torch.rand(4, A)
    with pytest.warns(RuntimeWarning, match="autograd reference"):
        refined = refine(critic, states, actions)
    assert refined.shape == actions.shape
    assert reason in str(explain(critic, states, actions))
    with pytest.raises(ValueError, match="backend: 'cpu' cannot run this call"):
        refine(critic, states, actions, backend="cpu")


def test_limits_of_the_inputs():
    critic = nn.Linear(4097 + A, 1)
    assert "limit of 4096" in lower((critic,), CriticCall((critic,), 4097, A), 4097, A)
    critic = nn.Linear(S + 257, 1)
    assert "limit of 256" in lower((critic,), CriticCall((critic,), S, 257), S, 257)


def test_widest_inputs_lower():
    critic = nn.Sequential(nn.Linear(4096 + 256, 8), nn.ReLU(), nn.Linear(8, 1))
    found = lower((critic,), CriticCall((critic,), 4096, 256), 4096, 256)
    assert isinstance(found, Lowered)


def test_captured_tensors_are_watched():
    """A tensor that is a plain attribute counts as a parameter: changing it in place is noticed."""
    critic = Normalised()
    found, call = lowered_of(critic)
    watch = Watch(found.slots)
    watch.accept(watch.snapshot())
    assert not watch.changed()
    critic.low.mul_(2)
    assert watch.changed()
    states, actions = torch.randn(4, S), torch.rand(4, A)
    q = evaluate_program(program_of(found), states, actions)
    torch.testing.assert_close(q, call((critic,), states, actions).detach(), rtol=1e-5, atol=1e-5)


def test_modes_are_lowered_apart():
    critic = stacked(nn.Linear(S + A, H), nn.Dropout(0.5), nn.Linear(H, 1))
    states, actions = torch.randn(4, S), torch.rand(4, A)
    for training in (True, False, True):
        critic.train(training)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            text = str(explain(critic, states, actions))
        assert ("critic.eval()" in text) == training


def test_program_given_by_the_user():
    weight, bias = torch.randn(1, S + A), torch.randn(1)
    program = CriticProgram(S, A, [[Linear(weight, bias)]])
    states, actions = torch.randn(4, S), torch.rand(4, A)
    refined = refine(program, states, actions, steps=3, lr=0.1, backend="torch")
    torch.testing.assert_close(refined, (actions + 0.3 * weight[:, S:]).clamp(-1, 1))
