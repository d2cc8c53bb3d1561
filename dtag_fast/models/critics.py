"""State-action and state values as plain MLPs that take raw states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dtag_fast.models.normalizer import InputNormalizer
from dtag_fast.ops.mlp import Layer, Norm
from dtag_fast.ops.mlp import compiled as compiled_mlp
from dtag_fast.ops.mlp import why_not as why_not_compiled

Activation = Literal["relu", "elu", "gelu", "silu", "mish", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
}


def mlp_layers(
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


def parameters(module: nn.Linear | nn.LayerNorm, fixed: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias; fixed: such that they take no gradient."""
    weight, bias = module.weight, module.bias
    return (weight.detach(), bias.detach()) if fixed else (weight, bias)


class Networks:
    """Several networks of one shape, from (states, more inputs), to be computed in one compiled call.

    Args:
        networks: for each its layers in order: `nn.Linear`, with the same activation between them, and
            `nn.LayerNorm` before it where there is one.
        activation: its name in ACTIVATIONS. normalizer: of the states.
        fixed: whether the parameters take no gradient.
    """

    def __init__(
        self,
        networks: Sequence[Sequence[nn.Module]],
        activation: str,
        normalizer: InputNormalizer,
        fixed: bool = False,
    ):
        self.layers: list[list[Layer]] = []
        self.reason: str | None = None
        self.activation, self.normalizer = activation, normalizer
        for network in networks:
            layers: list[Layer] = []
            before: nn.Module | None = None
            for module in network:
                # Who hooks a layer wants it to be called.
                if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
                    self.reason = "a layer has hooks"
                if isinstance(module, nn.Linear):
                    layers.append(parameters(module, fixed))
                elif isinstance(module, nn.LayerNorm):
                    if (
                        isinstance(before, nn.Linear)
                        and module.weight is not None
                        and module.bias is not None
                    ):
                        layers[-1] = (*layers[-1][:2], Norm(*parameters(module, fixed), module.eps))
                    else:
                        self.reason = "a LayerNorm without weight and bias, or not right after a linear layer"
                before = module
            self.layers.append(layers)

    def why_not(self, states: Tensor, extra: Tensor | None = None) -> str | None:
        """Why they cannot be, or None."""
        n = self.normalizer
        return self.reason or why_not_compiled(states, self.layers, extra, n.mean, n.std)

    def __call__(self, states: Tensor, extra: Tensor | None = None) -> Tensor | None:
        """states (..., S) raw, extra (..., E) -> (M, ..., out); None where `why_not` has a reason."""
        if self.why_not(states, extra) is not None:
            return None
        n = self.normalizer
        return compiled_mlp(states, self.layers, self.activation, extra, n.mean, n.std)

    def explain(self, states: Tensor, extra: Tensor | None = None) -> str:
        """How they are computed, and why."""
        reason = self.why_not(states, extra)
        if reason is None:
            return "networks: compiled, one call forwards and one backwards"
        return f"networks: operator by operator ({reason})"


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
            mlp_layers(state_dim + action_dim, hidden, 1, activation, layer_norm, last_gain)
            for _ in range(members)
        )

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """states (..., S) raw, actions (..., A) -> one (..., 1) Q per member."""
        return self._forward(states, actions, fixed=False)

    def climbed(self, states: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, for a loss whose gradients are asked for the states or actions alone.

        The compiled networks do not compute those of the parameters then.
        """
        return self._forward(states, actions, fixed=True)

    def _forward(self, states: Tensor, actions: Tensor, fixed: bool) -> tuple[Tensor, ...]:
        values = self._networks(fixed)(states, actions)
        if values is not None:
            return values.unbind()
        inputs = torch.cat((self.normalizer(states), actions), dim=-1)
        return tuple(member(inputs) for member in self.members)

    def explain(self) -> str:
        """How its networks are computed where the parameters are, and why."""
        sizes = self.config["state_dim"], self.config["action_dim"]
        return self._networks().explain(*(self.normalizer.mean.new_empty(1, size) for size in sizes))

    def _networks(self, fixed: bool = False) -> Networks:
        return Networks(self.members, self.config["activation"], self.normalizer, fixed)


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
        self.net = mlp_layers(state_dim, hidden, 1, activation, layer_norm)

    def forward(self, states: Tensor) -> Tensor:
        """states (..., S) raw -> (..., 1)."""
        values = self._networks()(states)
        if values is not None:
            return values[0]
        return self.net(self.normalizer(states))

    def explain(self) -> str:
        """As TwinCritic's."""
        return self._networks().explain(self.normalizer.mean.new_empty(1, self.config["state_dim"]))

    def _networks(self) -> Networks:
        return Networks((self.net,), self.config["activation"], self.normalizer)
