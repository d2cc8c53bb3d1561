"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): TD3 whose policy is held at the data's actions.

    Q:      mean over the batch of sum_i (Q_i(s, a) - y)^2,   y = r + gamma (1 - terminal) min_i Q'_i(s', a')
            a' = clip(pi'(s') + clip(e, -c, c)),   e ~ N(0, sigma^2)
    policy: -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2,   lambda = alpha / mean |Q_1(s, pi(s))|
    Q', pi' <- (1 - polyak) Q', pi' + polyak Q, pi

The policy and the targets move in every `policy_delay`-th update only. Noise and the distance to the data are
in units of half an action's range, so that they are the published ones where bounds are -1 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtag_fast.algorithms.critics import (
    CriticAlgorithm,
    RewardTransform,
    check_settings,
    minimum,
)
from dtag_fast.algorithms.parallel import mean_over_processes
from dtag_fast.algorithms.settings import at_least_zero, positive_integers
from dtag_fast.data import Transitions
from dtag_fast.models import DeterministicPolicy
from dtag_fast.models.critics import Activation
from dtag_fast.models.policies import normal_like


@dataclass(frozen=True)
class Config:
    """Defaults: the published settings."""

    hidden: tuple[int, ...] = (256, 256)  # widths of every network
    members: int = 2  # Q functions; the policy climbs the first
    layer_norm: bool = False  # LayerNorm before each activation of the critic
    activation: Activation = "relu"  # of every network
    discount: float = 0.99
    n_step: int = 1  # rewards in a target, before it is bootstrapped
    polyak: float = 0.005  # step of the target networks
    alpha: float = 2.5  # weight of Q against imitation, after Q's scale is taken out
    target_noise: float = 0.2  # sigma of the target policy's smoothing
    target_noise_clip: float = 0.5  # c
    policy_delay: int = 2  # updates of the critic for one of the policy and the targets
    reward_transform: RewardTransform = "raw"  # see `reward_affine`
    normalize_states: bool = True  # standardise states, inside the networks
    batch_size: int = 256
    lr: float = 3e-4  # Adam, every network

    def __post_init__(self) -> None:
        check_settings(self)
        positive_integers(self, "policy_delay")
        at_least_zero(self, "alpha", "target_noise", "target_noise_clip")


class TD3BC(CriticAlgorithm):
    """See the head of this file. Updates repeat with the period of `policy_delay`."""

    name = "td3bc"

    def _build(self) -> None:
        c, data = self.config, self.data
        self.period = c.policy_delay
        self._build_critic()
        self.policy = DeterministicPolicy(
            data.state_dim, data.action_dim, c.hidden, activation=c.activation, **self._policy_edges()
        ).to(self.device)
        self.target_policy = self.target_networks.copy_of(self.policy)
        self.exports["model"] = self.modules["model"] = self.policy
        self.modules["target_policy"] = self.target_policy
        for name in ("model", "critic"):
            self.optimizers[name] = self._adam(self.modules[name].parameters(), c.lr)
        names = ("policy_loss", "imitation_loss", "q_weight")
        self._policy_metrics = {name: torch.zeros((), device=self.device) for name in names}

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        critic_loss, q = self.each(self._critic_loss)(batch)
        self.step("critic", critic_loss)
        if self.updates_done % self.period == self.period - 1:
            self._update_policy(batch)
            self.target_networks.move()
        self.count_update()
        kept = {name: value.clone() for name, value in self._policy_metrics.items()}
        return {"critic_loss": critic_loss.detach(), "q": q} | kept

    @torch.no_grad()
    def _targets(self, batch: Transitions) -> Tensor:
        """y (B, 1)."""
        c, bounds = self.config, self.policy.action_bounds
        actions = self.target_policy(batch.next_states)
        noise = normal_like(actions, self.generator).mul_(c.target_noise)
        noise = noise.clamp(-c.target_noise_clip, c.target_noise_clip)
        actions = bounds.clip(actions + bounds.half_range * noise)
        values = minimum(self.target(batch.next_states, actions))
        return batch.rewards + batch.discounts * (1 - batch.terminations) * values

    def _update_policy(self, batch: Transitions) -> None:
        """One step of the policy; its metrics stand until the next one."""
        losses = self.each(self._policy_loss)(batch)
        self.step("model", losses[0])
        for kept, value in zip(self._policy_metrics.values(), losses, strict=True):
            kept.copy_(value.detach())

    def _policy_loss(self, batch: Transitions) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the distance to the data in it, and the weight lambda of Q."""
        bounds = self.policy.action_bounds
        actions = self.policy(batch.states)
        q = self.critic.climbed(batch.states, actions)[0]
        weight = self.config.alpha / mean_over_processes(q.detach().abs().mean())
        imitation = (bounds.inverse(actions) - bounds.inverse(batch.actions)).square().mean()
        return imitation - weight * q.mean(), imitation, weight

    def extra_tensors(self) -> dict[str, Tensor]:
        return self._policy_metrics
