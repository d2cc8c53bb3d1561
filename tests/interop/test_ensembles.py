"""Vectorised ensembles and stacks of torch.func: what refine takes as it is, and what load_critic adds."""

import copy
from itertools import pairwise

import pytest
import torch
from foreign_q import assert_climbs, assert_q, climbed, random_pairs
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import dtag_fast
from dtag_fast.interop import load_critic

S, A, H, E = 5, 3, 16, 4


class BatchedLinear(nn.Module):
    """(E, B, in) -> (E, B, out); how: the product."""

    def __init__(self, n, m, how):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(E, n, m) / n**0.5)
        self.bias = nn.Parameter(torch.randn(E, 1, m) / 4)
        self.how = how

    def forward(self, x):
        if self.how == "baddbmm":
            return torch.baddbmm(self.bias, x, self.weight)
        if self.how == "einsum":
            return torch.einsum("ebi,eio->ebo", x, self.weight) + self.bias
        return torch.bmm(x, self.weight) + self.bias


class Ensemble(nn.Module):
    """reduction: what it does with its members inside, None, "min" or "mean"."""

    def __init__(self, how="bmm", reduction=None, activation=nn.ReLU):
        super().__init__()
        widths = pairwise([S + A, H, H])
        hidden = [part for n, m in widths for part in (BatchedLinear(n, m, how), activation())]
        self.net = nn.Sequential(*hidden, BatchedLinear(H, 1, how))
        self.reduction = reduction

    def forward(self, states, actions):
        x = torch.cat([states, actions], -1)
        q = self.net(x.expand(E, *x.shape)).squeeze(-1)
        return {None: lambda: q, "min": lambda: q.amin(0), "mean": lambda: q.mean(0)}[self.reduction]()


def mlp(norm=False):
    parts = [
        [nn.Linear(n, m), *([nn.LayerNorm(m)] if norm else []), nn.Mish()] for n, m in pairwise([S + A, H, H])
    ]
    return nn.Sequential(*(layer for part in parts for layer in part), nn.Linear(H, 1))


def functional(norm=False, device="meta"):
    """(parameters, buffers, base) and its Q, as PyTorch's guide stacks modules."""
    members = [mlp(norm) for _ in range(E)]
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to(device)

    def q(states, actions):
        x = torch.cat([states, actions], -1)
        return vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers).squeeze(-1)

    return (parameters, buffers, base), q


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("how", ["bmm", "baddbmm", "einsum"])
def test_refine_takes_a_vectorised_module_as_it_is(how):
    module = Ensemble(how)
    states, actions = random_pairs(S, A)
    explained = dtag_fast.explain(module, states, actions)
    assert explained.lowered and explained.backend == "cpu", str(explained)
    assert f"{E} members" in explained.critic
    ours = dtag_fast.refine(module, states, actions, steps=4)
    torch.testing.assert_close(ours, climbed(module, states, actions, 4, 0.03), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.SiLU, nn.Tanh, lambda: nn.LeakyReLU(0.2)])
def test_load_critic_gives_its_members(activation):
    module = Ensemble(activation=activation)
    critic = load_critic(module, action_dim=A)
    assert len(critic.members) == E and critic.state_dim == S
    assert_q(critic, module)
    assert_climbs(critic, module)


def test_standardised_states_are_folded_in():
    module, mean, std = Ensemble(), torch.linspace(-1, 2, S), torch.linspace(0.5, 3, S)
    critic = load_critic(module, action_dim=A, state_mean=mean, state_std=std)
    q = lambda s, a: module((s - mean) / std, a)  # noqa: E731
    assert_q(critic, q)
    assert_climbs(critic, q)


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_a_module_that_reduces_its_members_keeps_its_reduction(reduction):
    module = Ensemble(reduction=reduction)
    critic = load_critic(module, action_dim=A)
    q = lambda s, a: module(s, a)[None]  # noqa: E731
    assert len(critic.members) == 1
    assert_q(critic, q)
    assert_climbs(critic, q)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_stack_of_torch_func_becomes_members(norm, device):
    stack, q = functional(norm, device)
    critic = load_critic(stack, action_dim=A)
    assert len(critic.members) == E
    assert_q(critic, q)
    assert_climbs(critic, q)


def test_a_list_of_modules_is_an_ensemble():
    members = [mlp(), mlp(norm=True)]
    critic = load_critic(members, action_dim=A)
    q = lambda s, a: torch.cat([m(torch.cat([s, a], -1)) for m in members], -1).T  # noqa: E731
    assert_q(critic, q)
    assert_climbs(critic, q)


@pytest.mark.parametrize("kind", ["vectorised", "torch.func", "torch.func, LayerNorm"])
def test_a_state_dict_of_stacked_layers_in_a_file(kind, tmp_path):
    if kind == "vectorised":
        q = Ensemble()
        state, activation = q.state_dict(), "relu"
    else:
        (state, _, _), q = functional("LayerNorm" in kind)
        activation = "mish"
    torch.save(dict(state), tmp_path / "critic.pt")
    critic = load_critic(tmp_path / "critic.pt", action_dim=A, activation=activation)
    assert_q(critic, q)
    assert_climbs(critic, q)


def test_weights_are_copies():
    module = Ensemble()
    critic = load_critic(module, action_dim=A)
    states, actions = random_pairs(S, A)
    before = torch.cat(critic(states, actions))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(torch.cat(critic(states, actions)), before)
    assert not any(parameter.requires_grad for parameter in critic.parameters())


def members_differ(parameters, buffers, base):
    return parameters | {"0.bias": parameters["0.bias"][:-1]}, buffers, base


def one_is_missing(parameters, buffers, base):
    return {name: x for name, x in parameters.items() if name != "0.bias"}, buffers, base


def other_base(parameters, buffers, base):
    return parameters, buffers, nn.Sequential(nn.Linear(S + A, H + 1), *base[1:])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (members_differ, "members along every first axis"),
        (one_is_missing, "'0.bias' differs"),
        (other_base, "0.weight: expected"),
    ],
)
def test_stacks_that_do_not_fit_their_module_are_refused(spoil, says):
    with pytest.raises(ValueError, match=says):
        load_critic(spoil(*functional()[0]), action_dim=A)


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, states, actions):
        return self.net(torch.cat([states, actions], -1)) ** 2


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (Ensemble, {}, "action_dim="),
        (Ensemble, {"action_dim": A, "activation": "relu"}, "leave activation out"),
        (Ensemble, {"action_dim": A, "norm": "after"}, "leave norm out"),
        (Ensemble, {"action_dim": A, "target": True}, "target module in its place"),
        (Ensemble, {"action_dim": 0}, "expected at least 1"),
        (Squared, {"action_dim": A}, "give it to refine as it is"),
        (nn.ReLU, {"action_dim": A}, "it has no parameters"),
    ],
)
def test_what_cannot_be_done_is_said(source, options, says):
    with pytest.raises(ValueError, match=says):
        load_critic(source(), **options)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("net.2.weight", (E, H, H + 1), "net.2"),
        ("net.2.weight", (E + 1, H, H), "members"),
        ("net.4.bias", (E, 1, 2), "net.4.bias"),
        ("net.4.weight", (H, 1), "a LayerNorm beside"),
    ],
)
def test_stacked_layers_that_do_not_fit_are_refused(name, shape, says):
    with pytest.raises(ValueError, match=says):
        load_critic(Ensemble().state_dict() | {name: torch.zeros(shape)}, action_dim=A)
