"""Networks that were nn.Sequential, out of the numbers in their names, one at a time or stacked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from dtag_fast.interop.chains import LAYER_NORM_EPS, chain
from dtag_fast.interop.source import Options

MOST_MEMBERS = 1_000

# How far apart two Linear layers stand and what stands between them -> where the LayerNorm is.
_PLACES = {(2, ()): None, (3, (1,)): "before", (3, (2,)): "after"}


def sequentials(
    tensors: Mapping[str, Tensor],
    prefix: str,
    options: Options,
    where: str,
    *,
    eps: float = LAYER_NORM_EPS,
) -> list[nn.Sequential]:
    """The network whose layers are "PREFIX.N.weight" and "PREFIX.N.bias", or those of which it is a stack.

    An activation, which has no name in a file, stands between two Linear layers.

    Args:
        where: the source in words, for errors. eps: of every LayerNorm.
    Raises:
        ValueError: the numbers leave room for other layers without weights, or shapes do not fit.
    """
    begin = f"{prefix}." if prefix else ""
    layers = {name: tensor for name, tensor in tensors.items() if name.startswith(begin)}
    place = _place_of_norm(layers, begin, where)
    if place is not None and options.norm not in (None, place):
        raise ValueError(f"norm: {where} has its LayerNorm {place} the activation, got {options.norm!r}")
    return [
        chain(network, begin, options.activation or "relu", eps=eps, norm=place or "before")
        for network in unstacked(layers, where)
    ]


def prefixes(tensors: Mapping[str, Tensor]) -> set[str] | None:
    """What stands before the numbers of the layers; None where a name has no number there."""
    found = [re.fullmatch(r"(?:(.*)\.)?\d+\.(?:weight|bias)", str(name)) for name in tensors]
    return {match[1] or "" for match in found} if all(found) else None


def unstacked(layers: Mapping[str, Tensor], where: str) -> list[dict[str, Tensor]]:
    """The networks in tensors by name, each with weights (out, in) and biases (out,).

    Where a weight has three dimensions all tensors are stacks of E members: weights (E, in, out), which
    inputs are multiplied by from the left, with biases (E, 1, out) or (E, out); or weights (E, out, in) with
    biases (E, out), as `torch.func.stack_module_state` makes them; a LayerNorm's are (E, width). Else there
    is one network, given back as it is.

    Raises:
        ValueError: a stack of no, of different or of too many members, or of unknown shapes.
    """
    if all(tensor.ndim < 3 for tensor in layers.values()):
        return [dict(layers)]
    members = {tensor.shape[0] if tensor.ndim else 0 for tensor in layers.values()}
    if len(members) != 1 or not 0 < min(members) <= MOST_MEMBERS:
        raise ValueError(
            f"{where}: expected one number of members, 1 to {MOST_MEMBERS}, along the first axis of every "
            f"tensor, got {sorted(members)[:5]}"
        )
    count = members.pop()
    turned = _inputs_first(layers, where)
    found: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, tensor in layers.items():
        matrix = name.endswith(".weight") and tensor.ndim == 3
        if not matrix and tensor.numel() != count * tensor.shape[-1]:
            raise ValueError(f"{where}: {name}: expected (members, 1, out), got {tuple(tensor.shape)}")
        for i in range(count):
            one = tensor[i] if matrix else tensor[i].reshape(-1)
            found[i][name] = one.T if matrix and turned else one
    return found


def _inputs_first(layers: Mapping[str, Tensor], where: str) -> bool:
    """Whether weights are (E, in, out) and not (E, out, in), as the biases beside them tell."""
    votes = set()
    for name, weight in layers.items():
        bias = layers.get(f"{name.removesuffix('.weight')}.bias")
        if not name.endswith(".weight") or weight.ndim != 3 or bias is None:
            continue
        if bias.ndim == 3:
            votes.add(True)
        elif weight.shape[1] != weight.shape[2]:
            votes.add(bias.shape[-1] == weight.shape[2])
    if len(votes) != 1:
        raise ValueError(
            f"{where}: expected stacked weights (members, in, out) or (members, out, in) with biases that "
            "tell which"
        )
    return votes.pop()


def _place_of_norm(layers: Mapping[str, Tensor], begin: str, where: str) -> Literal["before", "after"] | None:
    """Before or after the activation, by the numbers of the layers; None where there is no LayerNorm."""
    stacked = any(tensor.ndim == 3 for tensor in layers.values())
    weights = {
        int(name[len(begin) :].split(".")[0]): tensor.ndim - stacked
        for name, tensor in layers.items()
        if name.endswith(".weight")
    }
    linear = [n for n in sorted(weights) if weights[n] == 2]
    gaps = [(b - a, tuple(n - a for n in sorted(weights) if a < n < b)) for a, b in pairwise(linear)]
    places = {_PLACES.get(gap, "unknown") for gap in gaps}
    outside = bool(linear) and (min(weights) < linear[0] or max(weights) > linear[-1])
    if "unknown" in places or outside or len(places) > 1:
        raise ValueError(
            f"{where}: expected Linear layers with one activation between them and a LayerNorm beside each "
            f"activation or beside none; the numbered layers with weights are {sorted(weights)}"
        )
    return places.pop() if places else None
