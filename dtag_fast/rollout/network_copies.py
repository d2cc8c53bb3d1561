"""Networks to act with while others like them are trained."""

import copy
from typing import TypeVar

import torch
from torch import nn

from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy

Loaded = TypeVar("Loaded", LoadedPolicy, LoadedCritic, None)


def own_copy(loaded: Loaded) -> Loaded:
    """The same with a copy of its network, in eval mode and without gradients; None of None."""
    if loaded is None:
        return None
    network = copy.deepcopy(loaded[0]).eval().requires_grad_(False)
    network.zero_grad(set_to_none=True)
    return type(loaded)(network, loaded.info)


def matching_tensors(name: str, own: nn.Module, theirs: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(own, theirs) of every parameter and buffer of two networks; those that are not saved, too.

    Raises:
        ValueError: their names or shapes differ; `name` is what the message calls them.
    """
    mine, given = (dict(net.named_parameters()) | dict(net.named_buffers()) for net in (own, theirs))
    for key in mine | given:
        expected, got = (tuple(found[key].shape) if key in found else None for found in (mine, given))
        if expected != got:
            raise ValueError(
                f"{name}: expected the architecture that acts here, whose {key} has shape {expected}, got "
                f"shape {got} (None: there is none)"
            )
    return [(tensor, given[key]) for key, tensor in mine.items()]
