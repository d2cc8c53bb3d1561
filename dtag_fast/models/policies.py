"""Policies that look at the present state only."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.critics import Networks, activation_module, orthogonal_linear
from dtag_fast.models.normalizer import ActionBounds, InputNormalizer
from dtag_fast.ops.dropout import dropout as drop
from dtag_fast.ops.per_seed import draw

LOG_STD_RANGE = (-5.0, 2.0)
TANH_MARGIN = 1e-6  # given actions are kept this far inside -1 and 1, whose inverse tanh is infinite
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class StatePolicy(nn.Module, ABC):
    """Layers over the standardised state, with dropout after each in training.

    Subclasses add heads and say what `act` gives.

    Args:
        state_dim, action_dim: S, A. hidden: widths of the layers. dropout: probability in [0, 1).
        activation: as for `TwinCritic`.
        state_mean, state_std, action_low, action_high: as for `SequenceModel`.
    """

    linear: ClassVar[Callable[[int, int], nn.Linear]] = staticmethod(nn.Linear)  # makes a layer
    predicts_returns = takes_target_return = False

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        activation: str = "relu",
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        self.config: dict[str, Any] = {
            "state_dim": state_dim,
            "action_dim": action_dim,
            "hidden": list(hidden),
            "dropout": dropout,
            "activation": activation,
        }
        self.dropout = dropout
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.action_bounds = ActionBounds(action_dim, action_low, action_high)
        self.layers = nn.ModuleList(self.linear(a, b) for a, b in pairwise([state_dim, *hidden]))
        self.activation = activation_module(activation)

    @property
    def features(self) -> int:
        """Width of what the heads are given."""
        return self.layers[-1].out_features if len(self.layers) else self.config["state_dim"]

    def project(self, head: nn.Linear, states: Tensor, generator: Generator | None = None) -> Tensor:
        """A linear map of the layers' output: states (..., S) raw -> (..., outputs of the head)."""
        dropout = self.training and self.dropout
        if not dropout:
            networks = Networks([[*self.layers, head]], self.config["activation"], self.normalizer)
            outputs = networks(states)
            if outputs is not None:
                return outputs[0]
        x = self.normalizer(states)
        for layer in self.layers:
            x = self.activation(layer(x))
            if dropout:
                x = drop(x, self.dropout, generator)
        return head(x)

    @abstractmethod
    def act(self, states: Tensor) -> Tensor:
        """The action to execute in evaluation: states (B, S) raw -> (B, A) inside the bounds."""


class DeterministicPolicy(StatePolicy):
    """tanh of a linear map: the policy of behaviour cloning and TD3+BC; layers as PyTorch makes them."""

    def __init__(self, state_dim: int, action_dim: int, *args, **kwargs):
        super().__init__(state_dim, action_dim, *args, **kwargs)
        self.action_head = self.linear(self.features, action_dim)

    def forward(self, states: Tensor, generator: Generator | None = None) -> Tensor:
        """states (B, S) raw -> actions (B, A) inside the action bounds."""
        return self.action_bounds(F.tanh(self.project(self.action_head, states, generator)))

    @torch.inference_mode()
    def act(self, states: Tensor) -> Tensor:
        """As `forward`. Call it in eval mode."""
        return self(states)


class GaussianPolicy(StatePolicy):
    """Normal(mean(s), exp(log_std)), log_std one free vector: the policy of IQL and of AWAC.

    Args:
        squash_mean: the mean ends in tanh and lies inside the action bounds (IQL); otherwise it is linear
            and may leave them (AWAC).
        log_std_range: log_std is clamped to it. The others as for `StatePolicy`.
    """

    linear = staticmethod(orthogonal_linear)

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        *args,
        squash_mean: bool = True,
        log_std_range: Sequence[float] = LOG_STD_RANGE,
        **kwargs,
    ):
        super().__init__(state_dim, action_dim, *args, **kwargs)
        self.config |= {"squash_mean": squash_mean, "log_std_range": list(log_std_range)}
        self.squash_mean, self.log_std_range = squash_mean, tuple(log_std_range)
        self.mean_head = self.linear(self.features, action_dim)
        self.action_log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, states: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """states (B, S) raw -> mean (B, A) and log_std (A,), in the units of actions."""
        mean = in_full(self.project(self.mean_head, states, generator))
        mean = self.action_bounds(F.tanh(mean) if self.squash_mean else mean)
        return mean, self.action_log_std.clamp(*self.log_std_range)

    def sample(self, states: Tensor, generator: Generator | None = None) -> Tensor:
        """states (B, S) raw -> (B, A) drawn, then clipped to the action bounds."""
        mean, log_std = self(states, generator)
        return self.drawn(mean, log_std, normal_like(mean, generator))

    def drawn(self, mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Actions (..., A) for what `forward` gives and standard normal noise, clipped to the bounds."""
        return self.action_bounds.clip(mean + log_std.exp() * noise)

    @torch.inference_mode()
    def act(self, states: Tensor) -> Tensor:
        """The mean, inside the action bounds. Call it in eval mode."""
        return self.action_bounds.clip(self(states)[0])


class TanhGaussianPolicy(StatePolicy):
    """x = tanh(u), u ~ Normal(mean(s), exp(log_std(s))): the policy of SAC and CQL.

    Densities are those of the unit action x in (-1, 1)^A, whatever the bounds are, so that an entropy does
    not depend on the units of actions.

    Args:
        log_std_range: log_std is clamped to it. initial_log_std: its bias before training.
        The others as for `StatePolicy`. The last layer starts small (gain 0.01): every state begins with
        a mean near 0 and the same deviation.
    """

    linear = staticmethod(orthogonal_linear)

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        *args,
        log_std_range: Sequence[float] = (-20.0, 2.0),
        initial_log_std: float = -1.0,
        **kwargs,
    ):
        super().__init__(state_dim, action_dim, *args, **kwargs)
        self.config |= {"log_std_range": list(log_std_range)}
        self.log_std_range = tuple(log_std_range)
        self.head = orthogonal_linear(self.features, 2 * action_dim, gain=0.01)
        nn.init.constant_(self.head.bias[action_dim:], initial_log_std)

    def forward(self, states: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """states (..., S) raw -> mean and log_std of u, (..., A) each."""
        mean, log_std = in_full(self.project(self.head, states, generator)).chunk(2, dim=-1)
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
        mean, log_std = self(states, generator)
        if count is not None:
            mean, log_std = (x.unsqueeze(-2).expand(-1, count, -1) for x in (mean, log_std))
        noise = normal_like(mean, generator)
        u = mean + log_std.exp() * noise
        return self.action_bounds(u.tanh()), _log_density(u, noise, log_std)

    def drawn(self, mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Actions (..., A) for what `forward` gives and standard normal noise."""
        return self.action_bounds((mean + log_std.exp() * noise).tanh())

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """log pi (..., 1) of given actions (..., A); those on the bounds count as `TANH_MARGIN` inside."""
        mean, log_std = self(states)
        u = inverse_tanh(self.action_bounds.inverse(actions))
        return _log_density(u, (u - mean) * torch.exp(-log_std), log_std)

    @torch.inference_mode()
    def act(self, states: Tensor) -> Tensor:
        """tanh of the mean. Call it in eval mode."""
        return self.action_bounds(self(states)[0].tanh())


def normal_like(x: Tensor, generator: Generator | None = None) -> Tensor:
    """Draws of N(0, 1) in the shape of x, contiguous."""
    return draw(lambda noise, source: noise.normal_(generator=source), x.shape, x, generator)


def in_full(x: Tensor) -> Tensor:
    """Float32 of what a network gives in half precision (under autocast): densities need the digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _log_density(u: Tensor, z: Tensor, log_std: Tensor) -> Tensor:
    """log density (..., 1) of tanh(u), u = mean + exp(log_std) z; all (..., A)."""
    normal = -0.5 * z.square() - log_std - _HALF_LOG_2PI
    return (normal - log_tanh_derivative(u)).sum(dim=-1, keepdim=True)


def log_tanh_derivative(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which stays exact where tanh(u) rounds to 1."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


def inverse_tanh(unit_actions: Tensor) -> Tensor:
    """Inverse of tanh for numbers in [-1, 1], first brought to at most 1 - TANH_MARGIN in size."""
    return unit_actions.clamp(-1 + TANH_MARGIN, 1 - TANH_MARGIN).atanh()
