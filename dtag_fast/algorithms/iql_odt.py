"""IQL+ODT: Online Decision Transformer with implicit Q-learning beside it.

    V:      mean |tau - 1[u_t < 0]| u_t^2,   u_t = min_i Q'_i(s_t, a_t) - V(s_t)
    policy: NLL - lambda H + alpha mean -w_t log pi(a_t | .),   w_t = min(exp(beta u_t), 100)
    Q:      sum over i of (Q_i(s_t, a_t) - y_t)^2,   y_t = r_t + gamma (1 - terminal) V(s_{t+1}),   new V
    Q' <- (1 - polyak) Q' + polyak Q

in this order; the policy and Q see the new V, and no gradient goes through w. The critic is that of IQL
(Kostrikov et al. 2021, arXiv 2110.06169) over windows, tau, beta and the bound those of Yan et al. 2024
(arXiv 2410.24108), who report such a variant and print no formula. No action but the data's is ever looked
up, so there is no target model. Means are over real steps, densities those of actions mapped onto [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtag_fast.algorithms import odt
from dtag_fast.algorithms.critics import MAX_WEIGHT, minimum
from dtag_fast.algorithms.losses import expectile_loss, masked_mean
from dtag_fast.algorithms.sequence_actor_critic import CriticSettings
from dtag_fast.algorithms.settings import between_0_and_1, positive
from dtag_fast.algorithms.stochastic_actor_critic import StochasticActorCritic
from dtag_fast.data import TransitionWindows, Windows
from dtag_fast.models import ValueNet
from dtag_fast.models.policies import in_full


@dataclass(frozen=True)
class Config(CriticSettings, odt.Config):
    """Defaults: odt's, the critic of td3-odt, and the published expectile and beta."""

    expectile: float = 0.7  # tau of V
    beta: float = 3.0  # inverse temperature of the weights, over units of the critic's values

    def __post_init__(self) -> None:
        super().__post_init__()
        between_0_and_1(self, "expectile")
        positive(self, "beta")


class IQLODT(StochasticActorCritic):
    """See the head of this file. The run holds V too, of the critic's widths."""

    name = "iql-odt"

    def _build_critic(self) -> None:
        super()._build_critic(target_model=False)
        c, data = self.config, self.data
        self.value = ValueNet(
            data.state_dim,
            c.critic_hidden,
            c.critic_layer_norm,
            c.critic_activation,
            state_mean=data.state_mean,
            state_std=data.state_std,
        ).to(self.device)
        self.exports["value"] = self.modules["value"] = self.value
        self.optimizers["value"] = self._adamw(self.value)

    def update(self, batch: TransitionWindows) -> dict[str, Tensor]:
        loss, value = self.each(self._value_parts)(batch.windows)
        self.step("value", loss)
        return super().update(batch) | {"value_loss": loss.detach(), "value": value}

    def _value_parts(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """The loss of V and its mean."""
        with torch.no_grad():
            target_q = minimum(self._q(self.target, windows, windows.actions))
        value = self._value(windows)
        losses = expectile_loss(target_q - value, self.config.expectile)
        return masked_mean(losses, windows.mask), masked_mean(value.detach(), windows.mask)

    def _critic_term(self, windows: Windows, draw: odt.PolicyDraw) -> dict[str, Tensor]:
        with torch.no_grad():
            advantage = minimum(self._q(self.target, windows, windows.actions)) - self._value(windows)
            weight = torch.exp(self.config.beta * advantage).clamp(max=MAX_WEIGHT)
        return {
            "critic_term": masked_mean(weight * draw.nll, windows.mask),
            "advantage": masked_mean(advantage, windows.mask),
            "weight": masked_mean(weight, windows.mask),
        }

    def _next_values(self, following: Windows) -> Tensor:
        return self._value(following)

    def _value(self, windows: Windows) -> Tensor:
        """V (B, K) of the states of windows."""
        return in_full(self.value(self._states(windows)).squeeze(-1))

    @torch.no_grad()
    def validate(self, batch: TransitionWindows) -> dict[str, Tensor]:
        """As sac-odt's, and the loss and mean of V."""
        value_loss, value = self._value_parts(batch.windows)
        return super().validate(batch) | {"value_loss": value_loss, "value": value}
