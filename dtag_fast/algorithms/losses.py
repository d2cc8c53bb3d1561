"""The losses, as pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dtag_fast.algorithms.parallel import mean_over_processes

_LOG_2PI = math.log(2 * math.pi)
TANH_MARGIN = 1e-6  # actions are kept this far inside -1 and 1, whose inverse tanh is infinite


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, K) over the True places of mask (B, K); at least one must be True. 0-dim.

    Where several processes train together, the sum over this one's places divided by the mean number of
    places of a process: the mean over the processes is then that over all places.
    """
    weight = mask.to(x.dtype)
    return (x * weight).sum() / mean_over_processes(weight.sum())


def mean_or_zero(x: Tensor, mask: Tensor) -> Tensor:
    """As `masked_mean`, but 0 where no place of any process is True."""
    weight = mask.to(x.dtype)
    count = mean_over_processes(weight.sum())
    return (x * weight).sum() / torch.where(count > 0, count, torch.ones_like(count))


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the dimensions of the real steps; predicted, target (B, K, A), mask (B, K)."""
    return masked_mean((predicted - target).square().mean(dim=-1), mask)


def masked_cross_entropy(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real steps of -sum_a target_a log softmax(logits)_a.

    Args:
        logits: (B, K, A), of any floating type. target: (B, K, A) one-hot rows. mask: (B, K).
    Returns:
        0-dim, in nats and in the wider type of the two.
    """
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, target.dtype))
    return masked_mean(-(target * log_p).sum(dim=-1), mask)


def masked_agreement(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Share of the real steps whose one-hot rows are the same; predicted, target (B, K, A), mask (B, K)."""
    return masked_mean((predicted * target).sum(dim=-1), mask)


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


def tanh_log_slope(u: Tensor) -> Tensor:
    """log of d tanh(u) / du = 1 - tanh(u)^2, finite for every finite u: 2 (log 2 - u - softplus(-2u))."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


def squashed_gaussian_nll(unsquashed: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log of the density of a = tanh(u), u ~ N(mean, exp(log_std)), at tanh(unsquashed): (..., A) -> (...).

    Args:
        unsquashed: u (..., A); of a recorded action `inverse_tanh` gives it. mean, log_std: (..., A).
    """
    return gaussian_nll(unsquashed, mean, log_std) + tanh_log_slope(unsquashed).sum(dim=-1)


def inverse_tanh(unit_actions: Tensor) -> Tensor:
    """Inverse of tanh for numbers in [-1, 1], first brought to at most 1 - TANH_MARGIN in size."""
    return unit_actions.clamp(-1 + TANH_MARGIN, 1 - TANH_MARGIN).atanh()
