"""One network of a Flax parameter tree: which of its entries is which layer, in which order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dtag_fast.interop.sequential import MOST_MEMBERS, sequentials
from dtag_fast.interop.source import Options

LAYER_NORM_EPS = 1e-6  # Flax's default; PyTorch's is ten times that

_DENSE = re.compile(r"(dense|linear|lin|fc|hidden|layers?|l)?_?(\d+)", re.IGNORECASE)
_LAST = re.compile(r"(output_?v?dense\w*|out|output|head|final|q|q_?head)(_\d+)?", re.IGNORECASE)
_NORM = re.compile(r"(layer_?norm|norm|ln|layers?)?_?(\d+)", re.IGNORECASE)
_BODY = re.compile(r"(mlp|net|network|trunk|body|base|layers|sequential)(_\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Network:
    """A dict of layers, and where it stands, for errors."""

    where: str
    tree: dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """A Dense layer's kernel ([E,] in, out) or a LayerNorm's scale ([E,] width), and its bias."""

    name: str
    weight: Tensor
    bias: Tensor | None
    dense: bool


def is_layer(tree: Any) -> bool:
    """A dict of arrays alone."""
    return isinstance(tree, dict) and bool(tree) and all(isinstance(x, Tensor) for x in tree.values())


def is_network(tree: Any) -> bool:
    """A dict that holds layers."""
    return isinstance(tree, dict) and any(is_layer(part) for part in tree.values())


def kernels(tree: Any) -> list[Tensor]:
    """All kernels in a tree, in its order."""
    if not isinstance(tree, dict):
        return []
    own = [part for name, part in tree.items() if name == "kernel" and isinstance(part, Tensor)]
    return own + [kernel for part in tree.values() for kernel in kernels(part)]


def natural(name: str) -> list[tuple[int, str]]:
    """For sorting q2 before q10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def read_network(network: Network, options: Options) -> list[nn.Sequential]:
    """Its members: one, or those along the first axis of every array.

    Raises:
        ValueError: layers of other kinds or names, or an order that the names do not tell.
    """
    numbered = _numbered(_layers(network.tree, network.where), network.where, options)
    found = []
    for tensors in _members(numbered, network.where):
        found += sequentials(tensors, "", options, network.where, eps=LAYER_NORM_EPS)
    return found


def _layers(tree: dict[str, Any], where: str) -> list[Layer]:
    """In the order of their numbers; those of a body before the layer after it."""
    bodies = [name for name, part in tree.items() if isinstance(part, dict) and not is_layer(part)]
    layers = {name: _layer(name, part, where) for name, part in tree.items() if name not in bodies}
    if not bodies:
        return list(layers.values())
    dense = [layer for layer in layers.values() if layer.dense]
    if len(bodies) > 1 or not _BODY.fullmatch(bodies[0]) or len(dense) != 1 or len(layers) != 1:
        raise ValueError(
            f"{where}: expected layers, or one body (MLP_0) and one layer after it, got {sorted(tree)[:8]}"
        )
    body = _layers(tree[bodies[0]], f"{where}, {bodies[0]}")
    last = dense[0]
    return [*body, Layer("out", last.weight, last.bias, True)]


def _layer(name: str, part: Any, where: str) -> Layer:
    if not is_layer(part):
        raise ValueError(f"{where}: {name}: expected a layer, a dict of arrays")
    bias = part.get("bias")
    if (
        part.keys() <= {"kernel", "bias"}
        and "kernel" in part
        and (_DENSE.fullmatch(name) or _LAST.fullmatch(name))
    ):
        if part["kernel"].ndim in (2, 3):
            return Layer(name, part["kernel"], bias, True)
    elif part.keys() <= {"scale", "bias"} and "scale" in part and _NORM.fullmatch(name):
        return Layer(name, part["scale"], bias, False)
    shapes = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in part.items())
    raise ValueError(
        f"{where}: {name}: expected a Dense layer (Dense_N, fcN, linearN, layers_N or a last one called out) "
        f"or a LayerNorm (LayerNorm_N), got {shapes}; other layers are not taken here"
    )


def _numbered(layers: list[Layer], where: str, options: Options) -> dict[int, Layer]:
    """The layers by the numbers they would have in an nn.Sequential with the activations between them."""
    dense = _in_order([layer for layer in layers if layer.dense], where)
    norms = {_number(layer): layer for layer in layers if not layer.dense}
    if len(norms) != len([layer for layer in layers if not layer.dense]):
        raise ValueError(f"{where}: two LayerNorms have one number")
    if _of_sequential(layers):
        return {_number(layer): layer for layer in layers}
    if not norms:
        return {2 * i: layer for i, layer in enumerate(dense)}
    hidden = [_number(layer) for layer in dense[:-1]]
    first = min(norms)
    if sorted(norms) != list(range(first, first + len(hidden))) or hidden != sorted(hidden):
        raise ValueError(
            f"{where}: expected a LayerNorm for each of {len(hidden)} hidden layers or none, got {len(norms)}"
        )
    if options.norm is None:
        raise ValueError(
            f"{where}: a parameter tree does not tell whether its LayerNorms stand before the activations "
            "(jaxrl, RLPD) or after them (ReBRAC): give norm='before' or norm='after'"
        )
    offset = 1 if options.norm == "before" else 2
    ordered = {3 * i: layer for i, layer in enumerate(dense)}
    return ordered | {3 * i + offset: norms[first + i] for i in range(len(hidden))}


def _in_order(dense: list[Layer], where: str) -> list[Layer]:
    """Numbered ones of one name, then at most one called otherwise."""
    stems: dict[str, list[Layer]] = {}
    for layer in dense:
        match = _DENSE.fullmatch(layer.name)
        stems.setdefault((match[1] or "") if match else "last", []).append(layer)
    last = stems.pop("last", [])
    numbered = [layer for group in stems.values() for layer in group]
    numbers = [_number(layer) for layer in numbered]
    if len(stems) > 1 or len(last) > 1 or len(set(numbers)) != len(numbers) or not dense:
        raise ValueError(
            f"{where}: expected layers of one name with numbers and at most one last layer, got "
            f"{[layer.name for layer in dense][:8]}"
        )
    return [*sorted(numbered, key=_number), *last]


def _of_sequential(layers: list[Layer]) -> bool:
    """Whether Dense layers and LayerNorms count on together, as in a Sequential: layers_0, layers_2, ..."""
    return all(re.fullmatch(r"(layers?)?_?\d+", layer.name) for layer in layers) and (
        len({_number(layer) for layer in layers}) == len(layers)
        and sorted(map(_number, layers)) != list(range(len(layers)))
    )


def _number(layer: Layer) -> int:
    digits = re.search(r"(\d+)$", layer.name)
    return int(digits[1]) if digits else -1


def _members(numbered: dict[int, Layer], where: str) -> list[dict[str, Tensor]]:
    """Tensors by "N.weight" and "N.bias" as PyTorch has them, for each member."""
    stacked = {layer.weight.ndim - (2 if layer.dense else 1) for layer in numbered.values()}
    arrays = [x for layer in numbered.values() for x in (layer.weight, layer.bias) if x is not None]
    if stacked == {1}:
        counts = {x.shape[0] if x.ndim else 0 for x in arrays}
        if len(counts) != 1 or not 0 < min(counts) <= MOST_MEMBERS:
            raise ValueError(
                f"{where}: expected 1 to {MOST_MEMBERS} members along the first axis of all arrays, "
                f"got {sorted(counts)[:5]}"
            )
        count = counts.pop()
    elif stacked == {0}:
        count = None
    else:
        raise ValueError(
            f"{where}: expected kernels (in, out) and scales (width,), all with an axis before or none"
        )
    found = []
    for i in range(count or 1):
        tensors = {}
        for n, layer in numbered.items():
            weight, bias = (x if count is None or x is None else x[i] for x in (layer.weight, layer.bias))
            tensors[f"{n}.weight"] = weight.T if layer.dense else weight
            if bias is not None:
                tensors[f"{n}.bias"] = bias
        found.append(tensors)
    return found
