"""What may differ from row to row of a call, beside states and actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import inputs
from .device_copies import DeviceCopies


class Numbers(NamedTuple):
    """Numbers of a call, as `inputs` has checked them; their shapes are known with the call's."""

    steps: int | Tensor
    lr: float | Tensor
    scale: float | Tensor | None
    radius: Tensor | None  # limits in place of the one in the options
    variant: Tensor | None  # positions among the options' variants
    prior_mean: float | Tensor
    prior_weight: float | Tensor  # 0: no prior

    def fitted(self, batch: int, width: int) -> Numbers:
        """In the shapes that executors take, for B rows of A dimensions.

        Raises:
            ValueError: naming the one that has other rows or dimensions.
        """
        return Numbers(
            inputs.fit_steps(self.steps, batch),
            inputs.fit_lr(self.lr, batch, width),
            inputs.fit_scale(self.scale, batch, width),
            inputs.fit_radius(self.radius, batch),
            inputs.fit_variant(self.variant, batch),
            inputs.fit_prior_mean(self.prior_mean, batch, width),
            inputs.fit_prior_weight(self.prior_weight, batch),
        )

    def on(self, device: torch.device, copies: DeviceCopies) -> dict[str, Any]:
        """By name, tensors on the device."""
        return {
            name: copies.on(device, name, value) if isinstance(value, Tensor) else value
            for name, value in self._asdict().items()
        }

    def has_rows(self) -> bool:
        """Whether some of them are tensors, which may change between calls."""
        return any(isinstance(value, Tensor) for value in self)
