"""A policy-gradient term in the loss of a sequence model: what Action Gradient does without.

    L = L_imitation - w(t) mean Q(s, pi) / mean |Q(s, pi)|,     w(t) = q_weight ramp(t)

The normalised form of TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860, equation 5; its code has Q(s, pi) in
the denominator too, as a constant). Q is the smallest member of a critic that was trained before and stays as
it is: what `refine` climbs by default, so that both follow the same slope. Means are over real steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dtag_fast.algorithms.base import DataSpec
from dtag_fast.algorithms.losses import masked_mean, mean_size
from dtag_fast.algorithms.schedules import ramp
from dtag_fast.algorithms.settings import at_least_zero
from dtag_fast.algorithms.trained_critic import TrainedCritic
from dtag_fast.data import Windows
from dtag_fast.models import SequenceModel

AT_BOUNDS = 0.999  # of the half range: beyond it an action counts as at its bounds


def check_settings(config: Any) -> None:
    """Refuse q_weight, q_start or q_ramp below 0.

    Raises:
        ValueError: naming the setting.
    """
    at_least_zero(config, "q_weight", "q_start", "q_ramp")


def reason_for_critic(config: Any, data: DataSpec) -> str | None:
    """The setting that makes a trained critic necessary, in words, or None.

    Raises:
        ValueError: it is set, and the actions of the data are discrete.
    """
    if config.q_weight > 0 and data.discrete is not None:
        raise ValueError(
            "q_weight: the term of Q is a gradient with respect to continuous actions, those of the data are "
            f"{data.discrete}; leave it out"
        )
    return f"q_weight = {config.q_weight:g}" if config.q_weight > 0 else None


def weight_at(config: Any, updates_done: int | Tensor) -> float | Tensor:
    """w(t) for t updates made."""
    return config.q_weight * ramp(updates_done, config.q_start, config.q_ramp)


def q_term(
    critic: TrainedCritic, model: SequenceModel, batch: Windows, actions: Tensor, weight: float | Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The term to add to the loss, and what to log.

    Args:
        critic: frozen.
        model: has made `actions` (B, K, A) from `batch`, whose states its normalizer has standardised.
        weight: w(t); a number, or a 0-dim tensor.
    Returns:
        0-dim, and under these names: "q_loss" the term before its weight, "q" mean Q, "q_weight" w(t); and
        two signs of divergence: "action_distance" mean |a - a_data| over an action's dimensions, and
        "at_bounds" the share of them beyond AT_BOUNDS.
    """
    mask = batch.mask
    q = critic.q(model.normalizer.inverse(batch.states), actions)  # (B, K)
    q_mean = masked_mean(q, mask)
    loss = -q_mean / mean_size(q, mask)
    if isinstance(weight, Tensor):
        weight = weight.to(loss.dtype)
    with torch.no_grad():
        distance = masked_mean((actions - batch.actions).abs().mean(dim=-1), mask)
        outside = model.action_bounds.inverse(actions).abs() > AT_BOUNDS
        at_bounds = masked_mean(outside.to(actions.dtype).mean(dim=-1), mask)
    metrics = {
        "q_loss": loss.detach(),
        "q": q_mean.detach(),
        "q_weight": torch.ones_like(q_mean) * weight,
        "action_distance": distance,
        "at_bounds": at_bounds,
    }
    return weight * loss, metrics
