"""AWAC+ODT: Online Decision Transformer that imitates good actions more than others.

    policy: NLL - lambda H + alpha mean -w_t log pi(a_t | .),   w_t = min(exp(A_t / beta), 20), no gradient
            A_t = min_i Q_i(s_t, a_t) - min_i Q_i(s_t, a~_t),   a~_t the draw that H is of
    Q:      sum over i of (Q_i(s_t, a_t) - y_t)^2,  y_t = r_t + gamma (1 - terminal) min_i Q'_i(s_{t+1}, a~')
            a~' ~ pi'
    Q', pi' <- (1 - polyak) Q', pi' + polyak Q, pi

The weights are those of AWAC (Nair et al. 2020, arXiv 2006.09359), beta and the bound those of Yan et al.
2024 (arXiv 2410.24108), who report such a variant and print no formula. Means are over real steps, densities
those of actions mapped onto [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtag_fast.algorithms import odt
from dtag_fast.algorithms.critics import minimum
from dtag_fast.algorithms.losses import masked_mean
from dtag_fast.algorithms.sequence_actor_critic import (
    CriticSettings,
)
from dtag_fast.algorithms.settings import positive
from dtag_fast.algorithms.stochastic_actor_critic import StochasticActorCritic
from dtag_fast.algorithms.target_precision import TargetPrecision, check_target_precision
from dtag_fast.data import Windows

MAX_WEIGHT = 20.0  # w of a step


@dataclass(frozen=True)
class Config(CriticSettings, odt.Config):
    """Defaults: odt's, the critic of td3-odt, and the published beta."""

    beta: float = 1.0  # temperature of the weights, in units of the critic's values
    target_precision: TargetPrecision = "auto"  # of the target model's forward pass

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target_precision(self)
        positive(self, "beta")


class AWACODT(StochasticActorCritic):
    """See the head of this file."""

    name = "awac-odt"

    def _critic_term(self, windows: Windows, draw: odt.PolicyDraw) -> dict[str, Tensor]:
        with torch.no_grad():
            advantage = minimum(self._q(self.critic, windows, windows.actions))  # (B, K)
            advantage -= minimum(self._q(self.critic, windows, self._actions(draw.unsquashed)))
            weight = torch.exp(advantage / self.config.beta).clamp(max=MAX_WEIGHT)
        return {
            "critic_term": masked_mean(weight * draw.nll, windows.mask),
            "advantage": masked_mean(advantage, windows.mask),
            "weight": masked_mean(weight, windows.mask),
        }

    def _next_values(self, following: Windows) -> Tensor:
        unsquashed, *_ = self._next_draw(following)
        return minimum(self._q(self.target, following, self._actions(unsquashed)))
