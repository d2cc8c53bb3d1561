"""Q-regularised Transformer, QT (Hu et al. 2024, arXiv 2405.17098): a policy and its critic in one training.

    critic: sum over i of the mean of (Q_i(s_t, a_t) - y_t)^2 over steps whose y_t is known
            y_t = sum over t <= j < l of gamma^(j-t) r_j  +  gamma^(l-t) v_l,   l the window's last step
            v_l = r_l where the episode terminates at l, else min_i Q'_i(s_l, pi'(R_{<=l}, s_{<=l}, a_{<l}))
    policy: eta2 mean |a_t - pi_t|^2 / A  -  eta mean Q_i(s_t, pi_t) / mean |Q_j(s_t, pi_t)|
            (i, j) = (1, 2) or (2, 1) by a fair coin in every update
    Q'  <- (1 - polyak) Q' + polyak Q                          in every update
    pi' <- ema_decay pi' + (1 - ema_decay) pi                  every ema_every updates, after ema_start

in this order, with the new Q in the policy's loss. The denominator carries no gradient; means are over real
steps. y_l is known where the episode terminates at l only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dtag_fast.algorithms import parallel
from dtag_fast.algorithms.critics import minimum
from dtag_fast.algorithms.losses import masked_mean, masked_mse, mean_or_zero, mean_size
from dtag_fast.algorithms.parallel import mean_over_processes
from dtag_fast.algorithms.policies import SequenceAlgorithm
from dtag_fast.algorithms.schedules import cosine, set_lr
from dtag_fast.algorithms.sequence import window_sampler
from dtag_fast.algorithms.settings import above_0_to_1, at_least_zero, from_0_to_1, positive_integers
from dtag_fast.algorithms.targets import TargetNetworks, frozen_copy
from dtag_fast.data import RewardWindows, RewardWindowSampler, TrajectoryStore
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig, TwinCritic
from dtag_fast.models.critics import Activation
from dtag_fast.models.transformer import BlockBackend
from dtag_fast.ops.per_seed import draw


@dataclass(frozen=True)
class Config:
    """Defaults: the published code and its script for hopper."""

    context_len: int = 20  # K, steps the policy looks back and, less one, rewards in a target; at least 2
    d_model: int = 256  # width of a token
    n_layer: int = 4
    n_head: int = 4
    dropout: float = 0.1
    max_timestep: int = 4096  # rows of the timestep embedding
    timestep_std: float = 1.0  # of that embedding at the start; 0.02 helps short trainings
    norm: Literal["post", "pre"] = "pre"  # LayerNorm after or before attention and MLP
    activation: Literal["gelu", "relu"] = "relu"
    padding: Literal["left", "right"] = "left"  # side on which short windows are filled up
    weighting: Literal["uniform", "length"] = "length"  # probability of an episode
    start: Literal["inside", "anywhere"] = "anywhere"  # first step of a window, see WindowSampler
    reward_scale: float = 1.0  # rewards become reward_scale * r + reward_shift, for returns and the critic
    reward_shift: float = 0.0
    return_scale: float | None = (
        None  # divides returns-to-go; None: largest |return| of an episode in the data
    )
    target_returns: tuple[float, ...] = ()  # to ask for in evaluation; empty: best return in the data
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # widths of both Q functions
    critic_activation: Activation = "mish"
    discount: float = 0.99
    polyak: float = 0.005  # step of the target critic
    ema_decay: float = 0.995  # of the target policy
    ema_start: int = 1_000  # updates before the target policy moves
    ema_every: int = 5  # updates between its moves
    eta: float = 1.0  # weight of Q
    eta2: float = 1.0  # weight of the error of the actions
    batch_size: int = 256  # windows
    lr: float = 3e-4  # Adam, policy and critic
    lr_horizon: int = 500_000  # updates over which the learning rates fall to 0 (half a cosine)
    weight_decay: float = 1e-4  # of the policy, added to its gradient (L2)
    attention: BlockBackend | None = None  # None: kernels on a GPU, PyTorch's operators elsewhere
    max_grad_norm: float = 9.0  # of the policy and of the critic

    def __post_init__(self) -> None:
        if not isinstance(self.context_len, int) or self.context_len < 2:
            raise ValueError(
                f"context_len: expected an integer of at least 2, got {self.context_len!r}; a target spans "
                "two steps or more"
            )
        from_0_to_1(self, "discount", "ema_decay")
        above_0_to_1(self, "polyak")
        at_least_zero(self, "eta", "eta2", "ema_start")
        positive_integers(self, "ema_every", "lr_horizon")


class QT(SequenceAlgorithm):
    """See the head of this file. The run holds the policy and the critic, which takes raw states."""

    name = "qt"

    def _build(self) -> None:
        c, data = self.config, self.data
        model = self._sequence_model(DecisionTransformer, DecisionTransformerConfig)
        self.model = model.to(self.device)
        self.critic = TwinCritic(
            data.state_dim,
            data.action_dim,
            c.critic_hidden,
            activation=c.critic_activation,
            state_mean=data.state_mean,
            state_std=data.state_std,
        ).to(self.device)
        self.target_model = frozen_copy(self.model)
        self.target_networks = TargetNetworks(c.polyak)
        self.target = self.target_networks.copy_of(self.critic)
        self.exports = {"model": self.model, "critic": self.critic}
        self.modules = self.exports | {"target_model": self.target_model, "target": self.target}
        self.optimizers = {
            name: torch.optim.Adam(
                network.parameters(),
                lr=self.scheduled(c.lr),
                weight_decay=c.weight_decay if name == "model" else 0.0,
                fused=True,
                capturable=self.capturable,
            )
            for name, network in self.exports.items()
        }
        # gamma^(j - t) at (t, j) from the diagonal on, 0 below it
        steps = torch.arange(c.context_len, dtype=torch.float64, device=self.device)
        distance = steps - steps[:, None]
        powers = torch.where(distance >= 0, c.discount ** distance.clamp(min=0), 0.0)
        self._discounts = powers.float()  # (K, K)
        self._positions = torch.arange(c.context_len, device=self.device)  # (K,)

    def make_sampler(self, store: TrajectoryStore) -> RewardWindowSampler:
        return window_sampler(self, store, RewardWindowSampler)

    def update(self, batch: RewardWindows) -> dict[str, Tensor]:
        c = self.config
        for optimizer in self.optimizers.values():
            set_lr(optimizer, c.lr * cosine(self.schedule_step, c.lr_horizon))
        critic_loss, target_q = self.each(self._critic_parts)(batch)
        critic_norm = self.step("critic", critic_loss, c.max_grad_norm)

        self.model.train()
        action_loss, q_loss, q = self.each(self._policy_parts)(batch)
        loss = c.eta2 * action_loss + c.eta * q_loss
        grad_norm = self.step("model", loss, c.max_grad_norm)

        self.target_networks.move()
        self._move_target_model()
        self.count_update()
        return {
            "loss": loss.detach(),
            "action_loss": action_loss.detach(),
            "q_loss": q_loss.detach(),
            "q": q.detach(),
            "critic_loss": critic_loss.detach(),
            "target_q": target_q,
            "grad_norm": grad_norm,
            "critic_grad_norm": critic_norm,
        }

    def _critic_parts(self, batch: RewardWindows) -> tuple[Tensor, Tensor]:
        """The critic's loss and the mean of its targets."""
        loss, targets, known = self._critic_loss(batch)
        return loss, mean_or_zero(targets, known)

    def _critic_loss(self, batch: RewardWindows) -> tuple[Tensor, Tensor, Tensor]:
        """The squared errors of both members, added; the targets, and where they are known, (B, K) each."""
        targets, known = self._targets(batch)
        windows = batch.windows
        q = torch.cat(self.critic(self.model.normalizer.inverse(windows.states), windows.actions), dim=-1)
        errors = (q - targets[..., None]).square().sum(dim=-1)  # (B, K)
        return mean_or_zero(errors, known), targets, known

    @torch.no_grad()
    def _targets(self, batch: RewardWindows) -> tuple[Tensor, Tensor]:
        """y (B, K), and where it is known, (B, K) bool."""
        windows, ended = batch.windows, batch.terminations
        last = (windows.mask * self._positions).amax(dim=1, keepdim=True)  # (B, 1)
        states = windows.states.take_along_dim(last[..., None], dim=1)  # (B, 1, S)
        actions = self.target_model(*windows).actions.take_along_dim(last[..., None], dim=1)
        value = minimum(self.target(self.model.normalizer.inverse(states), actions)).squeeze(-1)  # (B, 1)

        open_end = (self._positions == last) & (ended == 0)  # (B, K), steps that y starts from
        gains = torch.where(open_end, value, batch.rewards)
        before = ended.cumsum(dim=1) - ended  # terminations before each step
        reached = before[:, None, :] == before[:, :, None]  # (B, t, j): none from t to j - 1
        targets = (self._discounts * reached * gains[:, None, :]).sum(dim=-1)
        return targets, windows.mask & ~open_end

    def _policy_parts(self, batch: RewardWindows) -> tuple[Tensor, Tensor, Tensor]:
        """The error of the actions, and what `_q_loss` gives of them."""
        windows = batch.windows
        actions = self.model(*windows, generator=self.generator).actions
        return masked_mse(actions, windows.actions, windows.mask), *self._q_loss(batch, actions)

    def _q_loss(self, batch: RewardWindows, actions: Tensor) -> tuple[Tensor, Tensor]:
        """-mean Q_i / mean |Q_j| for the policy's actions (B, K, A), and the mean Q of both members."""
        mask = batch.windows.mask
        members = self.critic.climbed(self.model.normalizer.inverse(batch.windows.states), actions)
        first, second = (q.squeeze(-1).float() for q in members)
        means = masked_mean(first, mask), masked_mean(second, mask)
        sizes = (mean_size(first, mask), mean_size(second, mask))
        ratio = torch.where(self._coin(first), means[0] / sizes[1], means[1] / sizes[0])
        return -ratio, (means[0] + means[1]) / 2

    def _coin(self, like: Tensor) -> Tensor:
        """A fair coin, the same in all processes that train together: a 0-dim bool, on the device of like."""
        side = draw(
            lambda x, source: x.random_(0, 2, generator=source), (), like, self.generator, torch.int64
        )
        side = side.float()
        return mean_over_processes(side if parallel.rank() == 0 else 0 * side) > 0

    @torch.no_grad()
    def _move_target_model(self) -> None:
        """pi' <- pi' + step (pi - pi'), whose step may be a tensor and 0, unlike that of `TargetNetworks`."""
        step = self._ema_step()
        if isinstance(step, Tensor) or step > 0:
            averaged = list(self.target_model.parameters())
            change = torch._foreach_sub(list(self.model.parameters()), averaged)
            torch._foreach_mul_(change, step)
            torch._foreach_add_(averaged, change)

    def _ema_step(self) -> float | Tensor:
        """How far pi' moves towards pi in this update: 1 - ema_decay or 0.

        A factor on the device where updates are captured: `ema_start` is passed once and for all, so the
        updates have no period, and a graph for each of `ema_every` places would be that many more captures.
        """
        c, n = self.config, self.schedule_step
        due = (n > c.ema_start) & (n % c.ema_every == 0)
        return due.float() * (1 - c.ema_decay) if isinstance(due, Tensor) else due * (1 - c.ema_decay)

    @torch.no_grad()
    def validate(self, batch: RewardWindows) -> dict[str, Tensor]:
        """The error of the actions, the critic's loss, and the mean and variance of its targets."""
        self.model.eval()
        actions = self.model(*batch.windows).actions
        td_error, targets, known = self._critic_loss(batch)
        mean = mean_over_processes(mean_or_zero(targets, known))
        return {
            "loss": masked_mse(actions, batch.windows.actions, batch.windows.mask),
            "td_error": td_error,
            "target_variance": mean_or_zero((targets - mean).square(), known),
            "target_q": mean,
        }

    def facts(self) -> dict[str, Any]:
        """As every sequence policy's, and the critic's discount."""
        return super().facts() | {"discount": self.config.discount}
