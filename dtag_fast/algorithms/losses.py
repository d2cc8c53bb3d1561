"""The losses, as pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtag_fast.algorithms.parallel import mean_over_processes

_LOG_2PI = math.log(2 * math.pi)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, K) over the True places of mask (B, K); at least one must be True. 0-dim.

    Where several processes train together, the sum over this one's places divided by the mean number of
    places of a process: the mean over the processes is then that over all places.
    """
    weight = mask.to(x.dtype)
    return (x * weight).sum() / mean_over_processes(weight.sum())


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the dimensions of the real steps; predicted, target (B, K, A), mask (B, K)."""
    return masked_mean((predicted - target).square().mean(dim=-1), mask)


def expectile_weight(difference: Tensor, expectile: float) -> Tensor:
    """|expectile - 1[difference < 0]|: what lies above the estimate counts `expectile`, below it the rest."""
    return (expectile - (difference < 0).to(difference.dtype)).abs()


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Element-wise |tau - 1[u < 0]| u^2 for u = target - estimate (Newey and Powell 1987)."""
    return expectile_weight(difference, expectile) * difference.square()


def return_scale_of(returns: Tensor, mask: Tensor) -> Tensor:
    """Mean |R| over the real steps of a batch, by which Reinformer divides its return errors; 0-dim.

    A batch whose returns are all zero is left as it is (divided by 1): sparse-reward data has such batches.
    """
    scale = mean_over_processes(masked_mean(returns.abs(), mask))
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def gaussian_nll(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log N(actions; mean, exp(log_std)), summed over the last axis: (..., A) -> (...)."""
    z = (actions - mean) * torch.exp(-log_std)
    return 0.5 * z.square().sum(dim=-1) + (log_std + 0.5 * _LOG_2PI).sum(dim=-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal normal distribution, summed over the last axis."""
    return (log_std + 0.5 * (1 + _LOG_2PI)).sum(dim=-1)
