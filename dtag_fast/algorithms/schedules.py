"""Learning-rate factors as functions of the number of updates made so far.

The number is an int, or a 0-dim float64 tensor that a captured update advances on the device (see
`Algorithm.schedule_step`); the factor is then a tensor too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


def warmup(updates_done: int | Tensor, warmup_updates: int) -> float | Tensor:
    """Linear rise to 1: (n + 1) / warmup_updates, then constant."""
    return _at_most_1((updates_done + 1) / warmup_updates) if warmup_updates > 0 else 1.0


def ramp(updates_done: int | Tensor, start: int, length: int) -> float | Tensor:
    """0 for `start` updates, then a linear rise to 1 over `length` updates, then constant."""
    rise = (updates_done + 1 - start) / max(length, 1)
    return rise.clamp(0.0, 1.0) if isinstance(rise, Tensor) else min(max(rise, 0.0), 1.0)


def cosine(updates_done: int | Tensor, horizon: int) -> float | Tensor:
    """Half a cosine from 1 to 0 over `horizon` updates, then 0."""
    angle = math.pi * _at_most_1(updates_done / horizon)
    return 0.5 * (1 + (torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)))


def _at_most_1(x: float | Tensor) -> float | Tensor:
    return x.clamp(max=1.0) if isinstance(x, Tensor) else min(x, 1.0)


def set_lr(optimizer: Optimizer, lr: float | Tensor) -> None:
    """Give every group this learning rate; a tensor is filled in place, where a captured step reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
