"""Fixed affine maps at the edges of a network, states in and actions out, saved with it as buffers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InputNormalizer(nn.Module):
    """(s - mean) / std, per dimension; the identity until other statistics are given.

    Args:
        state_dim: S.
        mean, std: (S,) numbers; std must be positive (datasets add 1e-6 to it).
    """

    def __init__(self, state_dim: int, mean=None, std=None):
        super().__init__()
        mean = torch.zeros(state_dim) if mean is None else torch.as_tensor(mean, dtype=torch.float32).clone()
        std = torch.ones(state_dim) if std is None else torch.as_tensor(std, dtype=torch.float32).clone()
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (state_dim,) or not torch.isfinite(value).all():
                raise ValueError(
                    f"{name}: expected ({state_dim},) finite numbers, one per state dimension, "
                    f"got shape {tuple(value.shape)}"
                )
        if not (std > 0).all():
            raise ValueError(
                "std: expected positive numbers; add 1e-6 to the deviation of a constant dimension"
            )
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, states: Tensor) -> Tensor:
        return (states - self.mean) / self.std

    def inverse(self, standardised: Tensor) -> Tensor:
        """Raw states again, within rounding."""
        return standardised * self.std + self.mean


class ActionBounds(nn.Module):
    """Map [-1, 1] onto [low, high] per dimension: centre + half-range * x. Bounds of -1 and 1 change no bit.

    Args:
        action_dim: A.
        low, high: (A,) finite numbers, low < high; None for -1 and 1.
    """

    def __init__(
        self, action_dim: int, low: Sequence[float] | None = None, high: Sequence[float] | None = None
    ):
        super().__init__()
        low = torch.full((action_dim,), -1.0) if low is None else torch.as_tensor(low, dtype=torch.float32)
        high = torch.full((action_dim,), 1.0) if high is None else torch.as_tensor(high, dtype=torch.float32)
        for name, value in (("action_low", low), ("action_high", high)):
            if value.shape != (action_dim,) or not torch.isfinite(value).all():
                raise ValueError(
                    f"{name}: expected ({action_dim},) finite numbers, one per action dimension, "
                    f"got {value.tolist()}; a policy that ends in tanh needs a bounded action space"
                )
        if not (low < high).all():
            raise ValueError(
                f"action_low: expected below action_high, got {low.tolist()} and {high.tolist()}"
            )
        self.register_buffer("centre", (high + low) / 2)
        self.register_buffer("half_range", (high - low) / 2)

    def forward(self, unit: Tensor) -> Tensor:
        return self.centre + self.half_range * unit

    def inverse(self, actions: Tensor) -> Tensor:
        """Actions (..., A) back onto [-1, 1]; outside of it where they are outside of the bounds."""
        return (actions - self.centre) / self.half_range

    def clip(self, actions: Tensor, margin: float = 0.0) -> Tensor:
        """The nearest action inside the bounds, by `margin` of half the range when it is given."""
        reach = self.half_range * (1 - margin)
        return actions.clamp(self.centre - reach, self.centre + reach)
