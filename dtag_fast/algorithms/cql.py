"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779): Q(H), over a soft actor-critic.

    Q:      mean over the batch of sum_i (Q_i(s, a) - y)^2 + w sum_i mean D_i
            y   = r + gamma (1 - terminal) min_i Q'_i(s', a'),   a' ~ pi(s')       [- alpha log pi(a' | s')]
            D_i = T log sum_b exp(Q_i(s, b) / T) - Q_i(s, a)      the conservative gap
            b: n actions each from the uniform distribution, pi(s) and pi(s'), each Q less the log-density of
            b; or, without importance sampling, those and a, each Q as it is
    policy: mean alpha log pi(b | s) - min_i Q_i(s, b),   b ~ pi(s)
    alpha:  -log alpha mean (log pi(b | s) + H_target),   H_target = -A
    Q' <- (1 - polyak) Q' + polyak Q

All losses are computed from the networks as they are, then the steps are made. With a Lagrange multiplier the
penalty is alpha' w sum_i (mean D_i - gap), and log alpha' ascends half of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dtag_fast.algorithms.critics import (
    CriticAlgorithm,
    RewardTransform,
    check_settings,
    minimum,
    squared_errors,
)
from dtag_fast.algorithms.settings import positive, positive_integers
from dtag_fast.data import Transitions
from dtag_fast.models import TanhGaussianPolicy
from dtag_fast.models.critics import Activation
from dtag_fast.ops.per_seed import draw

MAX_MULTIPLIER = 1e6  # of alpha'


@dataclass(frozen=True)
class Config:
    """Defaults: CORL's settings for Gym locomotion."""

    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the critic
    policy_hidden: tuple[int, ...] = (256, 256, 256)  # and of the policy
    members: int = 2  # Q functions
    layer_norm: bool = False  # LayerNorm before each activation of the critic
    activation: Activation = "relu"  # of every network
    discount: float = 0.99
    n_step: int = 1  # rewards in a target, before it is bootstrapped
    polyak: float = 0.005  # step of the target critic
    penalty: float = 10.0  # w, weight of the conservative gap D
    n_actions: int = 10  # n, drawn from each of the three distributions
    penalty_temperature: float = 1.0  # T, of the soft maximum in D
    importance_sampling: bool = True  # take the log-density of a drawn action off its Q in D
    difference_min: float | None = None  # clip D of every transition from below; None: do not
    difference_max: float | None = None  # and from above
    lagrange_gap: float | None = None  # a multiplier alpha' of w holds D here; None: there is none
    max_backup: bool = False  # the next action is the best of n drawn, by the target critic
    backup_entropy: bool = False  # take alpha log pi(a' | s') off the value of the next state
    auto_entropy: bool = True  # learn alpha; otherwise it stays at initial_alpha
    initial_alpha: float = 1.0  # weight of the policy's entropy at the start
    target_entropy: float | None = None  # of actions in [-1, 1]; None: -A, A the action's dimension
    imitation_updates: int = 0  # first updates, in which the policy follows the data and not Q
    reward_transform: RewardTransform = "raw"  # see `reward_affine`
    normalize_states: bool = True  # standardise states, inside the networks
    batch_size: int = 256
    lr: float = 3e-4  # Adam, critic and alpha'
    policy_lr: float = 3e-5  # Adam, policy and alpha

    def __post_init__(self) -> None:
        check_settings(self)
        positive_integers(self, "n_actions")
        positive(self, "penalty_temperature", "initial_alpha")
        low, high = self.difference_min, self.difference_max
        if low is not None and high is not None and not low < high:
            raise ValueError(f"difference_min: expected below difference_max = {high}, got {low}")


class CQL(CriticAlgorithm):
    """See the head of this file."""

    name = "cql"

    def _build(self) -> None:
        c, data = self.config, self.data
        self._build_critic(last_gain=0.01)
        self.policy = TanhGaussianPolicy(
            data.state_dim, data.action_dim, c.policy_hidden, activation=c.activation, **self._policy_edges()
        ).to(self.device)
        self.exports["model"] = self.modules["model"] = self.policy
        self.target_entropy = -float(data.action_dim) if c.target_entropy is None else c.target_entropy
        self.log_alpha = torch.tensor(math.log(c.initial_alpha), device=self.device, requires_grad=True)
        self.log_multiplier = torch.tensor(1.0, device=self.device, requires_grad=True)  # log alpha'
        for name in ("model", "critic"):
            lr = c.lr if name == "critic" else c.policy_lr
            self.optimizers[name] = self._adam(self.modules[name].parameters(), lr)
        if c.auto_entropy:
            self.optimizers["alpha"] = self._adam([self.log_alpha], c.policy_lr)
        if c.lagrange_gap is not None:
            self.optimizers["multiplier"] = self._adam([self.log_multiplier], c.lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        c = self.config
        alpha = self.log_alpha.exp()
        policy_loss, log_prob, missing = self.each(self._policy_loss)(batch, alpha.detach())
        td_loss, excess, gap, q = self.each(self._critic_parts)(batch, alpha.detach())
        multiplier = self.log_multiplier.exp().clamp(0.0, MAX_MULTIPLIER)
        if c.lagrange_gap is None:
            penalty = c.penalty * excess
        else:
            penalty = multiplier.detach() * c.penalty * excess
            self.step("multiplier", -0.5 * multiplier * c.penalty * excess.detach())
        if c.auto_entropy:
            self.step("alpha", -self.log_alpha * missing)
        self.step("model", policy_loss)
        self.step("critic", td_loss + penalty)
        self.target_networks.move()
        self.count_update()
        metrics = {
            "critic_loss": td_loss + penalty,
            "td_loss": td_loss,
            "conservative_gap": gap,
            "q": q,
            "policy_loss": policy_loss,
            "log_prob": log_prob,
            "alpha": alpha,
        }
        if c.lagrange_gap is not None:
            metrics["multiplier"] = multiplier
        return {name: value.detach() for name, value in metrics.items()}

    def _critic_parts(self, batch: Transitions, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Squared TD errors, sum over i of mean D_i less its gap if there is one, mean D, and mean Q."""
        y = self._targets(batch, alpha)
        q = torch.stack(self.critic(batch.states, batch.actions))  # (members, B, 1)
        td_loss = squared_errors(q, y)
        gaps, held_at = self._conservative_gaps(batch, q), self.config.lagrange_gap
        excess = gaps.sum() if held_at is None else (gaps - held_at).sum()
        return td_loss, excess, gaps.mean(), q.mean()

    def _policy_loss(self, batch: Transitions, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The policy's loss, and of the actions drawn for it mean log pi, and mean log pi + H_target."""
        actions, log_prob = self.policy.sample(batch.states, self.generator)
        worth = minimum(self.critic(batch.states, actions))
        if self.config.imitation_updates > 0:
            imitated = self.policy.log_prob(batch.states, batch.actions)
            imitating = self.schedule_step < self.config.imitation_updates
            if isinstance(imitating, Tensor):
                worth = torch.where(imitating, imitated, worth)
            else:
                worth = imitated if imitating else worth
        loss, drawn = (alpha * log_prob - worth).mean(), log_prob.detach()
        return loss, drawn.mean(), (drawn + self.target_entropy).mean()

    @torch.no_grad()
    def _targets(self, batch: Transitions, alpha: Tensor | None = None) -> Tensor:
        """y (B, 1); alpha: None for the present one."""
        c = self.config
        alpha = self.log_alpha.exp() if alpha is None else alpha
        count = c.n_actions if c.max_backup else 1
        actions, log_prob = self.policy.sample(batch.next_states, self.generator, count)
        values, chosen = minimum(self.target(_repeat(batch.next_states, count), actions)).max(dim=1)  # (B, 1)
        if c.backup_entropy:
            values = values - alpha * log_prob.squeeze(-1).gather(1, chosen)
        return batch.rewards + batch.discounts * (1 - batch.terminations) * values

    def _conservative_gaps(self, batch: Transitions, q: Tensor) -> Tensor:
        """Mean D_i of each member, (members,); q (members, B, 1) of the data's actions."""
        c, n = self.config, self.config.n_actions
        with torch.no_grad():
            bounds = self.policy.action_bounds
            shape = (len(batch.states), n, self.data.action_dim)
            uniform = draw(
                lambda x, source: x.uniform_(-1, 1, generator=source),
                shape,
                batch.states,
                self.generator,
            )
            current, current_log_prob = self.policy.sample(batch.states, self.generator, n)
            following, following_log_prob = self.policy.sample(batch.next_states, self.generator, n)
            actions = torch.cat((bounds(uniform), current, following), dim=1)  # (B, 3n, A)
            uniform_log_prob = torch.full_like(current_log_prob, -self.data.action_dim * math.log(2))
            log_density = torch.cat((uniform_log_prob, current_log_prob, following_log_prob), dim=1)
        sampled = torch.stack(self.critic(_repeat(batch.states, 3 * n), actions))  # (members, B, 3n, 1)
        if c.importance_sampling:
            sampled = sampled - log_density
        else:
            sampled = torch.cat((sampled, q.unsqueeze(2)), dim=2)
        temperature = c.penalty_temperature
        difference = temperature * torch.logsumexp(sampled / temperature, dim=2) - q  # (members, B, 1)
        if c.difference_min is not None or c.difference_max is not None:
            difference = difference.clamp(c.difference_min, c.difference_max)
        return difference.mean(dim=(1, 2))

    def extra_tensors(self) -> dict[str, Tensor]:
        return {"log_alpha": self.log_alpha, "log_multiplier": self.log_multiplier}


def _repeat(states: Tensor, count: int) -> Tensor:
    """(B, S) -> (B, count, S) without copying."""
    return states.unsqueeze(1).expand(-1, count, -1)
