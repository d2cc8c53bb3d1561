"""An Online Decision Transformer that learns together with a critic of transitions.

What td3-odt and its relatives share (Yan et al. 2024, arXiv 2410.24108, equations 2 and 3):

    Q:  mean over the real steps of sum_i (Q_i(s_t, a_t) - y_t)^2,   y_t = r_t + gamma (1 - terminal) v_{t+1}
    Q' <- (1 - polyak) Q' + polyak Q,   and so pi', where there is one

v is what the algorithm says of the step that follows. The critic takes raw states and standardises them
inside, so that `refine` climbs it; rewards reach it as (reward_scale r + reward_shift) critic_reward_scale.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dtag_fast.algorithms.losses import masked_mean
from dtag_fast.algorithms.online import OnlineSequenceAlgorithm, OnlineSettings
from dtag_fast.algorithms.parallel import mean_over_processes
from dtag_fast.algorithms.sequence import replay_buffer
from dtag_fast.algorithms.settings import (
    above_0_to_1,
    at_least_zero,
    from_0_to_1,
    positive,
    positive_integers,
)
from dtag_fast.algorithms.target_precision import choose_target_precision
from dtag_fast.algorithms.targets import TargetNetworks
from dtag_fast.data import TrajectoryStore, TransitionWindows, Windows
from dtag_fast.data.replay import ReplayBuffer
from dtag_fast.models import SquashedGaussian, TwinCritic
from dtag_fast.models.critics import Activation
from dtag_fast.models.policies import in_full


@dataclass(frozen=True)
class CriticSettings(OnlineSettings):
    """Of the critic, and its weight in the policy's loss. Defaults: the published code for locomotion."""

    critic_hidden: tuple[int, ...] = (256, 256)  # widths of every Q
    critic_members: int = 2  # Q functions
    critic_layer_norm: bool = False  # LayerNorm before each activation of the critic
    critic_activation: Activation = "relu"
    discount: float = 0.99
    polyak: float = 0.005  # step of the target networks
    critic_lr: float = 1e-3  # AdamW
    critic_weight_decay: float = 0.01
    critic_reward_scale: float = 1.0  # of the critic's rewards over those in the returns
    paper_timeouts: bool = False  # take every episode's last step for terminal, as published
    alpha: float = 0.0  # weight of the critic in the policy's loss; published online: 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integers(self, "critic_members")
        from_0_to_1(self, "discount")
        above_0_to_1(self, "polyak")
        at_least_zero(self, "critic_lr", "critic_weight_decay", "alpha")
        positive(self, "critic_reward_scale")


class SequenceActorCritic(OnlineSequenceAlgorithm):
    """The critic's side: its networks and targets, its loss, batches. Its config is a `CriticSettings`.

    A subclass makes its policy, then calls `_build_critic`.
    """

    def _build_critic(self, target_model: bool = True) -> None:
        """Set critic, target, target_model if there is one, and add them to exports, modules, optimizers.

        `target_networks` moves both targets.
        """
        c, data = self.config, self.data
        if c.timestep_embedding and data.horizon == c.max_timestep:
            raise ValueError(
                f"max_timestep: expected at least {data.horizon + 1}, the most observations an episode has: "
                f"the critic learns from the last one too; got {c.max_timestep}"
            )
        self.critic = TwinCritic(
            data.state_dim,
            data.action_dim,
            c.critic_hidden,
            c.critic_members,
            c.critic_layer_norm,
            c.critic_activation,
            state_mean=data.state_mean,
            state_std=data.state_std,
        ).to(self.device)
        self.target_networks = TargetNetworks(c.polyak)
        self.target = self.target_networks.copy_of(self.critic)
        self.exports = {"model": self.model, "critic": self.critic}
        self.modules = self.exports | {"target": self.target}
        if target_model:
            self.target_model = self.modules["target_model"] = self.target_networks.copy_of(self.model)
            self._target_precision = choose_target_precision(c.target_precision, c.d_model, self.device)
        self.optimizers["critic"] = self._adamw(self.critic)

    def _adamw(self, network: nn.Module) -> torch.optim.AdamW:
        c = self.config
        return torch.optim.AdamW(
            network.parameters(),
            lr=c.critic_lr,
            weight_decay=c.critic_weight_decay,
            fused=True,
            capturable=self.capturable,
        )

    def _update_critic(self, batch: TransitionWindows, *given: Tensor) -> dict[str, Tensor]:
        """One step of the critic; `given` are for `_next_values`, (N, ...) of N stacked seeds."""
        loss, q, target = self.each(self._critic_parts)(batch, *given)
        self.step("critic", loss)
        return {"critic_loss": loss.detach(), "q": q, "target_q": target}

    def _critic_parts(self, batch: TransitionWindows, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the means of Q over all members and of its targets."""
        y, mask = self._targets(batch, *given), batch.windows.mask
        q = self._q(self.critic, batch.windows, batch.windows.actions)  # (members, B, K)
        errors = (q - y).square().sum(dim=0)
        return masked_mean(errors, mask), masked_mean(q.detach().mean(dim=0), mask), masked_mean(y, mask)

    @torch.no_grad()
    def _targets(self, batch: TransitionWindows, *given: Tensor) -> Tensor:
        """y (B, K)."""
        values = self._next_values(batch.following, *given)
        return batch.rewards + self.config.discount * (1 - batch.terminations) * values

    @abstractmethod
    def _next_values(self, following: Windows, *given: Tensor) -> Tensor:
        """v (B, K) of the steps that follow; called without gradients."""

    def _states(self, windows: Windows) -> Tensor:
        """As critics take them, (B, K, S)."""
        return self.model.normalizer.inverse(windows.states)

    def _q(self, critic: TwinCritic, windows: Windows, actions: Tensor) -> Tensor:
        """(members, B, K), of actions (B, K, A) at the states of windows."""
        return members_of(critic(self._states(windows), actions))

    def _climbed_q(self, windows: Windows, actions: Tensor) -> Tensor:
        """As `_q` of the critic that learns, for a loss whose gradient goes to the actions alone."""
        return members_of(self.critic.climbed(self._states(windows), actions))

    def _next_distribution(self, following: Windows) -> SquashedGaussian:
        """Of the target model's actions, (B, K, A) each."""
        if self._target_precision[0] == "fp32":
            return self.target_model.distribution(*following)
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return self.target_model.distribution(*following)

    def explain(self) -> str | None:
        """In which precision the target model is computed, and why; None where there is no such model."""
        if "target_model" not in self.modules:
            return None
        precision, reason = self._target_precision
        return f"the target model's forward pass in {precision} ({reason})"

    def make_replay(self, capacity: int | None) -> ReplayBuffer:
        """As every online policy's; of `TransitionWindows`."""
        c = self.config
        return replay_buffer(
            self,
            capacity,
            following=True,
            critic_reward_scale=c.critic_reward_scale,
            paper_timeouts=c.paper_timeouts,
        )

    def make_sampler(self, store: TrajectoryStore) -> ReplayBuffer:
        """A buffer that holds the store's episodes."""
        buffer = self.make_replay(None)
        buffer.add_all(store.episode(i) for i in range(store.num_episodes))
        return buffer

    @torch.no_grad()
    def _validate_critic(self, batch: TransitionWindows, *given: Tensor) -> dict[str, Tensor]:
        """The critic's loss, the mean and variance of its targets and mean Q; noise is drawn from a stream
        of its own."""
        before, self.generator = self.generator, Generator(self.device).manual_seed(0)
        try:
            y = self._targets(batch, *given)
        finally:
            self.generator = before
        mask = batch.windows.mask
        q = self._q(self.critic, batch.windows, batch.windows.actions)
        mean = mean_over_processes(masked_mean(y, mask))
        return {
            "td_error": masked_mean((q - y).square().sum(dim=0), mask),
            "target_variance": masked_mean((y - mean).square(), mask),
            "target_q": mean,
            "q": masked_mean(q.mean(dim=0), mask),
        }

    def facts(self) -> dict[str, Any]:
        """As every sequence policy's, and the critic's discount."""
        return super().facts() | {"discount": self.config.discount}


def members_of(values: tuple[Tensor, ...]) -> Tensor:
    """(members, B, K) in full precision, of one (B, K, 1) per member."""
    return in_full(torch.stack(values).squeeze(-1))
