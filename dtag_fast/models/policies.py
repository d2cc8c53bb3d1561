"""Policies that look at the present state only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.critics import orthogonal_linear
from dtag_fast.models.normalizer import ActionBounds, InputNormalizer
from dtag_fast.ops.dropout import dropout as drop

LOG_STD_RANGE = (-5.0, 2.0)


class GaussianPolicy(nn.Module):
    """Normal(tanh mean, exp(log_std)), log_std one free vector clamped to [-5, 2]: the policy of IQL.

    Args:
        state_dim, action_dim: S, A. hidden: widths of the ReLU layers. dropout: after each of them, in
        training.
        state_mean, state_std, action_low, action_high: as for `SequenceModel`.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
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
        }
        self.dropout = dropout
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.action_bounds = ActionBounds(action_dim, action_low, action_high)
        widths = [state_dim, *hidden]
        self.layers = nn.ModuleList(orthogonal_linear(a, b) for a, b in pairwise(widths))
        self.mean_head = orthogonal_linear(widths[-1], action_dim)
        self.action_log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, states: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """states (B, S) raw -> mean (B, A) inside the action bounds, log_std (A,)."""
        x = self.normalizer(states)
        for layer in self.layers:
            x = F.relu(layer(x))
            if self.training and self.dropout:
                x = drop(x, self.dropout, generator)
        mean = self.action_bounds(F.tanh(self.mean_head(x)))
        return mean, self.action_log_std.clamp(*LOG_STD_RANGE)
