"""Modules and ensembles of PyTorch that no library stands behind: vectorised layers, `torch.func` stacks.

`refine` takes such modules as they are. What this adds: a scaling of the states around them, the result of
`torch.func.stack_module_state`, and state dicts of stacked layers in files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dtag_fast.interop.sequential import MOST_MEMBERS, prefixes, sequentials
from dtag_fast.interop.source import CriticFile, Options
from dtag_fast.interop.traced import critic_of_modules
from dtag_fast.interop.widths import q_width, state_and_action
from dtag_fast.models.foreign_critic import ForeignCritic

NAME = "ensembles"
WHAT = (
    "a module, a list of modules, (parameters, buffers, module) of torch.func.stack_module_state, or a state "
    "dict of stacked layers"
)
TAKES = frozenset({"activation", "norm"})


def takes_object(source: Any) -> bool:
    if isinstance(source, nn.Module) or _is_functional(source):
        return True
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return bool(source) and all(isinstance(part, nn.Module) for part in source)
    return _is_stack(source)


def from_object(source: Any, options: Options) -> ForeignCritic:
    if isinstance(source, Mapping) and not isinstance(source, nn.Module):
        return _of_state_dict(source, options, "a stack of layers")
    if options.target:
        raise ValueError("target: a module in memory has none; give the target module in its place")
    if isinstance(source, nn.Module):
        return critic_of_modules([source], type(source).__name__, options)
    if _is_functional(source):
        members = unstack_functional(*source)
        return critic_of_modules(members, f"a stack of {type(source[2]).__name__}", options)
    return critic_of_modules(list(source), f"a list of {type(source[0]).__name__}", options)


def takes_file(file: CriticFile) -> bool:
    try:
        return _is_stack(file.plain)
    except ValueError:
        return False


def from_file(file: CriticFile, options: Options) -> ForeignCritic:
    return _of_state_dict(file.plain, options, str(file.path))


def unstack_functional(
    parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], module: nn.Module
) -> list[nn.Module]:
    """A copy of `module` for each entry along the first axis of the parameters and buffers, with that in it.

    `module` may lie on the meta device, as in PyTorch's own example of stacked modules.

    Raises:
        ValueError: names or shapes other than the module's, or no or different numbers of members.
    """
    stacked = {**parameters, **buffers}
    own = module.state_dict()
    counts = {tensor.shape[0] if tensor.ndim else 0 for tensor in stacked.values()}
    if len(counts) != 1 or not 0 < min(counts) <= MOST_MEMBERS:
        raise ValueError(
            f"stacked parameters: expected 1 to {MOST_MEMBERS} members along every first axis, got "
            f"{sorted(counts)[:5]}"
        )
    if stacked.keys() != own.keys():
        odd = sorted(stacked.keys() ^ own.keys())
        raise ValueError(f"stacked parameters: expected those of {type(module).__name__}, {odd[0]!r} differs")
    for name, tensor in stacked.items():
        if tensor.shape[1:] != own[name].shape:
            raise ValueError(
                f"stacked parameters: {name}: expected (members, *{tuple(own[name].shape)}), got "
                f"{tuple(tensor.shape)}"
            )
    members = []
    for i in range(counts.pop()):
        member = copy.deepcopy(module)
        values = {name: tensor[i].detach().clone() for name, tensor in stacked.items()}
        member.load_state_dict(values, assign=True)
        members.append(member)
    return members


def _of_state_dict(source: Mapping[str, Tensor], options: Options, where: str) -> ForeignCritic:
    if options.target:
        raise ValueError(f"{where}: holds one stack and no target critic; leave target out")
    (prefix,) = prefixes(source)
    members = sequentials(source, prefix, options, where)
    state_dim, action_dim = state_and_action(q_width(members, where), where, options.action_dim)
    return ForeignCritic(members, "a stack of layers", state_dim, action_dim, options.scaling())


def _is_functional(source: Any) -> bool:
    """(parameters, buffers, module) of torch.func."""
    return (
        isinstance(source, Sequence)
        and not isinstance(source, str | bytes)
        and len(source) == 3
        and isinstance(source[2], nn.Module)
        and all(isinstance(part, Mapping) and not isinstance(part, nn.Module) for part in source[:2])
        and all(isinstance(x, Tensor) for part in source[:2] for x in part.values())
    )


def _is_stack(source: Any) -> bool:
    """A state dict of one nn.Sequential whose weights have a leading axis of members."""
    return (
        isinstance(source, Mapping)
        and len(source) > 0
        and all(isinstance(x, torch.Tensor) for x in source.values())
        and any(x.ndim == 3 for x in source.values())
        and len(prefixes(source) or ()) == 1
    )
