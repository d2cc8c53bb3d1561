"""What bridges take for a critic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dtag_fast import CriticProgram
from dtag_fast.interop.formats import stable_baselines3
from dtag_fast.interop.loading import load_critic as load_foreign_critic
from dtag_fast.training.checkpoint import LoadedCritic, load_critic


def any_critic(critic: Any, device: str | torch.device) -> Any:
    """A critic as `ActionGradient` takes it.

    Args:
        critic: as `refine` takes it, which is given back; a `LoadedCritic`; the run or checkpoint folder of
            one; or what `interop.load_critic` takes, a file or an object of another library.
        device: where one that is loaded goes.
    """
    if isinstance(critic, str | os.PathLike):
        own = Path(critic).is_dir()
        return load_critic(critic, device) if own else load_foreign_critic(critic, device=device)
    if isinstance(critic, LoadedCritic | CriticProgram):
        return critic
    if isinstance(critic, list | tuple | nn.ModuleList):
        return [any_critic(part, device) for part in critic]
    if isinstance(critic, nn.Module) and not stable_baselines3.takes_object(critic):
        return critic
    return load_foreign_critic(critic, device=device)  # the modules of SB3 take scaled actions
