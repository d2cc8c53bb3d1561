"""Checkpoints of CORL's scripts: modules of the same layout as theirs, made here, saved as they save them."""

import io
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from foreign_q import assert_climbs, assert_q
from torch import nn

from dtag_fast.interop import load_critic

S, A, H, E = 5, 3, 16, 4


def layers(*widths, norm=None):
    """Linear and ReLU in turn; norm: a LayerNorm "before" or "after" each ReLU."""
    found = []
    for i, (n, m) in enumerate(pairwise(widths)):
        found.append(nn.Linear(n, m))
        if i < len(widths) - 2:
            found += {
                None: [nn.ReLU()],
                "before": [nn.LayerNorm(m), nn.ReLU()],
                "after": [nn.ReLU(), nn.LayerNorm(m)],
            }[norm]
    return nn.Sequential(*found)


def randomised(module):
    """LayerNorms with weights of their own, so that their place shows."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    return module


class Held(nn.Module):
    """A Sequential under a name: "net" in TD3+BC and IQL, "_mlp" in AWAC, "network" in CQL."""

    def __init__(self, name, *widths, norm=None):
        super().__init__()
        self.add_module(name, randomised(layers(*widths, norm=norm)))
        self.held = name

    def forward(self, x):
        return getattr(self, self.held)(x)


class Scalar(nn.Module):
    """What CQL keeps its multipliers in, and puts into the checkpoint as a whole."""

    def __init__(self, value):
        super().__init__()
        self.constant = nn.Parameter(torch.tensor(value))


class StackedLinear(nn.Module):
    def __init__(self, n, m):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(E, n, m) / n**0.5)
        self.bias = nn.Parameter(torch.randn(E, 1, m) / 4)

    def forward(self, x):
        return x @ self.weight + self.bias


class StackedCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(
            StackedLinear(S + A, H), nn.ReLU(), StackedLinear(H, H), nn.ReLU(), StackedLinear(H, 1)
        )

    def forward(self, x):
        return self.critic(x.expand(E, *x.shape)).squeeze(-1)


def q_of(*members):
    """(states, actions) -> (E, rows) of modules of the joint input."""
    return lambda s, a: torch.cat([m(torch.cat([s, a], -1)) for m in members], -1).T


def optimizer_state(module):
    return torch.optim.Adam(module.parameters()).state_dict()


def iql():
    twin = nn.ModuleDict({"q1": Held("net", S + A, H, H, 1), "q2": Held("net", S + A, H, H, 1)})
    actor = nn.ModuleDict({"net": Held("net", S, H, H, A)})
    state = {
        "qf": twin.state_dict(),
        "q_optimizer": optimizer_state(twin),
        "vf": Held("v", S, H, 1).state_dict(),
        "v_optimizer": {},
        "actor": {"log_std": torch.zeros(A), **actor.state_dict()},
        "actor_optimizer": optimizer_state(actor),
        "actor_lr_schedule": {"T_max": 10},
        "total_it": 7,
    }
    return state, q_of(twin["q1"], twin["q2"])


def two(name, keys, norm=None, actor="net", twice=False, **more):
    critics = [Held(name, S + A, H, H, 1, norm=norm) for _ in keys]
    policy = Held(actor, S, H, H, 2 * A if twice else A)
    state = {key: critic.state_dict() for key, critic in zip(keys, critics, strict=True)}
    return state | {"actor": policy.state_dict(), "total_it": 3} | more, q_of(*critics)


def td3_bc():
    return two("net", ("critic_1", "critic_2"), critic_1_optimizer={}, actor_optimizer={})


def awac():
    return two("_mlp", ("critic_1", "critic_2"), actor="_mlp")


def cql():
    state, q = two("network", ("critic1", "critic2"), actor="base_network", twice=True)
    targets = {f"critic{i}_target": Held("network", S + A, H, H, 1).state_dict() for i in (1, 2)}
    multipliers = {"sac_log_alpha": Scalar(0.0), "cql_log_alpha": Scalar(1.0), "sac_log_alpha_optim": {}}
    return state | targets | multipliers, q


def sac_n():
    critic, target = StackedCritic(), StackedCritic()
    actor = nn.ModuleDict({"trunk": layers(S, H, H), "mu": nn.Linear(H, A), "log_sigma": nn.Linear(H, A)})
    state = {
        "actor": actor.state_dict(),
        "critic": critic.state_dict(),
        "target_critic": target.state_dict(),
        "log_alpha": 0.1,
        "actor_optim": optimizer_state(actor),
        "critic_optim": optimizer_state(critic),
        "alpha_optim": {},
    }
    return state, lambda s, a: critic(torch.cat([s, a], -1))


ALGORITHMS = {"IQL": iql, "TD3+BC": td3_bc, "AWAC": awac, "CQL": cql, "SAC-N or EDAC": sac_n}


RAW = {"state_mean": 0, "state_std": 1}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checkpoint_gives_the_q_of_the_script(algorithm, tmp_path):
    state, q = ALGORITHMS[algorithm]()
    torch.save(state, tmp_path / "checkpoint_9.pt")
    critic = load_critic(tmp_path / "checkpoint_9.pt", **RAW)
    assert (critic.state_dim, critic.action_dim, critic.source) == (S, A, f"CORL {algorithm}")
    assert_q(critic, q)
    assert_climbs(critic, q)
    assert_q(load_critic(state, **RAW), q)  # the trainer's state dict itself


@pytest.mark.parametrize("norm", ["before", "after"])
def test_the_numbers_tell_where_a_layer_norm_stands(norm, tmp_path):
    state, q = two("network", ("critic1", "critic2"), norm=norm)
    torch.save(state, tmp_path / "c.pt")
    critic = load_critic(tmp_path / "c.pt", **RAW)
    assert_q(critic, q)
    assert_climbs(critic, q)
    other = {"before": "after", "after": "before"}[norm]
    with pytest.raises(ValueError, match=f"LayerNorm {norm} the activation"):
        load_critic(tmp_path / "c.pt", norm=other, **RAW)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_statistics_that_no_file_holds_are_asked_for(algorithm):
    state, q = ALGORITHMS[algorithm]()
    if algorithm == "SAC-N or EDAC":  # of raw states
        assert_q(load_critic(state), q)
        return
    with pytest.raises(ValueError, match=r"state_mean, state_std: CORL .* standardises states outside"):
        load_critic(state)


def test_standardised_states_are_folded_in():
    state, q = td3_bc()
    mean, std = np.linspace(-1, 2, S), np.linspace(0.5, 3, S)
    critic = load_critic(state, state_mean=mean, state_std=std)
    scaled = [torch.tensor(x, dtype=torch.float32) for x in (mean, std)]
    standardised = lambda s, a: q((s - scaled[0]) / scaled[1], a)  # noqa: E731
    assert_q(critic, standardised)
    assert_climbs(critic, standardised)


@pytest.mark.parametrize("algorithm", ["CQL", "SAC-N or EDAC"])
def test_target_takes_the_target_critics(algorithm):
    state, q = ALGORITHMS[algorithm]()
    swapped = {**state}
    pairs = [("critic1", "critic1_target"), ("critic2", "critic2_target"), ("critic", "target_critic")]
    for trained, target in pairs:
        if trained in state:
            swapped[trained], swapped[target] = state[target], state[trained]
    assert_q(load_critic(swapped, target=True, **RAW), q)


def test_a_script_without_a_target_in_its_file_says_so():
    with pytest.raises(ValueError, match="hold no target critic"):
        load_critic(iql()[0], target=True, **RAW)


def test_without_an_actor_the_number_of_actions_is_asked_for():
    state, q = td3_bc()
    del state["actor"]
    with pytest.raises(ValueError, match="action_dim="):
        load_critic(state, **RAW)
    assert_q(load_critic(state, action_dim=A, **RAW), q)


def test_an_action_dim_that_the_actor_contradicts_is_refused():
    with pytest.raises(ValueError, match=f"action_dim: expected {A}"):
        load_critic(iql()[0], action_dim=A + 1, **RAW)


def stranger(state):
    return state | {"encoder": {"0.weight": torch.zeros(2, 2)}}


def broken_chain(state):
    return state | {"critic_1": state["critic_1"] | {"net.2.weight": torch.zeros(H, H + 1)}}


def two_outputs(state):
    wide = {"net.4.weight": torch.zeros(2, H), "net.4.bias": torch.zeros(2)}
    return state | {key: state[key] | wide for key in ("critic_1", "critic_2")}


def unknown_gap(state):
    moved = {name.replace("net.4", "net.6"): x for name, x in state["critic_1"].items()}
    return state | {"critic_1": moved}


def other_widths(state):
    return state | {"critic_2": Held("net", S + A + 1, H, H, 1).state_dict()}


def bias_of_another_layer(state):
    return state | {"critic_1": state["critic_1"] | {"net.0.bias": torch.zeros(H + 2)}}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (stranger, "'encoder' too"),
        (broken_chain, "as many as the layer before gives"),
        (two_outputs, "last layer gives 1 number, got 2"),
        (unknown_gap, "one activation between them"),
        (other_widths, "same inputs"),
        (bias_of_another_layer, "net.0.bias"),
    ],
)
def test_what_does_not_fit_is_refused(spoil, says, tmp_path):
    torch.save(spoil(td3_bc()[0]), tmp_path / "c.pt")
    with pytest.raises(ValueError, match=says):
        load_critic(tmp_path / "c.pt", **RAW)


def test_names_of_another_layout_are_not_taken(tmp_path):
    state, _ = td3_bc()
    state["critic_1"] = {name.replace("net", "body"): x for name, x in state["critic_1"].items()}
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="not a critic that can be read here"):
        load_critic(tmp_path / "c.pt", format="corl", **RAW)
    with pytest.raises(TypeError, match="not a critic that can be read here"):
        load_critic(state, format="corl", **RAW)


class Trap:
    """Runs when it is unpickled by Python itself."""

    ran = False

    def __reduce__(self):
        return (Trap.spring, ())

    @staticmethod
    def spring():
        Trap.ran = True


def test_only_the_multipliers_of_cql_are_passed_over(tmp_path):
    state, _ = cql()
    torch.save(state | {"log_alpha": Trap()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="refused before anything of it ran"):
        load_critic(tmp_path / "c.pt", format="corl", **RAW)
    assert not Trap.ran


def test_a_class_called_scalar_is_not_made(tmp_path, monkeypatch):
    torch.save(cql()[0], tmp_path / "c.pt")
    made, allowed = [], torch.serialization.get_safe_globals()
    monkeypatch.setattr(Scalar, "__setstate__", lambda self, state: made.append(state), raising=False)
    load_critic(tmp_path / "c.pt", **RAW)
    assert not made
    assert torch.serialization.get_safe_globals() == allowed


def test_damaged_files_are_refused_with_a_sentence(tmp_path):
    buffer = io.BytesIO()
    torch.save(cql()[0], buffer)
    content = buffer.getvalue()
    generator = np.random.default_rng(0)
    refused = 0
    for case in range(60):
        spoiled = bytearray(content)
        for at in generator.integers(0, len(content), 8):
            spoiled[at] = generator.integers(256)
        path = tmp_path / f"{case}.pt"
        path.write_bytes(bytes(spoiled) if case % 2 else content[: generator.integers(1, len(content))])
        try:
            load_critic(path, format="corl", **RAW)
        except ValueError as error:
            refused += 1
            assert str(error)
    assert refused >= 30  # all that were cut short


def test_an_archive_with_paths_out_of_it_is_refused(tmp_path):
    torch.save(td3_bc()[0], tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt", "a") as archive:
        archive.writestr("../outside", b"x")
    with pytest.raises(ValueError, match="names a path outside"):
        load_critic(tmp_path / "c.pt", format="corl", **RAW)
