"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): a critic fitted without unseen actions.

    V:      mean |tau - 1[u < 0]| u^2,   u = min_i Q'_i(s, a) - V(s)            Q' the target critic
    policy: mean -min(exp(beta u), 100) log pi(a | s)                          u with the new V; optional
    Q:      mean over the batch of sum_i (Q_i(s, a) - y)^2,   y = r + gamma (1 - terminal) V(s')   new V
    Q' <- (1 - polyak) Q' + polyak Q

in this order in every update, as in the published JAX code. Action Gradient needs only Q, so the policy is
off unless asked for. Episodes cut by a time limit are not terminal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtag_fast.algorithms.compiled_iql import CompiledIQL
from dtag_fast.algorithms.critics import (
    MAX_WEIGHT,
    CriticAlgorithm,
    RewardTransform,
    check_settings,
    minimum,
)
from dtag_fast.algorithms.losses import expectile_loss, gaussian_nll
from dtag_fast.algorithms.schedules import cosine, set_lr
from dtag_fast.algorithms.settings import between_0_and_1
from dtag_fast.data import Transitions
from dtag_fast.models import GaussianPolicy, ValueNet
from dtag_fast.models.critics import Activation

ACTION_MARGIN = 1e-5  # actions are kept this far inside bounds of -1 and 1 in the policy's likelihood


@dataclass(frozen=True)
class Config:
    """Defaults: the published settings for Gym locomotion."""

    hidden: tuple[int, ...] = (256, 256)  # widths of every network
    members: int = 2  # Q functions; their minimum is the target of V
    layer_norm: bool = False  # LayerNorm before each activation of the critic and V
    activation: Activation = "relu"  # of every network
    discount: float = 0.99
    n_step: int = 1  # rewards in a target, before it is bootstrapped
    expectile: float = 0.7  # tau of V
    polyak: float = 0.005  # step of the target critic
    reward_transform: RewardTransform = "return_range"  # see `reward_affine`
    normalize_states: bool = True  # standardise states, inside the networks
    batch_size: int = 256
    lr: float = 3e-4  # Adam, every network
    policy: bool = False  # train IQL's own policy as well
    policy_dropout: float = 0.0
    inverse_temperature: float = 3.0  # beta
    policy_horizon: int = (
        1_000_000  # updates over which the policy's learning rate falls to 0 (half a cosine)
    )

    def __post_init__(self) -> None:
        between_0_and_1(self, "expectile")
        check_settings(self)


class IQL(CriticAlgorithm):
    """See the head of this file."""

    name = "iql"

    def _build(self) -> None:
        c, data = self.config, self.data
        self._build_critic()
        self.value = ValueNet(data.state_dim, c.hidden, c.layer_norm, c.activation, **self.statistics)
        self.exports["value"] = self.modules["value"] = self.value.to(self.device)
        if c.policy:
            self.policy = GaussianPolicy(
                data.state_dim,
                data.action_dim,
                c.hidden,
                c.policy_dropout,
                c.activation,
                **self._policy_edges(),
            ).to(self.device)
            self.exports["model"] = self.modules["model"] = self.policy
        for name in ("value", "model", "critic"):
            if name in self.modules:
                lr = self.scheduled(c.lr) if name == "model" else c.lr
                self.optimizers[name] = self._adam(self.modules[name].parameters(), lr)
        self._compiled = CompiledIQL(self, ACTION_MARGIN, MAX_WEIGHT)

    def explain(self) -> str:
        reason = self._compiled.why_never()
        return "an update is one compiled call" if reason is None else f"operator by operator ({reason})"

    def why_in_turn(self) -> str | None:
        never = self._compiled.why_never()
        return "an update is one compiled call, which takes one seed" if never is None else None

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        c = self.config
        policy_lr = c.lr * cosine(self.schedule_step, c.policy_horizon)
        if c.policy:
            set_lr(self.optimizers["model"], policy_lr)
        if self._compiled.why_not() is None:
            metrics = self._compiled(batch, policy_lr)
            self.count_update()
            return metrics
        value_loss, value, target_q = self.each(self._value_loss)(batch)
        self.step("value", value_loss)
        metrics = {"value_loss": value_loss.detach(), "value": value}

        if c.policy:
            self.policy.train()
            policy_loss = self.each(self._policy_loss)(batch, target_q)
            self.step("model", policy_loss)
            metrics["policy_loss"] = policy_loss.detach()

        critic_loss, q = self.each(self._critic_loss)(batch)
        self.step("critic", critic_loss)
        self.target_networks.move()
        self.count_update()
        return metrics | {"critic_loss": critic_loss.detach(), "q": q}

    def _value_loss(self, batch: Transitions) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of V, mean V and the target critic's Q (B, 1) in it."""
        with torch.no_grad():
            target_q = minimum(self.target(batch.states, batch.actions))
        value = self.value(batch.states)
        loss = expectile_loss(target_q - value, self.config.expectile).mean()
        return loss, value.detach().mean(), target_q

    @torch.no_grad()
    def _targets(self, batch: Transitions) -> Tensor:
        """y (B, 1)."""
        return batch.rewards + batch.discounts * (1 - batch.terminations) * self.value(batch.next_states)

    @torch.no_grad()
    def validate(self, batch: Transitions) -> dict[str, Tensor]:
        """As CriticAlgorithm's, and the loss and mean of V."""
        value_loss, value, _ = self._value_loss(batch)
        return super().validate(batch) | {"value_loss": value_loss, "value": value}

    def _policy_loss(self, batch: Transitions, target_q: Tensor) -> Tensor:
        """Of actions weighted by their advantage; target_q (B, 1)."""
        with torch.no_grad():
            advantage = target_q - self.value(batch.states)
            weight = torch.exp(self.config.inverse_temperature * advantage).clamp(max=MAX_WEIGHT).squeeze(-1)
        mean, log_std = self.policy(batch.states, generator=self.generator)
        actions = self.policy.action_bounds.clip(batch.actions, ACTION_MARGIN)
        return (weight * gaussian_nll(actions, mean, log_std)).mean()
