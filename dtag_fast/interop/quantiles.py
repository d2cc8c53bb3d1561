"""Quantile critics as Q functions: the mean of a member's quantiles, or TQC's truncated mean over all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
