"""SAC+ODT: Online Decision Transformer whose loss also climbs a soft critic.

    policy: NLL - lambda H - alpha mean min_i Q_i(s_t, a~_t),   a~_t the reparameterised draw that H is of
    Q:      sum over i of (Q_i(s_t, a_t) - y_t)^2
            y_t = r_t + gamma (1 - terminal) (min_i Q'_i(s_{t+1}, a~') - lambda log pi'(a~' | .)),   a~' ~ pi'
    Q', pi' <- (1 - polyak) Q', pi' + polyak Q, pi

Yan et al. 2024 (arXiv 2410.24108) report such a variant and print no formula: this is ours, their td3-odt
with the terms of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) and ODT's lambda. Means are over
real steps, densities those of actions mapped onto [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dtag_fast.algorithms import odt
from dtag_fast.algorithms.critics import minimum
from dtag_fast.algorithms.losses import masked_mean, squashed_gaussian_nll
from dtag_fast.algorithms.sequence_actor_critic import (
    CriticSettings,
)
from dtag_fast.algorithms.stochastic_actor_critic import StochasticActorCritic
from dtag_fast.algorithms.target_precision import TargetPrecision, check_target_precision
from dtag_fast.data import Windows


@dataclass(frozen=True)
class Config(CriticSettings, odt.Config):
    """Defaults: odt's, and the critic of td3-odt."""

    target_precision: TargetPrecision = "auto"  # of the target model's forward pass

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target_precision(self)


class SACODT(StochasticActorCritic):
    """See the head of this file."""

    name = "sac-odt"

    def _critic_term(self, windows: Windows, draw: odt.PolicyDraw) -> dict[str, Tensor]:
        q = minimum(self._climbed_q(windows, self._actions(draw.unsquashed)))
        return {"critic_term": -masked_mean(q, windows.mask)}

    def _given(self) -> tuple[Tensor, ...]:
        """lambda."""
        return (self.log_temperature.detach().exp(),)

    def _next_values(self, following: Windows, temperature: Tensor) -> Tensor:
        unsquashed, mean, log_std = self._next_draw(following)
        values = minimum(self._q(self.target, following, self._actions(unsquashed)))
        return values + temperature * squashed_gaussian_nll(unsquashed, mean, log_std)
