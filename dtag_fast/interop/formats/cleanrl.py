"""CleanRL's DDPG, TD3 and SAC scripts: `.cleanrl_model`, a tuple of state dicts (actor, qf1[, qf2]).

Their `QNetwork` and `SoftQNetwork` take raw states and actions of the environment, so that one in memory
needs nothing of this: `dtag_fast.refine([qf1, qf2], ...)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dtag_fast.interop.chains import chain
from dtag_fast.interop.source import CriticFile, Options
from dtag_fast.interop.widths import q_width, state_and_action
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.untrusted.torch_file import is_state_dict

NAME = "cleanrl"
WHAT = "a .cleanrl_model of DDPG, TD3 or SAC: a tuple of the actor's and the Q networks' state dicts"
TAKES = frozenset({"activation"})

_Q_NAMES = {f"fc{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")}
_HEADS = ("fc_mu.weight", "fc_mean.weight")  # of DDPG and TD3; of SAC


def takes_object(source: Any) -> bool:
    """Whether it is (actor, qf1[, qf2]) of state dicts."""
    return (
        isinstance(source, Sequence)
        and not isinstance(source, str | bytes)
        and len(source) in (2, 3)
        and all(is_state_dict(part) for part in source)
        and any(head in source[0] for head in _HEADS)
        and all(set(part) == _Q_NAMES for part in source[1:])
    )


def from_object(source: Sequence[Mapping[str, Tensor]], options: Options) -> ForeignCritic:
    if options.target:
        raise ValueError("CleanRL: its models hold no target critic; leave target out")
    actor, *networks = source
    members = [chain(network, "fc", options.activation or "relu") for network in networks]
    head = next(actor[name] for name in _HEADS if name in actor)
    first = actor.get("fc1.weight")
    if first is None or first.ndim != 2 or head.ndim != 2:
        raise ValueError("CleanRL: expected an actor with layers fc1 and fc_mu or fc_mean")
    width = q_width(members, "CleanRL")
    if first.shape[1] + head.shape[0] != width:
        raise ValueError(
            f"CleanRL: expected Q networks of {first.shape[1]} + {head.shape[0]} inputs, the actor's states "
            f"and actions, got {width}"
        )
    state_dim, action_dim = state_and_action(width, "CleanRL", options.action_dim, first.shape[1])
    return ForeignCritic(
        members, "CleanRL", state_dim, action_dim, options.scaling(), _bounds(actor, action_dim)
    )


def takes_file(file: CriticFile) -> bool:
    try:
        return takes_object(file.plain)
    except ValueError:
        return False


def from_file(file: CriticFile, options: Options) -> ForeignCritic:
    return from_object(file.plain, options)


def _bounds(actor: Mapping[str, Tensor], action_dim: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Of the environment's actions, out of the actor's buffers; None where it has none."""
    scale, bias = actor.get("action_scale"), actor.get("action_bias")
    if scale is None or bias is None:
        return None
    if scale.numel() != action_dim or bias.numel() != action_dim:
        raise ValueError(
            f"CleanRL: action_scale, action_bias: expected {action_dim} numbers, got {scale.numel()} and "
            f"{bias.numel()}"
        )
    centre, half = (x.detach().cpu().double().reshape(-1).numpy() for x in (bias, scale))
    return (centre - half).astype(np.float32), (centre + half).astype(np.float32)
