"""Critics take raw states, their members are independent, and sizes follow the arguments."""

import pytest
import torch

from dtag_fast.models import GaussianPolicy, InputNormalizer, TwinCritic, ValueNet

MEAN, STD = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 2.0, 1e-6])


@pytest.mark.parametrize(
    "members, layer_norm, hidden", [(1, False, (8,)), (2, False, (8, 8)), (5, True, (4, 6, 8))]
)
def test_critic_equals_its_layers_by_hand(members, layer_norm, hidden):
    torch.manual_seed(0)
    critic = TwinCritic(3, 2, hidden, members, layer_norm, state_mean=MEAN, state_std=STD)
    states, actions = MEAN + STD * torch.randn(7, 3), torch.randn(7, 2)
    out = critic(states, actions)
    assert len(out) == members
    for q, member in zip(out, critic.members, strict=True):
        x = torch.cat(((states - MEAN) / STD, actions), dim=1)
        linears = [m for m in member if isinstance(m, torch.nn.Linear)]
        for layer in linears[:-1]:
            x = x @ layer.weight.T + layer.bias
            x = torch.nn.functional.layer_norm(x, x.shape[1:]) if layer_norm else x
            x = x.clamp_min(0)
        torch.testing.assert_close(q, x @ linears[-1].weight.T + linears[-1].bias, rtol=1e-4, atol=1e-5)


def test_members_start_different():
    a, b = TwinCritic(3, 2)(torch.ones(1, 3), torch.ones(1, 2))
    assert not torch.equal(a, b)


def test_weights_are_orthogonal():
    weight = ValueNet(3, (8, 8)).net[2].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)


def test_statistics_are_saved_with_the_module():
    state = TwinCritic(3, 2, state_mean=MEAN, state_std=STD).state_dict()
    assert torch.equal(state["normalizer.mean"], MEAN) and torch.equal(state["normalizer.std"], STD)


def test_gaussian_policy_is_bounded_and_its_spread_is_free():
    torch.manual_seed(0)
    policy = GaussianPolicy(3, 2, action_low=[0.0, -3.0], action_high=[1.0, 3.0])
    mean, log_std = policy(100 * torch.randn(50, 3))
    assert (mean >= torch.tensor([0.0, -3.0])).all() and (mean <= torch.tensor([1.0, 3.0])).all()
    assert log_std.shape == (2,)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"mean": [0.0, 1.0]}, r"mean: expected \(3,\) finite numbers"),
        ({"mean": [0.0, 1.0, float("nan")]}, r"mean: expected \(3,\) finite numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "std: expected positive numbers"),
    ],
)
def test_bad_statistics_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        InputNormalizer(3, **kwargs)


def test_bad_critic_options_are_refused():
    with pytest.raises(ValueError, match="members: expected at least 1"):
        TwinCritic(3, 2, members=0)
    with pytest.raises(ValueError, match="activation: expected one of relu"):
        TwinCritic(3, 2, activation="swish")
