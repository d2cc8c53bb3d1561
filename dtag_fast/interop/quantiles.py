"""Quantile critics as Q functions: the mean of a member's quantiles."""

from __future__ import annotations

import torch
from torch import nn


def mean_of_quantiles(member: nn.Sequential) -> nn.Sequential:
    """The same network with the mean of its outputs as its only one, folded into the last Linear layer.

    Args:
        member: ends in a Linear layer of N outputs. Its other layers are shared with the result.
    """
    *before, last = member
    mean = nn.Linear(last.in_features, 1, bias=last.bias is not None)
    with torch.no_grad():
        mean.weight.copy_(last.weight.double().mean(dim=0, keepdim=True))
        if last.bias is not None:
            mean.bias.copy_(last.bias.double().mean(dim=0, keepdim=True))
    return nn.Sequential(*before, mean)
