"""A critic that has no say where its members disagree."""

import math

import pytest
import torch
from torch import nn

from dtag_fast import explain, refine
from dtag_fast.models import GatedCritic, TwinCritic

pytestmark = pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow")


class Parting(nn.Module):
    """Members a and 3 a - 1: they agree at a = 0.5, and their deviation is sqrt(2) |a - 0.5|."""

    def forward(self, states, actions):
        a = actions[:, 0] + 0 * states[:, 0]
        return torch.stack((a, 3 * a - 1))


STATES = torch.zeros(1, 2)


def at(action):
    return torch.tensor([[action]])


def test_within_the_limit_it_is_the_critic_and_beyond_it_nothing():
    inner = Parting()
    gate = GatedCritic(inner, math.sqrt(2) * 0.2)
    actions = torch.tensor([[0.29], [0.31], [0.5], [0.69], [0.71]])
    states = torch.zeros(5, 2)
    q = gate(states, actions)
    assert torch.equal(q[:, 1:4], inner(states, actions)[:, 1:4])
    assert (q[:, [0, 4]] == -math.inf).all()
    assert torch.equal(gate.members(states, actions), inner(states, actions))


@pytest.mark.parametrize("steps", [1, 5, 100])
def test_a_climb_ends_before_the_members_disagree(steps):
    # The smallest member above 0.5 is a, whose gradient is 1: iterates 0.55, 0.6, ... by steps of 0.05.
    refined = refine(GatedCritic(Parting(), math.sqrt(2) * 0.27), STATES, at(0.5), steps=steps, lr=0.05)
    torch.testing.assert_close(refined, at(min(0.5 + 0.05 * steps, 0.75)))
    free = refine(Parting(), STATES, at(0.5), steps=steps, lr=0.05)
    torch.testing.assert_close(free, at(min(0.5 + 0.05 * steps, 1.0)))


def test_an_action_that_they_disagree_about_stays():
    refined = refine(GatedCritic(Parting(), 0.01), STATES, at(0.9), steps=10, lr=0.05)
    assert torch.equal(refined, at(0.9))


def test_a_wide_gate_changes_nothing():
    torch.manual_seed(0)
    critic, states, actions = TwinCritic(4, 2, (16,), members=5), torch.randn(6, 4), torch.rand(6, 2) - 0.5
    ours = refine(GatedCritic(critic, math.inf), states, actions, steps=5, lr=0.1)
    torch.testing.assert_close(ours, refine(critic, states, actions, steps=5, lr=0.1), atol=1e-6, rtol=1e-5)


def test_explain_says_that_it_takes_the_reference():
    text = str(explain(GatedCritic(TwinCritic(4, 2, (16,)), 1.0), torch.zeros(1, 4), torch.zeros(1, 2)))
    assert "backend torch" in text and "aten.std has no place in a CriticProgram" in text


def test_one_member_cannot_disagree():
    with pytest.raises(ValueError, match="two members or more"):
        GatedCritic(TwinCritic(4, 2, (16,), members=1), 1.0)(torch.zeros(3, 4), torch.zeros(3, 2))


@pytest.mark.parametrize("limit", [-1.0, math.nan, True, "0.5"])
def test_bad_limits(limit):
    with pytest.raises(ValueError, match="limit: expected"):
        GatedCritic(Parting(), limit)
