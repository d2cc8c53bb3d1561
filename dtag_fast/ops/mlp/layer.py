"""What a layer of a small network is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """LayerNorm of a layer's outputs, before the activation."""

    weight: Tensor  # (out,)
    bias: Tensor  # (out,)
    eps: float = 1e-5  # is added to the variance


# weight (out, in), bias (out,), and the LayerNorm behind them where there is one
Layer = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Norm]


def norm_eps(layers: Sequence[Layer]) -> tuple[float | None, ...]:
    """eps of the LayerNorm behind each layer, None where there is none."""
    return tuple(layer[2].eps if len(layer) > 2 else None for layer in layers)


def tensors(networks: Sequence[Sequence[Layer]]) -> list[Tensor]:
    """The parameters of all networks."""
    found: list[Tensor] = []
    for layers in networks:
        for layer in layers:
            found += layer[:2]
            if len(layer) > 2:
                found += layer[2][:2]
    return found
