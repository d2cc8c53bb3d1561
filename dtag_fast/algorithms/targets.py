"""Target networks: frozen copies that follow the networks they were made from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy in eval mode, whose parameters take no gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


class TargetNetworks:
    """Frozen copies whose parameters w' follow those of the originals: w' <- (1 - polyak) w' + polyak w.

    Args:
        polyak: step of a move, above 0 and at most 1.
    """

    def __init__(self, polyak: float):
        self._polyak = polyak
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []  # parameters of a copy and of its original

    def copy_of(self, network: nn.Module) -> nn.Module:
        """A frozen copy that follows the network from now on."""
        target = frozen_copy(network)
        self._pairs.append((list(target.parameters()), list(network.parameters())))
        return target

    @torch.no_grad()
    def move(self) -> None:
        """One step of every copy towards its original."""
        for target, online in self._pairs:
            torch._foreach_lerp_(target, online, self._polyak)
