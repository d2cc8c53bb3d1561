"""Losses against closed forms, in float64."""

import math

import pytest
import torch

from dtag_fast.algorithms.losses import (
    expectile_loss,
    gaussian_entropy,
    gaussian_nll,
    masked_mean,
    masked_mse,
    mean_size,
)
from dtag_fast.algorithms.schedules import cosine, warmup

F64 = torch.float64


def test_expectile_half_is_half_the_square():
    u = torch.linspace(-3, 3, 13, dtype=F64)
    assert torch.equal(expectile_loss(u, 0.5), 0.5 * u.square())


@pytest.mark.parametrize("tau", [0.1, 0.7, 0.99])
def test_expectile_of_two_points(tau):
    """The minimiser of the loss over samples {0, 1} is tau: tau (1 - m) = (1 - tau) m."""
    samples = torch.tensor([0.0, 1.0], dtype=F64)
    m = torch.tensor(tau, dtype=F64, requires_grad=True)
    expectile_loss(samples - m, tau).sum().backward()
    assert m.grad.item() == pytest.approx(0, abs=1e-12)


def test_expectile_weighs_the_two_sides():
    u = torch.tensor([2.0, -2.0], dtype=F64)
    torch.testing.assert_close(expectile_loss(u, 0.9), torch.tensor([3.6, 0.4], dtype=F64))


def test_gaussian_against_its_density():
    g = torch.Generator().manual_seed(0)
    actions, mean = torch.randn(2, 5, 3, dtype=F64, generator=g)
    log_std = torch.tensor([-1.0, 0.0, 0.7], dtype=F64)
    density = torch.exp(-(((actions - mean) / log_std.exp()) ** 2) / 2) / (
        log_std.exp() * math.sqrt(2 * math.pi)
    )
    torch.testing.assert_close(gaussian_nll(actions, mean, log_std), -density.log().sum(-1))


def test_gaussian_entropy_is_the_expected_nll():
    log_std = torch.tensor([-0.5, 0.3], dtype=F64)
    x = torch.randn(400_000, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * log_std.exp()
    assert gaussian_entropy(log_std).item() == pytest.approx(
        gaussian_nll(x, torch.zeros(2, dtype=F64), log_std).mean().item(), abs=0.01
    )


def test_masked_means_look_at_real_steps_only():
    x = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(x, mask) == 2.0
    assert mean_size(-x, mask) == 2.0
    prediction = x[..., None].expand(-1, -1, 2)
    target = torch.where(mask, x - 1, -7.0)[..., None].expand(-1, -1, 2)
    assert masked_mse(prediction, target, mask) == 1.0


def test_a_batch_of_zero_returns_is_left_unscaled():
    assert mean_size(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)) == 1.0


def test_schedules():
    assert [warmup(n, 4) for n in (0, 1, 3, 4, 100)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == 1.0
    assert [cosine(n, 100) for n in (0, 50, 100, 200)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
