"""What the critics share: the scale of their rewards, n-step transitions, the critic and its target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from dtag_fast.algorithms.base import Algorithm, DataSpec
from dtag_fast.algorithms.parallel import mean_over_processes
from dtag_fast.algorithms.settings import above_0_to_1, from_0_to_1, positive_integers
from dtag_fast.algorithms.targets import TargetNetworks
from dtag_fast.data import TrajectoryStore, Transitions, TransitionSampler, transitions
from dtag_fast.models import TwinCritic

MAX_WEIGHT = 100.0  # of a sample in an advantage-weighted policy loss
RewardTransform = Literal["return_range", "raw", "minus_one", "plus_minus_five"]


def reward_affine(transform: str, data: DataSpec) -> tuple[float, float]:
    """(scale, shift) of r -> scale * r + shift.

    "return_range": 1000 / (best return - worst return) of the dataset's episodes, for locomotion; "raw":
    1, 0; "minus_one": r - 1, for antmaze; "plus_minus_five": 10 r - 5, CQL's for antmaze.

    Raises:
        ValueError: unknown name, or "return_range" when all episodes have the same return.
    """
    fixed = {"raw": (1.0, 0.0), "minus_one": (1.0, -1.0), "plus_minus_five": (10.0, -5.0)}
    if transform in fixed:
        return fixed[transform]
    if transform != "return_range":
        raise ValueError(f"reward_transform: expected return_range, {', '.join(fixed)}, got {transform!r}")
    low, high = data.returns.min(), data.returns.max()
    if low == high:
        raise ValueError(
            f"reward_transform: 'return_range' needs episodes of different return, all of them have {low}; "
            "use 'raw'"
        )
    return 1000.0 / float(high - low), 0.0


def check_settings(config: Any) -> None:
    """Refuse settings out of range that every critic has.

    Raises:
        ValueError: discount, polyak or n_step.
    """
    from_0_to_1(config, "discount")
    above_0_to_1(config, "polyak")
    positive_integers(config, "n_step")


def minimum(members: Iterable[Tensor]) -> Tensor:
    """The smallest Q of an ensemble, element by element."""
    return torch.stack(tuple(members)).amin(dim=0)


def squared_errors(q: Tensor, target: Tensor) -> Tensor:
    """Sum over the members of the batch's mean (Q_i - y)^2, 0-dim; q (members, B, 1), target (B, 1)."""
    return (q - target).square().sum(dim=0).mean()


class CriticAlgorithm(Algorithm):
    """An algorithm whose product is a critic that takes raw states and is what `refine` climbs.

    Its config has hidden, members, layer_norm, activation, discount, n_step, polyak, reward_transform,
    normalize_states, batch_size and lr. A target of an update is

        y = rewards + discounts * (1 - terminations) * value(next_states)

    with the columns of `transitions`; episodes cut by a time limit are not terminal.
    """

    kind = "critic"

    def _build_critic(self, last_gain: float = 2**0.5) -> None:
        """Set critic, its target, exports, modules, optimizers, statistics, reward_scale and reward_shift.

        `target_networks` moves the target; a subclass has it make the targets of its other networks.
        """
        c, data = self.config, self.data
        self.reward_scale, self.reward_shift = reward_affine(c.reward_transform, data)
        self.statistics = (
            {"state_mean": data.state_mean, "state_std": data.state_std} if c.normalize_states else {}
        )
        self.critic = TwinCritic(
            data.state_dim,
            data.action_dim,
            c.hidden,
            c.members,
            c.layer_norm,
            c.activation,
            **self.statistics,
            last_gain=last_gain,
        ).to(self.device)
        self.target_networks = TargetNetworks(c.polyak)
        self.target = self.target_networks.copy_of(self.critic)
        self.exports = {"critic": self.critic}
        self.modules = {"critic": self.critic, "target": self.target}
        self.optimizers = {}

    def _policy_edges(self) -> dict[str, Any]:
        """What every policy is told about states and actions."""
        return {
            **self.statistics,
            "action_low": self.data.action_low,
            "action_high": self.data.action_high,
        }

    def _adam(self, parameters: Iterable[Tensor], lr: float | Tensor) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=lr, fused=True, capturable=self.capturable)

    def _critic_loss(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """The squared TD errors of all members, and mean Q."""
        y = self._targets(batch)
        q = torch.stack(self.critic(batch.states, batch.actions))  # (members, B, 1)
        return squared_errors(q, y), q.detach().mean()

    @abstractmethod
    def _targets(self, batch: Transitions) -> Tensor:
        """y (B, 1) of a batch, without a gradient."""

    @torch.no_grad()
    def validate(self, batch: Transitions) -> dict[str, Tensor]:
        """The squared TD error, summed over the members, the variance of its targets, and mean Q; actions and
        noise are drawn from a stream of their own."""
        before, self.generator = self.generator, Generator(self.device).manual_seed(0)
        try:
            y = self._targets(batch)
        finally:
            self.generator = before
        q = torch.stack(self.critic(batch.states, batch.actions))
        variance = (y - mean_over_processes(y.mean())).square().mean()
        return {"td_error": squared_errors(q, y), "target_variance": variance, "q": q.mean()}

    def make_sampler(self, store: TrajectoryStore) -> TransitionSampler:
        table = transitions(
            store,
            self.device,
            reward_scale=self.reward_scale,
            reward_shift=self.reward_shift,
            n_step=self.config.n_step,
            discount=self.config.discount,
        )
        return TransitionSampler(table, self.config.batch_size)

    def facts(self) -> dict[str, Any]:
        return {
            "reward_scale": self.reward_scale,
            "reward_shift": self.reward_shift,
            "discount": self.config.discount,
        }
