"""Multi-layer perceptrons out of the names and shapes in a state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dtag_fast.models.plain_layers import activation_layer

LAYER_NORM_EPS = 1e-5  # PyTorch's default


def chain(
    tensors: Mapping[str, Tensor],
    prefix: str,
    activation: str,
    *,
    eps: float = LAYER_NORM_EPS,
    norm: Literal["before", "after"] = "before",
) -> nn.Sequential:
    """The layers whose names begin with `prefix`, in the order of the numbers in their names.

    A two-dimensional weight is a Linear layer, a one-dimensional one a LayerNorm over what came before. An
    activation stands between a Linear layer and the next one; `norm` says where a LayerNorm stands.

    Args:
        tensors: weights and biases, "PREFIX...N...weight". activation: as in plain_layers.
        eps: of every LayerNorm. norm: whether each stands before the activation or after it.
    Raises:
        ValueError: no layers, layers that do not follow one another, or tensors of another kind.
    """
    parts: list[nn.Module] = []
    width, activated = None, False
    for name in _layer_names(tensors, prefix):
        weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        if weight.ndim == 2:
            if width is not None and not activated:
                parts.append(activation_layer(activation))
            if width not in (None, weight.shape[1]):
                raise ValueError(
                    f"{name}.weight: expected {width} inputs, as many as the layer before gives, got "
                    f"{tuple(weight.shape)}"
                )
            width, activated = weight.shape[0], False
            parts.append(_linear(name, weight, bias))
        elif weight.ndim == 1 and width is not None:
            if norm == "after":
                parts.append(activation_layer(activation))
                activated = True
            parts.append(_layer_norm(name, weight, bias, width, eps))
        else:
            raise ValueError(
                f"{name}.weight: expected a Linear layer (out, in) or a LayerNorm after one, got shape "
                f"{tuple(weight.shape)}"
            )
    return nn.Sequential(*parts)


def _layer_names(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    found = [n.removesuffix(".weight") for n in tensors if n.startswith(prefix) and n.endswith(".weight")]
    known = {f"{name}.{kind}" for name in found for kind in ("weight", "bias")}
    foreign = sorted(n for n in tensors if n.startswith(prefix) and n not in known)
    if foreign:
        raise ValueError(f"{foreign[0]}: expected weights and biases of Linear and LayerNorm layers alone")
    if not found:
        raise ValueError(f"{prefix}*: expected the layers of a Q function, found none")
    return sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name[len(prefix) :])])


def _linear(name: str, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    if not weight.numel():
        raise ValueError(f"{name}.weight: expected inputs and outputs, got shape {tuple(weight.shape)}")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{name}.bias: expected ({len(weight)},), got {tuple(bias.shape)}")
    return _filled(layer, weight, bias)


def _layer_norm(name: str, weight: Tensor, bias: Tensor | None, width: int, eps: float) -> nn.LayerNorm:
    for kind, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != (width,):
            raise ValueError(f"{name}.{kind}: expected ({width},), got {tuple(tensor.shape)}")
    return _filled(nn.LayerNorm(width, eps, bias=bias is not None), weight, bias)


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None):
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def input_width(members: Sequence[nn.Sequential]) -> int:
    """S + A: inputs of the first layer, the same in all members.

    Raises:
        ValueError: they differ, or a member does not end in the same number of outputs as the first.
    """
    widths = {(member[0].in_features, member[-1].out_features) for member in members}
    if len(widths) != 1:
        raise ValueError(f"Q functions: expected all of the same inputs and outputs, got {sorted(widths)}")
    return widths.pop()[0]
