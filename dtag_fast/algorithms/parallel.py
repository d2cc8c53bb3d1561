"""Several processes training one network, each on its share of every batch (torch.distributed).

Every process holds all weights. Batches are drawn for all of them from one stream of random numbers, so that
N processes with batches of B train as one process with a batch of N B does, within rounding. Without a
process group every function here leaves its argument as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed


def world() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    return distributed.get_rank() if _together() else 0


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of a tensor over the processes, without a gradient."""
    if world() == 1:
        return x
    total = x.detach().clone()
    distributed.all_reduce(total)
    return total / world()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients by their means over the processes, in one exchange."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if world() == 1 or not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    distributed.all_reduce(flat)
    flat /= world()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def gather(value: object) -> list:
    """`value` of every process, in order, in every process."""
    if world() == 1:
        return [value]
    values: list = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Until every process has come here."""
    if world() > 1:
        distributed.barrier()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
