"""Critics of other libraries in run folders: the numbers that go in come out, and are used as others are."""

import d3rlpy_files
import numpy as np
import pytest
import torch
from d3rlpy_files import part, write_d3
from exported_policies import make_policy
from torch import nn

from dtag_fast import explain
from dtag_fast.interop import convert_critic, from_pretrained, load_critic, save_pretrained
from dtag_fast.models.foreign_critic import ForeignCritic, Scaling
from dtag_fast.models.plain_layers import Reduced, TruncatedMean, build_layers, describe_layers
from dtag_fast.models.registry import build, describe
from dtag_fast.training import load_critic as load_run

ENV_ID = "InvertedPendulum-v5"  # S 4, A 1, actions in [-3, 3]
S, A = 4, 1
SCALING = Scaling(
    state_shift=[1.0, -2.0, 0.5, 0.0],
    state_scale=[2.0, 0.5, 1.0, 3.0],
    action_shift=0.3,
    action_scale=1.5,
    q_scale=2.0,
    q_shift=-1.0,
)
BOUNDS = (np.full(A, -1.2, np.float32), np.full(A, 1.8, np.float32))


def layers(*parts: nn.Module, outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(S + A, 8), *parts, nn.Linear(8, outputs))


MEMBERS = {
    "twin": lambda: [layers(nn.ReLU()), layers(nn.ReLU())],
    "norms": lambda: [layers(nn.LayerNorm(8, 1e-6), nn.ELU(0.7)), layers(nn.LayerNorm(8, bias=False))],
    "kinds": lambda: [
        nn.Sequential(nn.Linear(S + A, 8, bias=False), nn.LeakyReLU(0.2), nn.Linear(8, 1)),
        layers(nn.GELU("tanh"), nn.LayerNorm(8, elementwise_affine=False), nn.Softplus(2.0, 5.0)),
        layers(nn.SiLU(), nn.Mish(), nn.Tanh(), nn.Identity()),
    ],
    "reduced": lambda: [Reduced([layers(nn.ReLU()), layers(nn.Tanh())], "max")],
    "truncated": lambda: [TruncatedMean([layers(nn.ReLU(), outputs=5), layers(nn.ReLU(), outputs=5)], 7)],
}


def made(kind: str, scaling: Scaling | None = SCALING) -> ForeignCritic:
    torch.manual_seed(0)
    return ForeignCritic(MEMBERS[kind](), "a library", S, A, scaling, BOUNDS)


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, S, generator=generator), torch.randn(9, A, generator=generator)


def assert_same(found: nn.Module, critic: nn.Module):
    assert [type(q) for q in found(*inputs())] == [type(q) for q in critic(*inputs())]
    assert all(torch.equal(q, p) for q, p in zip(found(*inputs()), critic(*inputs()), strict=True))


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_description_and_the_numbers_give_the_critic(kind):
    critic = made(kind)
    found = build(describe(critic))
    found.load_state_dict(critic.state_dict())
    assert_same(found, critic)
    assert found.source == "a library" and found.config == critic.config
    assert all(np.array_equal(b, w) for b, w in zip(found.bounds, BOUNDS, strict=True))


@pytest.mark.parametrize("target", [False, True])
def test_a_file_becomes_a_run_that_gives_its_q(target, tmp_path):
    path = write_d3(tmp_path / "model.d3", d3rlpy_files.states(), described())
    done = convert_critic(path, tmp_path / "run", env_id="test/Pair-v0", target=target)
    critic, info = load_run(tmp_path / "run")
    s, a = torch.randn(5, d3rlpy_files.S), torch.rand(5, d3rlpy_files.A)
    expected = load_critic(path, target=target)(s, a)
    assert all(torch.equal(q, p) for q, p in zip(critic(s, a), expected, strict=True))
    assert (info.kind, info.algorithm, info.env_id) == ("critic", "d3rlpy sac", "test/Pair-v0")
    assert info.action_low == [-2.0, 0.0] and done.info == info
    assert "backend cpu" in str(explain(critic, s))


def described():
    return d3rlpy_files.config(
        observation_scaler=part(
            "standard", mean=[0.5] * d3rlpy_files.S, std=[2.0] * d3rlpy_files.S, eps=1e-3
        ),
        action_scaler=part("min_max", minimum=[-2.0, 0.0], maximum=[2.0, 0.5]),
    )


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """An environment of the sizes of those files."""
    import gymnasium
    from gymnasium import spaces

    class Pair(gymnasium.Env):
        observation_space = spaces.Box(-np.inf, np.inf, (d3rlpy_files.S,))
        action_space = spaces.Box(-5.0, 5.0, (d3rlpy_files.A,))

    gymnasium.register("test/Pair-v0", Pair)
    yield
    gymnasium.registry.pop("test/Pair-v0")


def test_bounds_of_the_environment_where_the_source_has_none(tmp_path):
    path = write_d3(tmp_path / "model.d3")
    assert convert_critic(path, tmp_path / "run", env_id="test/Pair-v0").info.action_high == [5.0, 5.0]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({}, ValueError, "data, env_id: expected one of them, got neither"),
        ({"env_id": ENV_ID}, ValueError, r"env_id: expected \(state_dim, action_dim\) = .* got \(4, 1\)"),
        ({"env_id": "CartPole-v1"}, ValueError, "has the action space Discrete"),
        ({"env_id": "test/Pair-v0", "state_eps": 1e-3}, ValueError, "state_eps: expected together with data"),
    ],
)
def test_what_does_not_go_together_leaves_nothing(arguments, error, sentence, tmp_path):
    path = write_d3(tmp_path / "model.d3")
    with pytest.raises(error, match=sentence):
        convert_critic(path, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(tmp_path):
    path = write_d3(tmp_path / "model.d3")
    convert_critic(path, tmp_path / "run", env_id="test/Pair-v0")
    with pytest.raises(FileExistsError, match="is not empty"):
        convert_critic(path, tmp_path / "run", env_id="test/Pair-v0")


def test_a_critic_in_memory_stands_beside_a_policy_in_a_pretrained_folder(tmp_path):
    policy = make_policy("dt")
    sizes = policy.info.state_dim, policy.info.action_dim
    members = [nn.Sequential(nn.Linear(sum(sizes), 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2)]
    critic = ForeignCritic(members, "a library", *sizes, Scaling(q_scale=3.0))
    save_pretrained(policy, tmp_path / "folder", critic=critic)
    found = from_pretrained(tmp_path / "folder").critic
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "a critic, trained by `a library`, with which" in card and "for 0 updates" not in card
    s, a = torch.randn(4, sizes[0]), torch.randn(4, sizes[1])
    assert all(torch.equal(q, p) for q, p in zip(found.critic(s, a), critic(s, a), strict=True))
    assert found.info.action_high == policy.info.action_high
    with pytest.raises(ValueError, match=r"critic: expected the policy's \(state_dim, action_dim\)"):
        save_pretrained(policy, tmp_path / "other", critic=made("twin"))


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("relu", "expected a list or a dict, got str"),
        ([{"kind": "conv"}], "expected linear, layer_norm, an activation or members, got 'conv'"),
        ([{"kind": "linear", "inputs": 0, "outputs": 1}], "inputs: expected a whole number above 0, got 0"),
        ([{"kind": "linear", "inputs": 1 << 20, "outputs": 1 << 20}], "expected at most"),
        ([{"kind": "elu", "beta": 1.0}], "elu: missing or foreign"),
        ([{"kind": "linear", "inputs": 2, "outputs": 1, "weight": 3}], "linear: missing or foreign"),
        ({"kind": "reduced", "reduction": "sum", "members": []}, "got 'reduced'"),
        ({"kind": "truncated_mean", "members": []}, "truncated_mean: missing or foreign"),
    ],
)
def test_descriptions_of_something_else_are_refused(description, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_layers(description)


def test_a_layer_that_is_not_plain_is_not_described():
    with pytest.raises(ValueError, match="a layer of class Bilinear cannot be described"):
        describe_layers(nn.Sequential(nn.Bilinear(1, 2, 3)))
