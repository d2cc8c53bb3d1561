"""Policies of one state: inside the bounds, with the densities they claim, also where tanh rounds to 1."""

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from dtag_fast.models import ActionBounds, DeterministicPolicy, GaussianPolicy, TanhGaussianPolicy
from dtag_fast.models.policies import log_tanh_derivative
from dtag_fast.models.registry import build, describe

LOW, HIGH = [0.0, -3.0], [1.0, 3.0]
every_policy = pytest.mark.parametrize("policy", [GaussianPolicy, DeterministicPolicy, TanhGaussianPolicy])


@every_policy
def test_actions_stay_inside_the_bounds(policy):
    torch.manual_seed(0)
    network = policy(3, 2, (8,), action_low=LOW, action_high=HIGH)
    actions = network.act(1000 * torch.randn(50, 3))
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    assert (actions >= low).all() and (actions <= high).all()
    assert actions.shape == (50, 2) and actions.std(dim=0).min() > 0


@every_policy
def test_a_policy_is_built_again_from_its_description(policy):
    torch.manual_seed(0)
    statistics = {"state_mean": torch.ones(3), "state_std": 2 * torch.ones(3)}
    network = policy(3, 2, (8, 4), activation="mish", action_low=LOW, action_high=HIGH, **statistics)
    again = build(describe(network))
    again.load_state_dict(network.state_dict())
    states = torch.randn(5, 3)
    assert torch.equal(network.eval().act(states), again.eval().act(states))
    assert again.config == network.config


def test_an_older_description_of_a_gaussian_policy_is_still_built():
    config = {"state_dim": 3, "action_dim": 2, "hidden": [8], "dropout": 0.1}
    policy = build({"type": "GaussianPolicy", "config": config})
    assert policy.squash_mean and policy.log_std_range == (-5.0, 2.0)
    assert isinstance(policy.activation, torch.nn.ReLU)


def test_bounds_are_undone_and_clipped():
    bounds = ActionBounds(2, LOW, HIGH)
    unit = torch.tensor([[-1.0, -1.0], [0.5, 0.25], [1.0, 1.0]])
    assert torch.equal(bounds.inverse(bounds(unit)), unit)
    outside = torch.tensor([[-2.0, 9.0], [0.5, 0.0]])
    assert bounds.clip(outside).tolist() == [[0.0, 3.0], [0.5, 0.0]]
    torch.testing.assert_close(bounds.clip(outside, 0.1), torch.tensor([[0.05, 2.7], [0.5, 0.0]]))


def test_a_linear_mean_may_leave_the_bounds_and_draws_are_clipped():
    policy = GaussianPolicy(1, 1, (), squash_mean=False, log_std_range=(-20.0, 2.0))
    with torch.no_grad():
        policy.mean_head.weight.fill_(2.0)
        policy.action_log_std.fill_(-50.0)
    states = torch.tensor([[0.25], [3.0], [-3.0]])
    mean, log_std = policy(states)
    assert mean[:, 0].tolist() == [0.5, 6.0, -6.0] and log_std.tolist() == [-20.0]
    assert policy.act(states)[:, 0].tolist() == [0.5, 1.0, -1.0]
    drawn = policy.sample(states, torch.Generator().manual_seed(0))
    assert drawn[:, 0].tolist() == pytest.approx([0.5, 1.0, -1.0], abs=1e-6)


def test_draws_have_the_mean_and_deviation_asked_for():
    policy = GaussianPolicy(1, 1, (), action_low=[-100.0], action_high=[100.0])
    with torch.no_grad():
        policy.mean_head.weight.fill_(0.0)
        policy.action_log_std.fill_(math.log(2.0))
    drawn = policy.sample(torch.zeros(20_000, 1), torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.06)
    assert drawn.std().item() == pytest.approx(2.0, rel=0.03)


def tanh_gaussian(mean, log_std, **options):
    """A policy of one state dimension and A = len(mean) actions that ignores the state."""
    policy = TanhGaussianPolicy(1, len(mean), (), **options)
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.copy_(torch.tensor([*mean, *log_std]))
    return policy


def test_log_probabilities_are_those_of_the_distribution():
    policy = tanh_gaussian([0.3, -0.7], [-0.5, 0.2]).double()
    actions = torch.rand(50, 2, dtype=torch.float64) * 1.98 - 0.99
    normal = Normal(torch.tensor([0.3, -0.7]).double(), torch.tensor([-0.5, 0.2]).double().exp())
    expected = TransformedDistribution(normal, TanhTransform()).log_prob(actions).sum(-1, keepdim=True)
    found = policy.log_prob(torch.zeros(50, 1, dtype=torch.float64), actions)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-3.0, 5.0)])
def test_density_of_the_unit_action_integrates_to_1(bounds):
    policy = tanh_gaussian([0.4], [-0.3], action_low=[bounds[0]], action_high=[bounds[1]])
    unit = (torch.arange(20_000) + 0.5) / 10_000 - 1
    actions = policy.action_bounds(unit.unsqueeze(1))
    density = policy.log_prob(torch.zeros(20_000, 1), actions).exp()
    assert (density.sum() / 10_000).item() == pytest.approx(1.0, rel=1e-3)


def test_drawn_actions_come_with_their_own_log_probability():
    torch.manual_seed(0)
    policy = TanhGaussianPolicy(3, 2, (16,), action_low=LOW, action_high=HIGH)
    states = torch.randn(6, 3)
    for count in (None, 5):
        actions, log_prob = policy.sample(states, torch.Generator().manual_seed(1), count)
        shape = (6,) if count is None else (6, count)
        assert actions.shape == (*shape, 2) and log_prob.shape == (*shape, 1)
        wide = states if count is None else states.unsqueeze(1).expand(-1, count, -1)
        torch.testing.assert_close(policy.log_prob(wide, actions), log_prob, rtol=1e-3, atol=1e-3)
    assert actions.std(dim=1).min() > 0  # draws of a state differ


@pytest.mark.parametrize("mean", [-60.0, -9.5, 9.5, 60.0])
def test_log_probabilities_are_finite_where_tanh_rounds_to_the_bound(mean):
    """u = 60: log(1 - tanh^2 u) = 2 log 2 - 120 up to e^-120; in float32 tanh(u) is 1."""
    policy = tanh_gaussian([mean], [-3.0])
    states = torch.zeros(4, 1)
    actions, log_prob = policy.sample(states, torch.Generator().manual_seed(0))
    assert (actions.abs() == 1.0).all()
    noise = torch.empty(4, 1).normal_(generator=torch.Generator().manual_seed(0)).double()
    u = mean + math.exp(-3.0) * noise
    normal = -0.5 * noise**2 + 3.0 - 0.5 * math.log(2 * math.pi)
    exact = normal - (2 * math.log(2) - 2 * u.abs() - 2 * torch.log1p(torch.exp(-2 * u.abs())))
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-5, atol=1e-4)
    log_prob.sum().backward()
    assert policy.head.bias.grad.isfinite().all() and policy.head.bias.grad[0].abs() > 0


@pytest.mark.parametrize("action", [-1.0, 1.0, 1.0 + 1e-7])
def test_given_actions_on_the_bounds_have_a_finite_log_probability(action):
    policy = tanh_gaussian([0.0, 0.0], [-1.0, -1.0])
    log_prob = policy.log_prob(torch.zeros(1, 1), torch.tensor([[action, 0.0]]))
    inside = policy.log_prob(torch.zeros(1, 1), torch.tensor([[math.copysign(1 - 1e-6, action), 0.0]]))
    torch.testing.assert_close(log_prob, inside, rtol=1e-6, atol=0)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and policy.head.bias.grad.isfinite().all()


def test_derivative_of_tanh_in_logarithms():
    u = torch.linspace(-8, 8, 101, dtype=torch.float64)
    torch.testing.assert_close(log_tanh_derivative(u), torch.log(1 - u.tanh() ** 2), rtol=1e-6, atol=1e-8)
    far = torch.tensor([-1e4, -400.0, -30.0, 50.0, 1e4])
    exact = (2 * (math.log(2) - far.double().abs())).tolist()  # less a term of exp(-60)
    assert log_tanh_derivative(far).tolist() == pytest.approx(exact, rel=1e-6)
    assert log_tanh_derivative(torch.zeros(1)) == 0


def test_log_std_is_clamped_and_starts_at_minus_one():
    policy = TanhGaussianPolicy(3, 2, (8,))
    _, log_std = policy(torch.randn(5, 3))
    assert log_std.mean().item() == pytest.approx(-1.0, abs=0.05)
    assert tanh_gaussian([0.0], [7.0])(torch.zeros(1, 1))[1].item() == 2.0
    assert tanh_gaussian([0.0], [-70.0])(torch.zeros(1, 1))[1].item() == -20.0
