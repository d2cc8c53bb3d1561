"""Networks of plain layers, of whatever make, to and from plain JSON values, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# kind -> class and the names of its parameters
ACTIVATIONS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "identity": (nn.Identity, ()),
    "relu": (nn.ReLU, ()),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "elu": (nn.ELU, ("alpha",)),
    "gelu": (nn.GELU, ("approximate",)),
    "silu": (nn.SiLU, ()),
    "mish": (nn.Mish, ()),
    "tanh": (nn.Tanh, ()),
    "softplus": (nn.Softplus, ("beta", "threshold")),
}
ACTIVATION_NAMES = (*ACTIVATIONS, "gelu_tanh")  # as kinds of a `CriticProgram`
REDUCTIONS = {"min": torch.amin, "max": torch.amax, "mean": torch.mean}
MOST_NUMBERS = 1 << 28  # in the layers of a description, which may come from a stranger


def activation_layer(name: str, *parameters: float) -> nn.Module:
    """An activation by its name in ACTIVATION_NAMES, with PyTorch's own parameters where none are given."""
    if name not in ACTIVATION_NAMES:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATION_NAMES)}, got {name!r}")
    return nn.GELU("tanh") if name == "gelu_tanh" else ACTIVATIONS[name][0](*parameters)


class Reduced(nn.Module):
    """The members of a critic that reduces them itself, as one: (B, S + A) -> (B, 1).

    Args:
        members: (B, S + A) -> (B, 1) each. reduction: min, mean or max.
    """

    def __init__(self, members: Sequence[nn.Module], reduction: str):
        super().__init__()
        self.members, self.reduction = nn.ModuleList(members), reduction

    def forward(self, x: Tensor) -> Tensor:
        values = torch.cat([member(x) for member in self.members], dim=-1)
        return REDUCTIONS[self.reduction](values, dim=-1, keepdim=True)


class TruncatedMean(nn.Module):
    """The mean of the smallest quantiles of all members together (Kuznetsov et al. 2020, arXiv 2005.04269).

    Args:
        members: E modules, (B, S + A) -> (B, N) quantiles each.
        kept: how many of the E * N count, 1 to E * N; TQC: E * N - E * dropped per member.
    """

    def __init__(self, members: Sequence[nn.Module], kept: int):
        super().__init__()
        self.members, self.kept = nn.ModuleList(members), kept

    def forward(self, x: Tensor) -> Tensor:
        """(B, S + A) -> (B, 1)."""
        quantiles = torch.cat([member(x) for member in self.members], dim=-1)  # (B, E * N)
        return quantiles.sort(dim=-1).values[..., : self.kept].mean(dim=-1, keepdim=True)

    def extra_repr(self) -> str:
        return f"mean of the {self.kept} smallest quantiles"


def describe_layers(module: nn.Module) -> Any:
    """A Sequential of Linear, LayerNorm and activations as a list, a `Reduced` or `TruncatedMean` as a dict.

    Raises:
        ValueError: a layer of another kind.
    """
    if isinstance(module, nn.Sequential):
        return [describe_layers(layer) for layer in module]
    if isinstance(module, Reduced | TruncatedMean):
        members = [describe_layers(member) for member in module.members]
        if isinstance(module, Reduced):
            return {"kind": "reduced", "reduction": module.reduction, "members": members}
        return {"kind": "truncated_mean", "kept": module.kept, "members": members}
    if type(module) is nn.Linear:
        sizes = {"inputs": module.in_features, "outputs": module.out_features}
        return {"kind": "linear", **sizes, "bias": module.bias is not None}
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        parts = {name: getattr(module, name) is not None for name in ("weight", "bias")}
        return {"kind": "layer_norm", "width": module.normalized_shape[0], "eps": module.eps, **parts}
    for kind, (made, names) in ACTIVATIONS.items():
        if type(module) is made:
            return {"kind": kind, **{name: getattr(module, name) for name in names}}
    raise ValueError(f"a layer of class {type(module).__name__} cannot be described; plain ones can")


def build_layers(description: Any) -> nn.Module:
    """A network of the described shape; its numbers are still to be loaded.

    Raises:
        ValueError: no description of `describe_layers`, or one of more than `MOST_NUMBERS` numbers.
    """
    if _count(description) > MOST_NUMBERS:
        raise ValueError(f"layers: expected at most {MOST_NUMBERS:,} numbers in them")
    return _built(description)


def _count(description: Any) -> int:
    """Weights of the Linear and LayerNorm layers, checked to be described."""
    if isinstance(description, list):
        return sum(_count(part) for part in description)
    if not isinstance(description, Mapping):
        raise ValueError(f"layers: expected a list or a dict, got {type(description).__name__}")
    kind = description.get("kind")
    if kind in ("reduced", "truncated_mean"):
        return _count(description.get("members", []))
    if kind == "linear":
        return _size(description, "inputs") * _size(description, "outputs")
    return _size(description, "width") if kind == "layer_norm" else 0


def _size(description: Mapping[str, Any], name: str) -> int:
    size = description.get(name)
    if type(size) is not int or size < 1:
        raise ValueError(f"layers: {name}: expected a whole number above 0, got {size!r}")
    return size


def _built(description: Any) -> nn.Module:
    if isinstance(description, list):
        return nn.Sequential(*map(_built, description))
    values = dict(description)
    kind = values.pop("kind", None)
    try:
        if kind == "linear":
            return nn.Linear(values.pop("inputs"), values.pop("outputs"), **values)
        if kind == "layer_norm":
            layer = nn.LayerNorm(values["width"], values["eps"], values["weight"], values["bias"])
            return layer
        if kind == "reduced" and values["reduction"] in REDUCTIONS:
            return Reduced([_built(member) for member in values["members"]], values["reduction"])
        if kind == "truncated_mean":
            return TruncatedMean([_built(member) for member in values["members"]], int(values["kept"]))
        if kind in ACTIVATIONS:
            return ACTIVATIONS[kind][0](**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"layers: {kind}: missing or foreign {error}") from error
    raise ValueError(f"layers: expected linear, layer_norm, an activation or members, got {kind!r}")
