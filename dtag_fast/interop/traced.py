"""Modules in memory, of whatever make, as members of plain layers: what they compute is traced, not named."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dtag_fast.interop.source import Options
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.models.plain_layers import Reduced, activation_layer
from dtag_fast.ops.refine.critic import CriticCall, CriticError, unwrap
from dtag_fast.ops.refine.lowering import lower
from dtag_fast.ops.refine.program import Activation, CriticProgram, Layer, Linear


def critic_of_modules(modules: Sequence[nn.Module], source: str, options: Options) -> ForeignCritic:
    """Q functions that take (states, actions) or both in one, in their present weights.

    Raises:
        ValueError: action_dim is not given, an option is of no use for modules, they take other inputs, or
            their layers are none that can be copied.
    """
    for name in ("activation", "norm"):
        if getattr(options, name) is not None:
            raise ValueError(f"{name}: {source} is in memory and says it itself; leave {name} out")
    if options.action_dim is None:
        raise ValueError(f"{source}: its modules do not say which inputs are actions: give action_dim=")
    modules = [unwrap(module) for module in modules]
    state_dim, call = _call(modules, source, options.action_dim)
    lowered = lower(modules, call, state_dim, options.action_dim)
    if isinstance(lowered, str):
        raise ValueError(f"{source}: {lowered}; give it to refine as it is, which then goes by autograd")
    with torch.no_grad():
        program = lowered.build([store[name] for store, name in lowered.slots])
    return ForeignCritic(_members(program), source, state_dim, options.action_dim, options.scaling())


def _call(modules: Sequence[nn.Module], source: str, action_dim: int) -> tuple[int, CriticCall]:
    """S, the one of the widths in the modules' parameters with which they can be called, and how."""
    if action_dim < 1:
        raise ValueError(f"action_dim: expected at least 1, got {action_dim}")
    sizes = {size for module in modules for x in module.parameters() for size in x.shape}
    widths = {size - action_dim for size in sizes} | sizes  # of joint inputs; of an encoder of states alone
    reason = "it has no parameters"
    for state_dim in sorted(width for width in widths if width > 0):
        try:
            return state_dim, CriticCall(modules, state_dim, action_dim)
        except CriticError as error:
            reason = str(error)
    raise ValueError(f"{source}: no critic of states and {action_dim} actions; {reason}")


def _members(program: CriticProgram) -> list[nn.Module]:
    members = [nn.Sequential(*map(_module, layers)) for layers in program.members]
    return members if program.reduction is None else [Reduced(members, program.reduction)]


def _module(layer: Layer) -> nn.Module:
    """A copy as a module of PyTorch."""
    if isinstance(layer, Activation):
        return activation_layer(layer.kind, *layer.params)
    if isinstance(layer, Linear):
        made = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], bias=layer.bias is not None)
    else:
        made = nn.LayerNorm(layer.width, layer.eps)
    with torch.no_grad():
        if layer.weight is not None:
            made.weight.copy_(layer.weight)
        if layer.bias is not None:
            made.bias.copy_(layer.bias)
    return made
