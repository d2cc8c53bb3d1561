"""Layers of d3rlpy's Q functions out of their tensors, with BatchNorm and the mean of quantiles folded in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "swish": nn.SiLU,
    "silu": nn.SiLU,
    "none": nn.Identity,
}
EPS = 1e-5  # of LayerNorm and BatchNorm: PyTorch's default, which d3rlpy leaves
MOST_QUANTILES = 1_000


@dataclass(frozen=True)
class Part:
    """A configurable part: what d3rlpy calls it and its parameters by name."""

    type: str = "none"
    params: Mapping[str, Any] = field(default_factory=dict)


NO_PART = Part()


def ensemble_tensors(state: Mapping[str, Any], where: str) -> list[dict[str, Tensor]]:
    """Tensors of each Q function, by their names in it."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        number, _, rest = str(name).partition(".")
        if not isinstance(value, Tensor) or not number.isdecimal() or not rest:
            raise ValueError(f"{where}: {str(name)[:80]!r}: expected the number of a Q function, and tensors")
        if value.is_sparse or value.is_quantized or not (value.is_floating_point() or value.ndim == 0):
            raise ValueError(f"{where}: {str(name)[:80]!r}: expected real numbers, got {value.dtype}")
        tensor = value.detach().to("cpu", torch.float64)
        found.setdefault(int(number), {})[rest.removeprefix("module.")] = tensor
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"{where}: expected Q functions 0 to {len(found) - 1}, got {sorted(found)[:8]}")
    return [found[i] for i in range(len(found))]


@dataclass
class _Affine:
    """scale x + shift per dimension: a BatchNorm in evaluation."""

    scale: Tensor
    shift: Tensor


def member(tensors: dict[str, Tensor], encoder: Part, q_func: Part) -> nn.Sequential:
    """A Q function as layers of (scaled) states and actions, (B, S + A) -> (B, 1)."""
    names = ("_encoder._layers.", "_fc.") + (("_embed.",) if q_func.type == "iqn" else ())
    foreign = sorted(name for name in tensors if not name.startswith(names))
    if foreign:
        raise ValueError(f"{foreign[0][:80]}: expected an encoder of vectors and a last layer alone")
    layers = _encoder(tensors, encoder)
    head = _head(tensors, q_func)
    parts: list[nn.Module] = []
    waiting: _Affine | None = None
    for layer in [*layers, head]:
        if isinstance(layer, _Affine):
            waiting = layer
            continue
        if waiting is not None:
            if isinstance(layer, _Linear):
                layer = layer.after(waiting)
            else:  # a LayerNorm right after it: a Linear of its own
                parts.append(_Linear(torch.diag(waiting.scale), waiting.shift).module())
            waiting = None
        parts.append(layer.module() if isinstance(layer, _Linear) else layer)
    return nn.Sequential(*(part.float() for part in parts if not isinstance(part, nn.Identity)))


@dataclass
class _Linear:
    weight: Tensor  # (out, in) float64
    bias: Tensor  # (out,)

    def after(self, affine: _Affine) -> _Linear:
        """W (scale x + shift) + b."""
        return _Linear(self.weight * affine.scale, self.bias + self.weight @ affine.shift)

    def module(self) -> nn.Linear:
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return layer


def _encoder(tensors: dict[str, Tensor], encoder: Part) -> list[nn.Module | _Linear | _Affine]:
    """Linear, activation[, BatchNorm][, LayerNorm] per hidden width; dropout does nothing in evaluation."""
    if encoder.type not in ("default", "vector"):
        raise ValueError(
            f"encoder {encoder.type[:40]!r}: expected default or vector; pass the module of another to refine"
        )
    if encoder.params.get("use_dense"):
        raise ValueError("encoder: use_dense: expected layers that follow one another")
    prefix = "_encoder._layers."
    numbers = sorted({_number(name, prefix) for name in tensors if name.startswith(prefix)})
    linear = [i for i in numbers if tensors.get(f"{prefix}{i}.weight", torch.zeros(0)).ndim == 2]
    if not linear or linear[0] != 0:
        raise ValueError(f"{prefix}0.weight: expected a Linear layer, the first of an encoder of vectors")
    _check_hidden(encoder, [len(tensors[f"{prefix}{i}.weight"]) for i in linear])
    layers: list[nn.Module | _Linear | _Affine] = []
    width = tensors[f"{prefix}0.weight"].shape[1]
    for i in numbers:
        if i in linear:
            layer = _linear(tensors, f"{prefix}{i}", width)
            width = len(layer.bias)
            layers += [layer, _activation(encoder, i == linear[-1])]
        else:
            layers.append(_norm(tensors, f"{prefix}{i}", width))
    return layers


def _number(name: str, prefix: str) -> int:
    number, _, kind = name.removeprefix(prefix).partition(".")
    known = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    if not (number.isdecimal() and len(number) < 6) or kind not in known:
        raise ValueError(f"{name[:80]}: expected Linear, BatchNorm and LayerNorm layers alone")
    return int(number)


def _check_hidden(encoder: Part, widths: list[int]) -> None:
    named = encoder.params.get("hidden_units")
    if named is not None and list(named) != widths:
        raise ValueError(f"encoder: expected hidden_units {str(list(named))[:80]}, the layers have {widths}")


def _activation(encoder: Part, last: bool) -> nn.Module:
    """An encoder ends in last_activation, which may be the same as the others, or in none."""
    name = encoder.params.get("activation", "relu")
    if last and encoder.params.get("exclude_last_activation"):
        name = "none"
    elif last and encoder.params.get("last_activation"):
        name = encoder.params["last_activation"]
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"encoder: activation {str(name)[:40]!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _tensor(tensors: dict[str, Tensor], name: str, shape: tuple[int | None, ...]) -> Tensor:
    """A tensor of a shape; None in it: any length but 0."""
    tensor = tensors.get(name)
    got = None if tensor is None else tuple(tensor.shape)
    fits = got is not None and len(got) == len(shape)
    if not fits or not all(n > 0 and n == (m or n) for n, m in zip(got, shape, strict=True)):
        wanted = ", ".join("any" if m is None else str(m) for m in shape)
        raise ValueError(
            f"{name}: expected shape ({wanted}), " + ("it is missing" if got is None else f"got {got}")
        )
    return tensor


def _linear(tensors: dict[str, Tensor], name: str, inputs: int) -> _Linear:
    weight = _tensor(tensors, f"{name}.weight", (None, inputs))
    return _Linear(weight, _tensor(tensors, f"{name}.bias", (len(weight),)))


def _norm(tensors: dict[str, Tensor], name: str, width: int) -> nn.LayerNorm | _Affine:
    weight, bias = (_tensor(tensors, f"{name}.{kind}", (width,)) for kind in ("weight", "bias"))
    if f"{name}.running_mean" in tensors:
        mean, var = (_tensor(tensors, f"{name}.running_{kind}", (width,)) for kind in ("mean", "var"))
        scale = weight / torch.sqrt(var + EPS)
        return _Affine(scale, bias - mean * scale)
    layer = nn.LayerNorm(width, EPS, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def _head(tensors: dict[str, Tensor], q_func: Part) -> _Linear:
    """The last layer, with the mean over quantiles in it: Q is linear in what the encoder gives.

    Quantile regression: the mean of the rows. Implicit quantiles: in evaluation the fractions are
    0, 1/(N-1), ..., 1 for every state, quantile i is W (h * phi_i) + b, so the mean is (W * mean phi) h + b.
    """
    kind, params = q_func.type, q_func.params
    weight = _tensor(tensors, "_fc.weight", (None, None))
    bias = _tensor(tensors, "_fc.bias", (len(weight),))
    if kind == "mean" and len(weight) != 1:
        raise ValueError(f"_fc.weight: expected one Q, got {len(weight)} (of discrete actions?)")
    if kind == "iqn":
        weight = weight * _mean_embedding(tensors, params.get("n_greedy_quantiles", 32), weight.shape[1])
    elif kind not in ("mean", "qr"):
        raise ValueError(f"q_func_factory {kind[:40]!r}: expected mean, qr or iqn")
    if params.get("n_quantiles", len(weight)) != len(weight) and kind == "qr":
        raise ValueError(
            f"_fc.weight: expected {str(params['n_quantiles'])[:20]} quantiles, got {len(weight)}"
        )
    inputs = tensors["_fc.weight"].shape[1]
    last = max(_number(n, "_encoder._layers.") for n in tensors if n.startswith("_encoder._layers."))
    produced = len(_tensor(tensors, f"_encoder._layers.{last}.bias", (None,)))
    if inputs != produced:
        raise ValueError(
            f"_fc.weight: expected {produced} inputs, as many as the encoder gives, got {inputs}"
        )
    return _Linear(weight.mean(0, keepdim=True), bias.mean(0, keepdim=True))


def _mean_embedding(tensors: dict[str, Tensor], count: Any, width: int) -> Tensor:
    """Mean over quantiles of phi = relu(embed(cos(pi j tau))), j = 1..E: (H,)."""
    if type(count) is not int or not 0 < count <= MOST_QUANTILES:
        raise ValueError(f"n_greedy_quantiles: expected 1 to {MOST_QUANTILES}, got {str(count)[:40]}")
    weight = _tensor(tensors, "_embed.weight", (width, None))  # (H, E)
    bias = _tensor(tensors, "_embed.bias", (width,))
    fractions = torch.linspace(0, 1, count).double()  # in float32 first, as d3rlpy has them
    steps = torch.arange(1, weight.shape[1] + 1, dtype=torch.float64)
    total = torch.zeros(width, dtype=torch.float64)
    for fraction in fractions:  # one at a time: memory stays that of the weights
        total += torch.relu(weight @ torch.cos(math.pi * steps * fraction) + bias)
    return total / count
