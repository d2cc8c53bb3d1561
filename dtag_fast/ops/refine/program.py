"""CriticProgram: a critic as plain layers and numbers, the one form every fast backend takes.

    Q_e(s, a) = layers_e([s | a]),   e = 1..E

Members are lists of Linear, LayerNorm and Activation; the first layer of each is a Linear over the columns
[state | action], the last is a Linear of width 1. Anything affine before the first (input normalisation) and
after the last (scaling of Q) is folded into them by lowering, so a program has no other kind of arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MAX_WIDTH, MAX_DEPTH, MAX_STATE, MAX_ACTION = 2048, 8, 4096, 256

ACTIVATIONS: dict[str, tuple[str, ...]] = {  # kind -> names of its parameters
    "identity": (),
    "relu": (),
    "leaky_relu": ("slope",),
    "elu": ("alpha",),
    "gelu": (),
    "gelu_tanh": (),
    "silu": (),
    "mish": (),
    "tanh": (),
    "softplus": ("beta", "threshold"),
}


@dataclass(frozen=True, eq=False)
class Linear:
    """y = weight @ x + bias. weight (out, in) float32, bias (out,) float32 or None."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over `width` numbers, biased variance."""

    width: int
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


@dataclass(frozen=True)
class Activation:
    """An element-wise function, formula as in torch.nn; `params` in the order of ACTIVATIONS."""

    kind: str
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {self.kind!r}")
        if len(self.params) != len(ACTIVATIONS[self.kind]):
            raise ValueError(
                f"activation {self.kind}: expected parameters {ACTIVATIONS[self.kind]}, got {self.params}"
            )


Layer = Linear | LayerNorm | Activation


@dataclass(frozen=True, eq=False)
class CriticProgram:
    """An ensemble of E small networks Q_e(s, a).

    Args:
        state_dim: S in 1..4096. action_dim: A in 1..256.
        members: E >= 1 lists of layers. First layer Linear (H, S + A), last layer Linear (1, H);
            at most 8 Linear layers, widths at most 2048. Members may differ.
        reduction: None when the caller's `reduce` applies; "min", "mean" or "max" when the critic reduces its
            members itself, which then replaces `reduce`.

    Raises:
        ValueError: naming the member and layer that does not fit.
    """

    state_dim: int
    action_dim: int
    members: tuple[tuple[Layer, ...], ...]
    reduction: Literal["min", "mean", "max"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(tuple(layers) for layers in self.members))
        reason = program_error(self)
        if reason:
            raise ValueError(f"CriticProgram: {reason}")

    @property
    def device(self) -> torch.device:
        return self.members[0][0].weight.device

    def tensors(self) -> list[Tensor]:
        """Every weight, in a fixed order."""
        found: list[Tensor | None] = []
        for layers in self.members:
            for layer in layers:
                if not isinstance(layer, Activation):
                    found += (layer.weight, layer.bias)
        return [t for t in found if t is not None]


def program_error(program: CriticProgram) -> str | None:
    """Why `program` is not a critic the backends can run, or None."""
    if not 1 <= program.state_dim <= MAX_STATE:
        return f"state_dim must be in 1..{MAX_STATE}, got {program.state_dim}"
    if not 1 <= program.action_dim <= MAX_ACTION:
        return f"action_dim must be in 1..{MAX_ACTION}, got {program.action_dim}"
    if program.reduction not in (None, "min", "mean", "max"):
        return f'reduction must be None, "min", "mean" or "max", got {program.reduction!r}'
    if not program.members:
        return "at least one member is needed"
    for e, layers in enumerate(program.members):
        reason = _member_error(layers, program.state_dim + program.action_dim)
        if reason:
            return f"member {e}: {reason}"
    devices = {str(t.device) for t in program.tensors()}
    return f"weights are on several devices ({', '.join(sorted(devices))})" if len(devices) > 1 else None


def _member_error(layers: tuple[Layer, ...], width: int) -> str | None:
    if not layers or not isinstance(layers[0], Linear) or not isinstance(layers[-1], Linear):
        return "the first and the last layer must be Linear"
    for i, layer in enumerate(layers):
        if isinstance(layer, Linear):
            if layer.weight.ndim != 2 or layer.weight.shape[1] != width:
                return f"layer {i}: Linear weight must be (out, {width}), got {tuple(layer.weight.shape)}"
            width = layer.weight.shape[0]
            if not 1 <= width <= MAX_WIDTH:
                return f"layer {i}: width must be in 1..{MAX_WIDTH}, got {width}"
        elif isinstance(layer, LayerNorm):
            if layer.width != width:
                return f"layer {i}: LayerNorm width must be {width}, got {layer.width}"
        elif not isinstance(layer, Activation):
            return f"layer {i}: expected Linear, LayerNorm or Activation, got {type(layer).__name__}"
        if isinstance(layer, Linear | LayerNorm):
            for name, tensor, shape in (("weight", layer.weight, None), ("bias", layer.bias, (width,))):
                if tensor is None:
                    continue
                if shape is None and isinstance(layer, LayerNorm):
                    shape = (width,)
                if shape is not None and tuple(tensor.shape) != shape:
                    return f"layer {i}: {name} must be {shape}, got {tuple(tensor.shape)}"
                if not tensor.is_floating_point():
                    return f"layer {i}: {name} must be floating point, got {tensor.dtype}"
    depth = sum(isinstance(layer, Linear) for layer in layers)
    if depth > MAX_DEPTH:
        return f"at most {MAX_DEPTH} Linear layers are taken, got {depth}"
    return None if width == 1 else f"the last layer must have width 1, got {width}"
