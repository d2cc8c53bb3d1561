"""ODT whose loss has a term of a critic that learns beside it: what sac-odt, awac-odt and iql-odt share.

    policy: NLL - lambda H + alpha T,   T what the algorithm makes of its critic;  lambda as ODT's

The policy moves first, then the critic, then the targets: with alpha = 0 T is not computed, and an update of
the policy is ODT's, from the same random numbers.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from dtag_fast.algorithms.losses import masked_mean
from dtag_fast.algorithms.odt import ODT, PolicyDraw
from dtag_fast.algorithms.sequence_actor_critic import SequenceActorCritic
from dtag_fast.data import TransitionWindows, Windows
from dtag_fast.models.policies import normal_like


class StochasticActorCritic(SequenceActorCritic, ODT):
    """See the head of this file. Its config is a `CriticSettings` and ODT's."""

    def _build(self) -> None:
        super()._build()
        self._build_critic()

    def update(self, batch: TransitionWindows) -> dict[str, Tensor]:
        metrics = self._update_policy(batch)
        metrics |= self._update_critic(batch, *self._given())
        self.target_networks.move()
        self.count_update()
        return metrics

    def _given(self) -> tuple[Tensor, ...]:
        """What `_next_values` takes besides the windows."""
        return ()

    def _policy_parts(self, batch: TransitionWindows) -> dict[str, Tensor]:
        """As ODT's, and where the critic counts what `_critic_term` gives."""
        draw, mask = self._draw(batch.windows), batch.windows.mask
        parts = {"nll": masked_mean(draw.nll, mask), "entropy": draw.entropy}
        return parts | (self._critic_term(batch.windows, draw) if self.config.alpha > 0 else {})

    @abstractmethod
    def _critic_term(self, windows: Windows, draw: PolicyDraw) -> dict[str, Tensor]:
        """T under the name "critic_term", and what else is logged; 0-dim each."""

    def _policy_loss(self, parts: dict[str, Tensor], temperature: Tensor) -> Tensor:
        loss = super()._policy_loss(parts, temperature)
        return loss + self.config.alpha * parts["critic_term"] if self.config.alpha > 0 else loss

    def _next_draw(self, following: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B, K, A) drawn from the target model, their mean and log deviation before tanh."""
        mean, log_std = self._next_distribution(following)
        return mean + log_std.exp() * normal_like(mean, self.generator), mean, log_std

    def _actions(self, unsquashed: Tensor) -> Tensor:
        """Inside the bounds."""
        return self.model.action_bounds(unsquashed.tanh())

    @torch.no_grad()
    def validate(self, batch: TransitionWindows) -> dict[str, Tensor]:
        """As ODT's, and of the critic: its loss, the spread of its targets, mean Q."""
        return super().validate(batch.windows) | self._validate_critic(batch, *self._given())
