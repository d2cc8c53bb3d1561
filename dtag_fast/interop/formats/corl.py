"""CORL's single-file scripts (IQL, TD3+BC, AWAC, CQL, SAC-N, EDAC): torch.save of a dict of state dicts.

What a script calls `trainer.state_dict()` lies in `checkpoint_N.pt`. ReBRAC is written in JAX: see
`parameter_trees`. All but SAC-N and EDAC standardise states outside of the critic, by numbers that are not in
the file: without them Q would be another function of the state, and nothing would tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dtag_fast.interop.sequential import prefixes, sequentials
from dtag_fast.interop.source import CriticFile, Options
from dtag_fast.interop.widths import q_width, state_and_action
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.untrusted.torch_file import flat_tensors, is_state_dict, load_plain

NAME = "corl"
WHAT = "a checkpoint of CORL's IQL, TD3+BC, AWAC, CQL, SAC-N or EDAC"
TAKES = frozenset({"activation", "norm"})

# CQL puts the modules of its two multipliers into the file, not their numbers.
_MODULES = ("Scalar",)
_OTHERS = re.compile(
    r"actor|vf|vae|.*optim.*|.*schedule.*|total_it|.*alpha.*|(target_)?critic_?[12]?(_target)?|qf|q_target"
)


@dataclass(frozen=True)
class Layout:
    """An algorithm's critics in its dict: `keys` of state dicts, layers "INSIDE.N.weight" in each."""

    algorithm: str
    keys: tuple[str, ...]
    inside: re.Pattern[str]
    targets: tuple[str, ...] = ()
    standardises: bool = True  # states, outside of the critic


LAYOUTS = (
    Layout("IQL", ("qf",), re.compile(r"q\d+\.net")),
    Layout("TD3+BC", ("critic_1", "critic_2"), re.compile(r"net")),
    Layout("AWAC", ("critic_1", "critic_2"), re.compile(r"_mlp")),
    Layout(
        "CQL",
        ("critic1", "critic2"),
        re.compile(r"network(\.network)?"),
        ("critic1_target", "critic2_target"),
    ),
    Layout("SAC-N or EDAC", ("critic",), re.compile(r"critic"), ("target_critic",), standardises=False),
)


def takes_object(source: Any) -> bool:
    """Whether it is a trainer's state dict in memory."""
    return _layout(source) is not None


def from_object(source: Mapping[str, Any], options: Options) -> ForeignCritic:
    return _critic(source, _layout(source), options)


def takes_file(file: CriticFile) -> bool:
    try:
        return _layout(load_plain(file.path, file.content, omitted=_MODULES)) is not None
    except ValueError:
        return False


def from_file(file: CriticFile, options: Options) -> ForeignCritic:
    return from_object(load_plain(file.path, file.content, omitted=_MODULES), options)


def _layout(source: Any) -> Layout | None:
    """The one whose keys are there and hold layers called as in that algorithm, and nothing else."""
    if not isinstance(source, Mapping):
        return None
    for layout in LAYOUTS:
        parts = [source.get(key) for key in layout.keys]
        if all(is_state_dict(part) and _prefixes(part, layout) for part in parts):
            return layout
    return None


def _prefixes(part: Mapping[str, Tensor], layout: Layout) -> list[str]:
    """Of the networks in a state dict, in order; none if it holds other names too."""
    found = prefixes(part) or set()
    return sorted(found) if all(layout.inside.fullmatch(prefix) for prefix in found) else []


def _critic(source: Mapping[str, Any], layout: Layout, options: Options) -> ForeignCritic:
    name = f"CORL {layout.algorithm}"
    keys = layout.keys
    if options.target:
        if not layout.targets:
            raise ValueError(f"{name}: its checkpoints hold no target critic; leave target out")
        keys = layout.targets
    strangers = [
        key for key, value in source.items() if not _OTHERS.fullmatch(str(key)) and flat_tensors(value)
    ]
    if strangers:
        raise ValueError(f"{name}: expected critics, actor and optimizers alone, got {strangers[0]!r} too")
    members = []
    for key in keys:
        part = source.get(key)
        if not is_state_dict(part) or not _prefixes(part, layout):
            raise ValueError(f"{name}: expected the state dict of a critic under {key!r}")
        for prefix in _prefixes(part, layout):
            members += sequentials(part, prefix, options, f"{name}, {key}")
    width = q_width(members, name)
    state_dim, action_dim = state_and_action(width, name, options.action_dim, _actor_inputs(source, width))
    if layout.standardises and options.state_mean is None:
        raise ValueError(
            f"state_mean, state_std: {name} standardises states outside of the critic and its file does not "
            "hold the numbers; give both (state_statistics(eps=1e-3) of the dataset), or 0 and 1 where "
            "normalize was off"
        )
    return ForeignCritic(members, name, state_dim, action_dim, options.scaling())


def _actor_inputs(source: Mapping[str, Any], width: int) -> int | None:
    """S: inputs of the actor's first layer, if its last one gives the rest of the width or twice as much."""
    actor = source.get("actor")
    if not is_state_dict(actor):
        return None
    weights = [x for name, x in actor.items() if str(name).endswith("weight") and x.ndim == 2]
    if not weights:
        return None
    state_dim = weights[0].shape[1]
    rest = width - state_dim
    return state_dim if weights[-1].shape[0] in (rest, 2 * rest) else None
