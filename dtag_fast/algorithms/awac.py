"""AWAC (Nair et al. 2020, arXiv 2006.09359): advantage-weighted regression on the data's actions.

    Q:      mean over the batch of sum_i (Q_i(s, a) - y)^2,   y = r + gamma (1 - terminal) min_i Q'_i(s', a')
            a' ~ pi(s')
    policy: mean -min(exp(A / lambda), 100) log pi(a | s)
            A = min_i Q_i(s, a) - min_i Q_i(s, b),   b ~ pi(s)
    Q' <- (1 - polyak) Q' + polyak Q

in this order in every update, the advantage with the new Q.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtag_fast.algorithms.critics import (
    MAX_WEIGHT,
    CriticAlgorithm,
    RewardTransform,
    check_settings,
    minimum,
)
from dtag_fast.algorithms.losses import gaussian_nll
from dtag_fast.algorithms.settings import positive
from dtag_fast.data import Transitions
from dtag_fast.models import GaussianPolicy
from dtag_fast.models.critics import Activation

LOG_STD_RANGE = (-20.0, 2.0)


@dataclass(frozen=True)
class Config:
    """Defaults: CORL's settings for Gym locomotion."""

    hidden: tuple[int, ...] = (256, 256, 256)  # widths of every network
    members: int = 2  # Q functions
    layer_norm: bool = False  # LayerNorm before each activation of the critic
    activation: Activation = "relu"  # of every network
    discount: float = 0.99
    n_step: int = 1  # rewards in a target, before it is bootstrapped
    polyak: float = 0.005  # step of the target critic
    temperature: float = 1 / 3  # lambda, in units of the critic's values
    reward_transform: RewardTransform = "raw"  # see `reward_affine`
    normalize_states: bool = True  # standardise states, inside the networks
    batch_size: int = 256
    lr: float = 3e-4  # Adam, every network

    def __post_init__(self) -> None:
        check_settings(self)
        positive(self, "temperature")


class AWAC(CriticAlgorithm):
    """See the head of this file."""

    name = "awac"

    def _build(self) -> None:
        c, data = self.config, self.data
        self._build_critic()
        self.policy = GaussianPolicy(
            data.state_dim,
            data.action_dim,
            c.hidden,
            activation=c.activation,
            squash_mean=False,
            log_std_range=LOG_STD_RANGE,
            **self._policy_edges(),
        ).to(self.device)
        self.exports["model"] = self.modules["model"] = self.policy
        for name in ("model", "critic"):
            self.optimizers[name] = self._adam(self.modules[name].parameters(), c.lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        critic_loss, q = self.each(self._critic_loss)(batch)
        self.step("critic", critic_loss)
        policy_loss, advantage, weight = self.each(self._policy_loss)(batch)
        self.step("model", policy_loss)
        self.target_networks.move()
        self.count_update()
        return {
            "critic_loss": critic_loss.detach(),
            "q": q,
            "policy_loss": policy_loss.detach(),
            "advantage": advantage,
            "weight": weight,
        }

    def _policy_loss(self, batch: Transitions) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the means of the advantage and of the weight in it."""
        with torch.no_grad():
            own_actions = self.policy.sample(batch.states, self.generator)
            advantage = minimum(self.critic(batch.states, batch.actions))
            advantage -= minimum(self.critic(batch.states, own_actions))  # (B, 1)
            weight = torch.exp(advantage / self.config.temperature).clamp(max=MAX_WEIGHT).squeeze(-1)
        mean, log_std = self.policy(batch.states)
        loss = (weight * gaussian_nll(batch.actions, mean, log_std)).mean()
        return loss, advantage.mean(), weight.mean()

    @torch.no_grad()
    def _targets(self, batch: Transitions) -> Tensor:
        """y (B, 1)."""
        next_actions = self.policy.sample(batch.next_states, self.generator)
        values = minimum(self.target(batch.next_states, next_actions))
        return batch.rewards + batch.discounts * (1 - batch.terminations) * values
