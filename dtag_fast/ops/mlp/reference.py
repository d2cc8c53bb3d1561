"""The same by PyTorch's operators; the oracle of every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .layer import Layer

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": F.tanh,
}


def mlp(
    x: Tensor,
    networks: Sequence[Sequence[Layer]],
    activation: str,
    extra: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Arguments and result as those of `dtag_fast.ops.mlp.mlp`; any device and type, any derivative."""
    if mean is not None and std is not None:
        x = (x - mean) / std
    if extra is not None:
        x = torch.cat((x, extra), dim=-1)
    outputs = []
    for layers in networks:
        h = x
        for i, (weight, bias, *norm) in enumerate(layers):
            h = F.linear(ACTIVATIONS[activation](h) if i else h, weight, bias)
            for scale, shift, eps in norm:
                h = F.layer_norm(h, shift.shape, scale, shift, eps)
        outputs.append(h)
    return torch.stack(outputs)
