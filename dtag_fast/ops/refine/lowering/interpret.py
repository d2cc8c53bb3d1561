"""Reading a traced graph: every operator becomes moved codes, new units, or a constant."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten

from .constants import Expr, apply, leaf
from .moves import MOVES, Value, Var, move
from .rules import RULES, SIMPLE, activate
from .trace import NotLowerable
from .units import Units

aten = torch.ops.aten


def interpret(graph: fx.GraphModule, leaves: Sequence[Tensor], state_dim: int, action_dim: int, rows: int):
    """The units of a graph, its outputs (Var or Expr each), and the tensors it captured as constants.

    Captured tensors are leaves numbered after `leaves`, so that they can be watched like parameters.

    Raises:
        NotLowerable: naming the first operator that has no place in a CriticProgram.
    """
    units = Units(state_dim + action_dim, rows)
    captured: list[Tensor] = []
    known: dict[fx.Node, Value] = {}
    inputs: list[Value] = [leaf(i, tensor) for i, tensor in enumerate(leaves)]
    inputs += [Var(units.input_codes(0, state_dim)), Var(units.input_codes(state_dim, action_dim))]
    placeholders = iter(inputs)
    with torch.no_grad():
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(placeholders)
            elif node.op == "get_attr":
                tensor = getattr(graph, node.target)
                known[node] = leaf(len(leaves) + len(captured), tensor)
                captured.append(tensor)
            elif node.op == "output":
                return units, fx.map_arg(node.args[0], known.__getitem__), captured
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = evaluate(units, node.target, args, kwargs)
    raise AssertionError("a graph ends with an output")


def evaluate(units: Units, target: Any, args: tuple, kwargs: dict) -> Value:
    """One operator."""
    flat = tree_flatten((args, kwargs))[0]
    if not any(isinstance(x, Var) for x in flat):
        if target is operator.getitem and not isinstance(args[0], Expr):
            return args[0][args[1]]
        packet = getattr(target, "overloadpacket", target)
        if any(tag in getattr(target, "tags", ()) for tag in (torch.Tag.nondeterministic_seeded,)):
            raise NotLowerable(f"it draws random numbers ({packet}); call critic.eval()")
        if packet is aten.copy_:
            raise NotLowerable("its forward pass changes its own buffers; call critic.eval()")
        return apply(target, *args, **kwargs)
    if target is operator.getitem:
        return args[0][args[1]]
    packet = target.overloadpacket
    if packet in MOVES:
        return move(target, args, kwargs)
    if packet in SIMPLE:
        return activate(units, args[0], SIMPLE[packet])
    if packet in RULES:
        return RULES[packet](units, *args, **kwargs)
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise NotLowerable(f"it draws random numbers ({packet}); call critic.eval()")
    raise NotLowerable(f"operator {packet} has no place in a CriticProgram")
