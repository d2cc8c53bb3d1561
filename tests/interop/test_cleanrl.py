"""CleanRL's models: networks of the same layout as its scripts', made here, saved as they save them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign_q import assert_climbs, assert_q, climbed, random_pairs
from torch import nn

import dtag_fast
from dtag_fast.interop import load_critic

S, A, H = 5, 3, 16


class QNet(nn.Module):
    """fc1 to fc3 of the concatenated state and action."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(S + A, H), nn.Linear(H, H), nn.Linear(H, 1)

    def forward(self, x, a):
        x = F.relu(self.fc1(torch.cat([x, a], 1)))
        return self.fc3(F.relu(self.fc2(x)))


class Policy(nn.Module):
    """heads: fc_mu of DDPG and TD3, fc_mean and fc_logstd of SAC."""

    def __init__(self, *heads, low=(-2.0, -1.0, 0.0), high=(2.0, 3.0, 1.0)):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(S, H), nn.Linear(H, H)
        for head in heads:
            self.add_module(head, nn.Linear(H, A))
        low, high = torch.tensor(low), torch.tensor(high)
        self.register_buffer("action_scale", (high - low) / 2)
        self.register_buffer("action_bias", (high + low) / 2)


ACTORS = {"TD3": ("fc_mu",), "SAC": ("fc_mean", "fc_logstd")}


def model(actor="TD3", networks=2):
    """(tuple of state dicts, their Q (networks, rows))."""
    torch.manual_seed(0)
    qs = [QNet() for _ in range(networks)]
    states = (Policy(*ACTORS[actor]).state_dict(), *(q.state_dict() for q in qs))
    return states, lambda s, a: torch.cat([q(s, a) for q in qs], -1).T


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("networks", [1, 2])
def test_a_model_gives_the_q_of_the_script(actor, networks, tmp_path):
    states, q = model(actor, networks)
    torch.save(states, tmp_path / "td3_continuous_action.cleanrl_model")
    critic = load_critic(tmp_path / "td3_continuous_action.cleanrl_model")
    assert (critic.state_dim, critic.action_dim, critic.source) == (S, A, "CleanRL")
    assert_q(critic, q)
    assert_climbs(critic, q)
    low, high = critic.bounds
    np.testing.assert_allclose(low, [-2, -1, 0])
    np.testing.assert_allclose(high, [2, 3, 1])


def test_the_state_dicts_in_memory_do_too():
    states, q = model()
    assert_q(load_critic(states), q)


def test_a_q_network_in_memory_goes_into_refine_as_it_is():
    torch.manual_seed(1)
    qf1, qf2 = QNet(), QNet()
    states, actions = random_pairs(S, A)
    explained = dtag_fast.explain([qf1, qf2], states, actions)
    assert explained.lowered and explained.backend == "cpu", str(explained)
    q = lambda s, a: torch.cat([qf1(s, a), qf2(s, a)], -1).T  # noqa: E731
    ours = dtag_fast.refine([qf1, qf2], states, actions, steps=4)
    torch.testing.assert_close(ours, climbed(q, states, actions, 4, 0.03), rtol=1e-4, atol=1e-5)


def test_an_actor_of_another_environment_is_refused():
    (actor, *qs), _ = model()
    with pytest.raises(ValueError, match=rf"expected Q networks of {S + 1} \+ {A} inputs"):
        load_critic((actor | {"fc1.weight": torch.zeros(H, S + 1)}, *qs))


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("fc2.weight", (H, H + 1), "as many as the layer before gives"),
        ("fc3.weight", (2, H), "fc3.bias"),
        ("fc1.weight", (H, S + A, 1), "expected a Linear layer"),
        ("fc1.weight", (H, S + A + 1), "same inputs"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, shape, says):
    (actor, first, second), _ = model()
    with pytest.raises(ValueError, match=says):
        load_critic((actor, first | {name: torch.zeros(shape)}, second))


def test_there_is_no_target_in_such_a_file():
    with pytest.raises(ValueError, match="no target critic"):
        load_critic(model()[0], target=True)


def test_other_layers_are_not_taken(tmp_path):
    (actor, first, second), _ = model()
    torch.save((actor, first | {"fc4.weight": torch.zeros(1, 1)}, second), tmp_path / "m.cleanrl_model")
    with pytest.raises(ValueError, match="not a critic that can be read here"):
        load_critic(tmp_path / "m.cleanrl_model")


def test_an_old_file_of_a_whole_module_is_refused(tmp_path):
    torch.save(QNet(), tmp_path / "m.cleanrl_model")
    with pytest.raises(ValueError, match="refused before anything of it ran"):
        load_critic(tmp_path / "m.cleanrl_model")
