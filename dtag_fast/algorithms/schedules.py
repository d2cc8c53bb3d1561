"""Learning-rate factors as functions of the number of updates made so far."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def warmup(updates_done: int, warmup_updates: int) -> float:
    """Linear rise to 1: (n + 1) / warmup_updates, then constant."""
    return min((updates_done + 1) / warmup_updates, 1.0) if warmup_updates > 0 else 1.0


def cosine(updates_done: int, horizon: int) -> float:
    """Half a cosine from 1 to 0 over `horizon` updates, then 0."""
    return 0.5 * (1 + math.cos(math.pi * min(updates_done / horizon, 1.0)))


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
