"""What an algorithm may learn from besides the data: the networks of a critic that was trained before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtag_fast.algorithms.targets import frozen_copy
from dtag_fast.models import ValueNet


@dataclass(frozen=True, eq=False)
class TrainedCritic:
    """Networks of an earlier run, left as they are.

    Attributes:
        critic: (states (N, S) raw, actions (N, A)) -> one (N, 1) Q per member, or one Q.
        value: V(s) of the same run, or None where it saved none.
    """

    critic: nn.Module
    value: ValueNet | None = None

    def frozen(self, device: torch.device) -> TrainedCritic:
        """Copies on a device, in eval mode, whose parameters take no gradients."""
        networks = (self.critic, self.value)
        return TrainedCritic(*(None if n is None else frozen_copy(n).to(device) for n in networks))

    def q(self, states: Tensor, actions: Tensor) -> Tensor:
        """The smallest member's Q, as `refine` has it by default: raw (..., S), (..., A) -> (...)."""
        shape = states.shape[:-1]
        found = self.critic(states.reshape(-1, states.shape[-1]), actions.reshape(-1, actions.shape[-1]))
        members = found if isinstance(found, tuple | list) else (found,)
        return torch.stack([member.flatten() for member in members]).amin(dim=0).view(shape)

    def v(self, states: Tensor) -> Tensor:
        """V of raw states (..., S) -> (...)."""
        return self.value(states).squeeze(-1)
