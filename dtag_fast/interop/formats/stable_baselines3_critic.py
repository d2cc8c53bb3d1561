"""A critic found in a source of Stable-Baselines3, whichever it was, as one of raw states and actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dtag_fast.interop.chains import input_width
from dtag_fast.interop.quantiles import mean_of_quantiles
from dtag_fast.interop.source import Options
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.models.plain_layers import TruncatedMean


@dataclass(frozen=True)
class FoundCritic:
    """A critic as it stands in a source.

    members: (B, S + A) -> (B, outputs) each. observation_shape, action_shape: of the spaces, None where not
    told. low, high: (A,) of the action space. state_mean, state_std: (S,) of a VecNormalize. dropped: TQC's
    top_quantiles_to_drop_per_net.
    """

    source: str
    members: Sequence[nn.Sequential]
    observation_shape: tuple[int, ...] | None
    action_shape: tuple[int, ...] | None
    low: np.ndarray | None
    high: np.ndarray | None
    dropped: int | None = None
    state_mean: np.ndarray | None = None
    state_std: np.ndarray | None = None


def build_critic(found: FoundCritic, options: Options) -> ForeignCritic:
    """The critic of raw states and actions."""
    width = input_width(found.members)
    action_dim = options.action_dim
    if found.action_shape is not None:
        action_dim = _size(found.action_shape, "actions", found.source)
        if options.action_dim not in (None, action_dim):
            raise ValueError(f"action_dim: {found.source} has {action_dim}, got {options.action_dim}")
    if action_dim is None:
        raise ValueError(f"action_dim: {found.source} does not say it; give it, below {width} = S + A")
    state_dim = width - action_dim
    told = found.observation_shape
    if state_dim < 1 or (told is not None and int(np.prod(told)) != state_dim):
        of = "those of its file" if told is None else f"observations {told}"
        raise ValueError(
            f"{found.source}: shapes do not fit: Q functions of {width} inputs beside {of} and {action_dim} "
            "actions"
        )
    low, high = _bounds(found, options, action_dim)
    learned: dict[str, Any] = {"action_shift": (low + high) / 2, "action_scale": (high - low) / 2}
    if found.state_mean is not None:
        learned |= {"state_shift": found.state_mean, "state_scale": found.state_std}
    return ForeignCritic(
        _reduced(found, options),
        found.source,
        state_dim,
        action_dim,
        options.scaling(**learned),
        (low.astype(np.float32), high.astype(np.float32)),
    )


def _size(shape: tuple[int, ...], what: str, source: str) -> int:
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(f"{source}: expected {what} that are vectors (A,), got shape {shape}")
    return shape[0]


def _bounds(found: FoundCritic, options: Options, action_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(A,) of the Box that actions were scaled by: the source's, else the caller's."""
    pair = (found.low, found.high)
    if pair[0] is None:
        pair = (options.action_low, options.action_high)
        if pair[0] is None or pair[1] is None:
            raise ValueError(
                f"action_low, action_high: {found.source} does not say the bounds that it scales actions by; "
                "give those of the environment"
            )
    low, high = (torch.as_tensor(x, dtype=torch.float64).cpu().numpy().reshape(-1) for x in pair)
    low, high = (np.repeat(x, action_dim) if x.size == 1 else x for x in (low, high))
    fits = low.shape == high.shape == (action_dim,)
    largest = float(np.finfo(np.float32).max) / 2
    if not fits or not (low < high).all() or not (np.abs([low, high]) < largest).all():
        raise ValueError(
            f"{found.source}: expected {action_dim} finite bounds, low below high, of its actions, got "
            f"{low.tolist()} and {high.tolist()}"
        )
    return low, high


def _reduced(found: FoundCritic, options: Options) -> list[nn.Module]:
    """Members of one output each."""
    outputs = found.members[0][-1].out_features
    if options.quantiles == "mean":
        return list(found.members if outputs == 1 else map(mean_of_quantiles, found.members))
    if found.dropped is None:
        raise ValueError(
            'quantiles: "truncated" needs TQC\'s top_quantiles_to_drop_per_net, which '
            f"{found.source} does not say; give a model of TQC or its file, or leave quantiles out"
        )
    if not 0 <= found.dropped < outputs:
        raise ValueError(
            f"{found.source}: expected top_quantiles_to_drop_per_net from 0 to {outputs - 1} of {outputs} "
            f"quantiles, got {found.dropped}"
        )
    return [TruncatedMean(found.members, (outputs - found.dropped) * len(found.members))]
