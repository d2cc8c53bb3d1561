"""State-action and state values as plain MLPs that take raw states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dtag_fast.models.normalizer import InputNormalizer

Activation = Literal["relu", "elu", "gelu", "silu", "mish", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
}


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: str = "relu",
    layer_norm: bool = False,
    last_gain: float = 2**0.5,
) -> nn.Sequential:
    """Linear, [LayerNorm,] activation per hidden width, then a Linear to `outputs`.

    Weights are orthogonal with gain sqrt(2) and biases zero, in every layer, as in the published IQL;
    `last_gain` is the gain of the last one.
    """
    layers: list[nn.Module] = []
    width = inputs
    for size in hidden:
        layers.append(orthogonal_linear(width, size))
        if layer_norm:
            layers.append(nn.LayerNorm(size))
        layers.append(activation_module(activation))
        width = size
    layers.append(orthogonal_linear(width, outputs, last_gain))
    return nn.Sequential(*layers)


def activation_module(name: str) -> nn.Module:
    """An activation by its name in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()


def orthogonal_linear(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """A Linear with orthogonal weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


class TwinCritic(nn.Module):
    """An ensemble of Q functions, two by default.

    States are standardised inside, so callers (`refine` among them) always pass raw ones.

    Args:
        state_dim, action_dim: S, A.
        hidden: widths of the hidden layers. members: number of Q functions, at least 1.
        layer_norm: a LayerNorm before each activation. activation: relu, elu, gelu, silu, mish or tanh.
        state_mean, state_std: (S,) statistics of the training states; identity when absent.
        last_gain: of the last layer's orthogonal weights before training; not part of the architecture.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        members: int = 2,
        layer_norm: bool = False,
        activation: str = "relu",
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
        last_gain: float = 2**0.5,
    ):
        super().__init__()
        if members < 1:
            raise ValueError(f"members: expected at least 1 Q function, got {members}")
        self.config = {
            "state_dim": state_dim,
            "action_dim": action_dim,
            "hidden": list(hidden),
            "members": members,
            "layer_norm": layer_norm,
            "activation": activation,
        }
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.members = nn.ModuleList(
            mlp(state_dim + action_dim, hidden, 1, activation, layer_norm, last_gain) for _ in range(members)
        )

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """states (..., S) raw, actions (..., A) -> one (..., 1) Q per member."""
        inputs = torch.cat((self.normalizer(states), actions), dim=-1)
        return tuple(member(inputs) for member in self.members)


class ValueNet(nn.Module):
    """V(s). Arguments as TwinCritic's."""

    def __init__(
        self,
        state_dim: int,
        hidden: Sequence[int] = (256, 256),
        layer_norm: bool = False,
        activation: str = "relu",
        state_mean: Tensor | None = None,
        state_std: Tensor | None = None,
    ):
        super().__init__()
        self.config = {
            "state_dim": state_dim,
            "hidden": list(hidden),
            "layer_norm": layer_norm,
            "activation": activation,
        }
        self.normalizer = InputNormalizer(state_dim, state_mean, state_std)
        self.net = mlp(state_dim, hidden, 1, activation, layer_norm)

    def forward(self, states: Tensor) -> Tensor:
        """states (..., S) raw -> (..., 1)."""
        return self.net(self.normalizer(states))
