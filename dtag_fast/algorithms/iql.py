"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): a critic fitted without unseen actions.

    V:      mean |tau - 1[u < 0]| u^2,   u = min_i Q'_i(s, a) - V(s)            Q' the target critic
    policy: mean -min(exp(beta u), 100) log pi(a | s)                          u with the new V; optional
    Q:      mean over the batch of sum_i (Q_i(s, a) - y)^2,   y = r + gamma (1 - terminal) V(s')   new V
    Q' <- (1 - polyak) Q' + polyak Q

in this order in every update, as in the published JAX code. Action Gradient needs only Q, so the policy is
off unless asked for. Episodes cut by a time limit are not terminal.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dtag_fast.algorithms.base import Algorithm, DataSpec
from dtag_fast.algorithms.losses import expectile_loss, gaussian_nll
from dtag_fast.algorithms.schedules import cosine, set_lr
from dtag_fast.data import TrajectoryStore, Transitions, TransitionSampler, transitions
from dtag_fast.models import GaussianPolicy, TwinCritic, ValueNet

MAX_WEIGHT = 100.0  # of a sample in the policy loss
ACTION_MARGIN = 1e-5  # actions are kept this far inside bounds of -1 and 1 in the policy's likelihood


@dataclass(frozen=True)
class Config:
    """Defaults: the published settings for Gym locomotion."""

    hidden: tuple[int, ...] = (256, 256)  # widths of every network
    members: int = 2  # Q functions; their minimum is the target of V
    layer_norm: bool = False  # LayerNorm before each activation of the critic and V
    discount: float = 0.99
    expectile: float = 0.7  # tau of V
    polyak: float = 0.005  # step of the target critic
    reward_transform: Literal["return_range", "raw", "minus_one"] = "return_range"  # see `reward_affine`
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
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile: expected a number between 0 and 1, got {self.expectile}")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount: expected a number in [0, 1], got {self.discount}")


def reward_affine(transform: str, data: DataSpec) -> tuple[float, float]:
    """(scale, shift) of r -> scale * r + shift.

    "return_range": 1000 / (best return - worst return) of the dataset's episodes, for locomotion; "raw":
    1, 0; "minus_one": r - 1, for antmaze.

    Raises:
        ValueError: unknown name, or "return_range" when all episodes have the same return.
    """
    if transform == "raw":
        return 1.0, 0.0
    if transform == "minus_one":
        return 1.0, -1.0
    if transform != "return_range":
        raise ValueError(f"reward_transform: expected return_range, raw or minus_one, got {transform!r}")
    low, high = data.returns.min(), data.returns.max()
    if low == high:
        raise ValueError(
            f"reward_transform: 'return_range' needs episodes of different return, all of them have {low}; "
            "use 'raw'"
        )
    return 1000.0 / float(high - low), 0.0


class IQL(Algorithm):
    """See the head of this file. The critic takes raw states and is what `refine` climbs."""

    name = "iql"
    kind = "critic"

    def _build(self) -> None:
        c, data = self.config, self.data
        self.reward_scale, self.reward_shift = reward_affine(c.reward_transform, data)
        statistics = (
            {"state_mean": data.state_mean, "state_std": data.state_std} if c.normalize_states else {}
        )
        self.critic = TwinCritic(
            data.state_dim, data.action_dim, c.hidden, c.members, c.layer_norm, **statistics
        ).to(self.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.value = ValueNet(data.state_dim, c.hidden, c.layer_norm, **statistics).to(self.device)
        self.exports = {"critic": self.critic}
        self.modules = {"critic": self.critic, "target": self.target, "value": self.value}
        self._online = list(self.critic.parameters())
        self._averaged = list(self.target.parameters())
        if c.policy:
            self.policy = GaussianPolicy(
                data.state_dim,
                data.action_dim,
                c.hidden,
                c.policy_dropout,
                action_low=data.action_low,
                action_high=data.action_high,
                **statistics,
            ).to(self.device)
            self.exports["model"] = self.modules["model"] = self.policy
        self.optimizers = {
            name: torch.optim.Adam(
                self.modules[name].parameters(),
                lr=self.scheduled(c.lr) if name == "model" else c.lr,
                fused=True,
                capturable=self.capturable,
            )
            for name in ("value", "model", "critic")
            if name in self.modules
        }

    def make_sampler(self, store: TrajectoryStore):
        table = transitions(
            store, self.device, reward_scale=self.reward_scale, reward_shift=self.reward_shift
        )
        return TransitionSampler(table, self.config.batch_size)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        c = self.config
        value_loss, value, target_q = self._value_loss(batch)
        self._step("value", value_loss)
        metrics = {"value_loss": value_loss.detach(), "value": value.detach().mean()}

        if c.policy:
            metrics["policy_loss"] = self._update_policy(batch, target_q)

        critic_loss, q = self._critic_loss(batch)
        self._step("critic", critic_loss)
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._online, c.polyak)
        self.count_update()
        return metrics | {"critic_loss": critic_loss.detach(), "q": q.detach().mean()}

    def _value_loss(self, batch: Transitions) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of V, and V (B, 1) and the target critic's Q (B, 1) in it."""
        with torch.no_grad():
            target_q = torch.stack(self.target(batch.states, batch.actions)).amin(dim=0)
        value = self.value(batch.states)
        return expectile_loss(target_q - value, self.config.expectile).mean(), value, target_q

    def _critic_loss(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """The loss of the critic, and Q of its members (members, B, 1)."""
        with torch.no_grad():
            next_value = self.value(batch.next_states)
            y = batch.rewards + self.config.discount * (1 - batch.terminations) * next_value
        q = torch.stack(self.critic(batch.states, batch.actions))
        return (q - y).square().sum(dim=0).mean(), q

    @torch.no_grad()
    def validate(self, batch: Transitions) -> dict[str, Tensor]:
        value_loss, value, _ = self._value_loss(batch)
        critic_loss, q = self._critic_loss(batch)  # the squared TD error
        return {"critic_loss": critic_loss, "value_loss": value_loss, "q": q.mean(), "value": value.mean()}

    def _update_policy(self, batch: Transitions, target_q: Tensor) -> Tensor:
        c = self.config
        with torch.no_grad():
            advantage = target_q - self.value(batch.states)
            weight = torch.exp(c.inverse_temperature * advantage).clamp(max=MAX_WEIGHT).squeeze(-1)
        self.policy.train()
        mean, log_std = self.policy(batch.states, generator=self.generator)
        bounds = self.policy.action_bounds
        margin = bounds.half_range * (1 - ACTION_MARGIN)
        actions = batch.actions.clamp(bounds.centre - margin, bounds.centre + margin)
        loss = (weight * gaussian_nll(actions, mean, log_std)).mean()
        set_lr(self.optimizers["model"], c.lr * cosine(self.schedule_step, c.policy_horizon))
        self._step("model", loss)
        return loss.detach()

    def _step(self, name: str, loss: Tensor) -> None:
        self.backward(loss)
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()

    def facts(self) -> dict[str, Any]:
        return {
            "reward_scale": self.reward_scale,
            "reward_shift": self.reward_shift,
            "discount": self.config.discount,
        }
