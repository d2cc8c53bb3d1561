"""Policies that look at the present state only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.critics import activation_module, mlp, orthogonal_linear
from dtag_fast.models.normalizer import ActionBounds, InputNormalizer
from dtag_fast.ops.dropout import dropout as drop

LOG_STD_RANGE = (-5.0, 2.0)
UNIT_MARGIN = 1e-6  # given actions are kept this far inside -1 and 1 before their tanh is undone
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class GaussianPolicy(nn.Module):
    """Normal(mean(s), exp(log_std)), log_std one free vector: the policy of IQL and of AWAC.

    Args:
        state_dim, action_dim: S, A. hidden: widths of the layers. dropout: after each of them, in training.
        activation: as for `TwinCritic`.
        squash_mean: the mean ends in tanh and lies inside the action bounds (IQL); otherwise it is linear
            and may leave them (AWAC).
        log_std_range: log_std is clamped to it.
        state_mean, state_std, action_low, action_high: as for `SequenceModel`.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        activation: str = "relu",
        squash_mean: bool = True,
        log_std_range: Sequence[float] = LOG_STD_RANGE,
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
    ):
        super().__init__()
        self.config = {
            "state_dim": state_dim,
            "action_dim": action_dim,
            "hidden": list(hidden),
            "dropout": dropout,
            "activation": activation,
            "squash_mean": squash_mean,
            "log_std_range": list(log_std_range),
        }
        self.dropout, self.squash_mean, self.log_std_range = dropout, squash_mean, tuple(log_std_range)
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.action_bounds = ActionBounds(action_dim, action_low, action_high)
        widths = [state_dim, *hidden]
        self.layers = nn.ModuleList(orthogonal_linear(a, b) for a, b in pairwise(widths))
        self.activation = activation_module(activation)
        self.mean_head = orthogonal_linear(widths[-1], action_dim)
        self.action_log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, states: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """states (B, S) raw -> mean (B, A) and log_std (A,), in the units of actions."""
        x = self.normalizer(states)
        for layer in self.layers:
            x = self.activation(layer(x))
            if self.training and self.dropout:
                x = drop(x, self.dropout, generator)
        mean = _full(self.mean_head(x))
        mean = self.action_bounds(F.tanh(mean) if self.squash_mean else mean)
        return mean, self.action_log_std.clamp(*self.log_std_range)

    def sample(self, states: Tensor, generator: Generator | None = None) -> Tensor:
        """states (B, S) raw -> (B, A) drawn, then clipped to the action bounds."""
        mean, log_std = self(states, generator)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return self.action_bounds.clip(mean + log_std.exp() * noise)

    def act(self, states: Tensor) -> Tensor:
        """states (B, S) raw -> (B, A), the mean inside the action bounds."""
        return self.action_bounds.clip(self(states)[0])


class DeterministicPolicy(nn.Module):
    """tanh of an MLP, mapped onto the action bounds: the policy of TD3+BC. Arguments as GaussianPolicy's."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
    ):
        super().__init__()
        self.config = {
            "state_dim": state_dim,
            "action_dim": action_dim,
            "hidden": list(hidden),
            "activation": activation,
        }
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.action_bounds = ActionBounds(action_dim, action_low, action_high)
        self.net = mlp(state_dim, hidden, action_dim, activation)

    def forward(self, states: Tensor) -> Tensor:
        """states (B, S) raw -> (B, A) inside the action bounds."""
        return self.action_bounds(F.tanh(self.net(self.normalizer(states))))

    def act(self, states: Tensor) -> Tensor:
        """The same as calling it."""
        return self(states)


class TanhGaussianPolicy(nn.Module):
    """x = tanh(u), u ~ Normal(mean(s), exp(log_std(s))): the policy of SAC and CQL.

    Densities are those of the unit action x in (-1, 1)^A, whatever the bounds are, so that an entropy does
    not depend on the units of actions.

    Args:
        log_std_range: log_std is clamped to it. initial_log_std: its bias before training.
        The others as for `GaussianPolicy`. The last layer starts small (gain 0.01): every state begins with
        a mean near 0 and the same deviation.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256, 256),
        activation: str = "relu",
        log_std_range: Sequence[float] = (-20.0, 2.0),
        initial_log_std: float = -1.0,
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
    ):
        super().__init__()
        self.config = {
            "state_dim": state_dim,
            "action_dim": action_dim,
            "hidden": list(hidden),
            "activation": activation,
            "log_std_range": list(log_std_range),
        }
        self.log_std_range = tuple(log_std_range)
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.action_bounds = ActionBounds(action_dim, action_low, action_high)
        self.net = mlp(state_dim, hidden, 2 * action_dim, activation, last_gain=0.01)
        nn.init.constant_(self.net[-1].bias[action_dim:], initial_log_std)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """states (..., S) raw -> mean and log_std of u, (..., A) each."""
        mean, log_std = _full(self.net(self.normalizer(states))).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)

    def sample(
        self, states: Tensor, generator: Generator | None = None, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions drawn with their log-probabilities; both carry gradients to the weights.

        Args:
            states: (B, S) raw. count: draws per state; None for one, without an axis of its own.
        Returns:
            actions (B, [count,] A) and log pi (B, [count,] 1).
        """
        mean, log_std = self(states)
        if count is not None:
            mean, log_std = (x.unsqueeze(-2).expand(-1, count, -1) for x in (mean, log_std))
        noise = torch.empty(mean.shape, device=mean.device, dtype=mean.dtype).normal_(generator=generator)
        u = mean + log_std.exp() * noise
        return self.action_bounds(u.tanh()), _log_density(u, noise, log_std)

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """log pi (..., 1) of given actions (..., A); those on the bounds count as `UNIT_MARGIN` inside."""
        mean, log_std = self(states)
        limit = 1 - UNIT_MARGIN
        u = torch.atanh(self.action_bounds.to_unit(actions).clamp(-limit, limit))
        return _log_density(u, (u - mean) * torch.exp(-log_std), log_std)

    def act(self, states: Tensor) -> Tensor:
        """states (B, S) raw -> (B, A), tanh of the mean."""
        return self.action_bounds(self(states)[0].tanh())


def _full(x: Tensor) -> Tensor:
    """Float32 of what a network gives in half precision (under autocast): densities need the digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _log_density(u: Tensor, z: Tensor, log_std: Tensor) -> Tensor:
    """log density (..., 1) of tanh(u), u = mean + exp(log_std) z; all (..., A)."""
    normal = -0.5 * z.square() - log_std - _HALF_LOG_2PI
    return (normal - log_tanh_derivative(u)).sum(dim=-1, keepdim=True)


def log_tanh_derivative(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which stays exact where tanh(u) rounds to 1."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))
