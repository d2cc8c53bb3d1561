"""The losses, as pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dtag_fast.algorithms.parallel import mean_over_processes
from dtag_fast.models.policies import log_tanh_derivative

_LOG_2PI = math.log(2 * math.pi)


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


def mean_size(x: Tensor, mask: Tensor) -> Tensor:
    """Mean |x| over the real steps of the batches of all processes, a divisor without a gradient; 0-dim.

    1 where every x is 0, so that such a batch is left as it is: sparse rewards make such returns.
    """
    size = mean_over_processes(masked_mean(x.detach().abs(), mask))
    return torch.where(size > 0, size, torch.ones_like(size))


def gaussian_nll(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log N(actions; mean, exp(log_std)), summed over the last axis: (..., A) -> (...)."""
    z = (actions - mean) * torch.exp(-log_std)
    return 0.5 * z.square().sum(dim=-1) + (log_std + 0.5 * _LOG_2PI).sum(dim=-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal normal distribution, summed over the last axis."""
    return (log_std + 0.5 * (1 + _LOG_2PI)).sum(dim=-1)


def squashed_gaussian_nll(unsquashed: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log of the density of a = tanh(u), u ~ N(mean, exp(log_std)), at tanh(unsquashed): (..., A) -> (...).

    Args:
        unsquashed: u (..., A); of a recorded action `models.policies.inverse_tanh` gives it.
        mean, log_std: (..., A).
    """
    return gaussian_nll(unsquashed, mean, log_std) + log_tanh_derivative(unsquashed).sum(dim=-1)
