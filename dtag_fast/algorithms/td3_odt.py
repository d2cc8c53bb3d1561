"""TD3+ODT (Yan et al. 2024, arXiv 2410.24108): a Decision Transformer that imitates and climbs its critic.

    policy: mean over the real steps of  imitation mean over dims (mu_t - a_t)^2  -  alpha Q_1(s_t, mu_t)
            mu_t = tanh of ODT's mean, for the return-to-go of the data
    Q:      sum over i of (Q_i(s_t, a_t) - y_t)^2,  y_t = r_t + gamma (1 - terminal) min_i Q'_i(s_{t+1}, a')
            a' = clip(mu'_{t+1} + clip(e, -c, c)),  e ~ N(0, target_noise^2)
    Q', mu' <- (1 - polyak) Q', mu' + polyak Q, mu

The policy and the targets move in every `policy_delay`-th update only. Noise and the distance to the data are
in units of half an action's range. With alpha = 0 the policy imitates alone, with imitation = 0 it is TD3's.
The model's deviations are neither trained nor used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dtag_fast.algorithms.critics import minimum
from dtag_fast.algorithms.lamb import Lamb
from dtag_fast.algorithms.losses import masked_mean, masked_mse, mean_size
from dtag_fast.algorithms.sequence_actor_critic import (
    CriticSettings,
    SequenceActorCritic,
)
from dtag_fast.algorithms.settings import at_least_zero, positive_integers
from dtag_fast.algorithms.target_precision import TargetPrecision, check_target_precision
from dtag_fast.data import TransitionWindows, Windows
from dtag_fast.models.policies import normal_like

POLICY_METRICS = ("loss", "imitation_loss", "policy_q", "q_weight", "grad_norm")
OF_THE_CRITIC = ("policy_q", "q_weight")  # not there where alpha = 0


@dataclass(frozen=True)
class Config(CriticSettings):
    """Defaults: the published settings for locomotion, offline."""

    imitation: float = 1.0  # weight of the distance to the data
    normalize_q: bool = False  # divide alpha by mean |Q_1(s, mu)|
    policy_delay: int = 2  # updates of the critic for one of the policy and the targets
    target_noise: float = 0.2  # deviation of the noise on target actions, in half ranges
    target_noise_clip: float = 0.5  # c
    target_precision: TargetPrecision = "auto"  # of the target model's forward pass

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target_precision(self)
        positive_integers(self, "policy_delay")
        at_least_zero(self, "imitation", "target_noise", "target_noise_clip")
        if self.imitation == self.alpha == 0:
            raise ValueError(
                "imitation: expected a positive number where alpha = 0, got 0; the policy would learn nothing"
            )


@dataclass(frozen=True)
class DDPGConfig(Config):
    """DDPG+ODT: one critic, no noise on its targets, no delay."""

    critic_members: int = 1
    policy_delay: int = 1
    target_noise: float = 0.0


@dataclass(frozen=True)
class TD3Config(Config):
    """TD3 with a Decision Transformer for a policy, which does not imitate."""

    imitation: float = 0.0
    alpha: float = 0.1


class TD3ODT(SequenceActorCritic):
    """See the head of this file. Updates repeat with the period of `policy_delay`."""

    name = "td3-odt"
    exploration = "noise"

    def _build(self) -> None:
        c = self.config
        self.period = c.policy_delay
        model = self._online_model()
        model.log_std_head.requires_grad_(False)
        self._train(model, Lamb, eps=c.eps)
        self._build_critic()
        self._policy_metrics = {name: torch.zeros((), device=self.device) for name in POLICY_METRICS}
        self._tell_weight()

    def update(self, batch: TransitionWindows) -> dict[str, Tensor]:
        metrics = self._update_critic(batch)
        if self.updates_done % self.period == self.period - 1:
            self._update_policy(batch.windows)
            self.target_networks.move()
        self.count_update()
        told = (name for name in POLICY_METRICS if self.config.alpha > 0 or name not in OF_THE_CRITIC)
        return metrics | {name: self._policy_metrics[name].clone() for name in told}

    def _next_values(self, following: Windows) -> Tensor:
        c = self.config
        unit = self._next_distribution(following).mean.tanh()
        if c.target_noise > 0:
            noise = normal_like(unit, self.generator).mul_(c.target_noise)
            unit = (unit + noise.clamp(-c.target_noise_clip, c.target_noise_clip)).clamp(-1, 1)
        return minimum(self._q(self.target, following, self.target_model.action_bounds(unit)))

    def _update_policy(self, windows: Windows) -> None:
        """One step of the policy; its metrics stand until the next one."""
        self.model.train()
        found = self.each(self._policy_parts)(windows)
        found["grad_norm"] = self._descend(found["loss"])
        for name, value in found.items():
            self._policy_metrics[name].copy_(value.detach())

    def _policy_parts(self, windows: Windows) -> dict[str, Tensor]:
        """0-dim: the loss, the distance to the data, and where the critic counts mean Q_1 and its weight."""
        c, mask, bounds = self.config, windows.mask, self.model.action_bounds
        unit = self.model.distribution(*windows, generator=self.generator).mean.tanh()
        imitation = masked_mse(unit, bounds.inverse(windows.actions), mask)
        if c.alpha == 0:
            return {"loss": c.imitation * imitation, "imitation_loss": imitation}
        q = self._climbed_q(windows, bounds(unit))[0]  # (B, K)
        q_mean = masked_mean(q, mask)
        weight = c.alpha / (mean_size(q, mask) if c.normalize_q else torch.ones_like(q_mean))
        loss = c.imitation * imitation - weight * q_mean
        return {"loss": loss, "imitation_loss": imitation, "policy_q": q_mean, "q_weight": weight}

    def _steps_made(self) -> float | Tensor:
        """Every `policy_delay`-th update is a step of the policy, and the warm-up is of such steps."""
        return (self.schedule_step + 1) / self.period - 1

    @torch.no_grad()
    def validate(self, batch: TransitionWindows) -> dict[str, Tensor]:
        """The error of the mean actions, and of the critic: its loss, the spread of its targets, mean Q."""
        self.model.eval()
        windows = batch.windows
        actions = self.model(*windows).actions
        return {"action_error": masked_mse(actions, windows.actions, windows.mask)} | self._validate_critic(
            batch
        )

    def extra_tensors(self) -> dict[str, Tensor]:
        return self._policy_metrics

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As every algorithm's; the state may be of a run with another alpha."""
        super().load_state_dict(state)
        self._tell_weight()

    def _tell_weight(self) -> None:
        """Q's weight is known before the first step of the policy, unless it is divided by Q's size."""
        if not self.config.normalize_q:
            self._policy_metrics["q_weight"].fill_(self.config.alpha)


class DDPGODT(TD3ODT):
    """See `DDPGConfig`."""

    name = "ddpg-odt"


class TD3(TD3ODT):
    """See `TD3Config`."""

    name = "td3"
