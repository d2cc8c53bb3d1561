"""From a user's critic to a CriticProgram, by tracing: what it does counts, not how its parts are called.

trace.py      the forward pass as a graph of ATen operators over (parameters, states, actions)
interpret.py  the graph read operator by operator (rules.py): which scalar stands where (units.py), what is
              constant (constants.py)
layers.py     scalars back to layers, with scales and shifts folded in
heads.py      output scalars to members and a reduction
verify.py     program against module in float64, values and gradients
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtag_fast.ops.watch import Slot

from ..critic import CriticCall
from ..program import (
    MAX_ACTION,
    MAX_DEPTH,
    MAX_STATE,
    MAX_WIDTH,
    Activation,
    CriticProgram,
    LayerNorm,
    Linear,
)
from .constants import Recipe
from .heads import Heads
from .interpret import interpret
from .layers import ActivationSpec, Layers, LinearSpec, NormSpec
from .moves import Var
from .trace import TRACE_ROWS, NotLowerable, leaves_of, trace, training_dropout
from .verify import verify


@dataclass(frozen=True)
class Lowered:
    """A critic that has a program: `build(tensors of the slots)` evaluates it anew, without tracing."""

    slots: tuple[Slot, ...]
    build: Callable[[Sequence[Tensor]], CriticProgram]


def lower(modules: Sequence[nn.Module], call: CriticCall, state_dim: int, action_dim: int) -> Lowered | str:
    """A Lowered, or the reason why there is none."""
    try:
        return _lower(modules, call, state_dim, action_dim)
    except NotLowerable as reason:
        return f"it does not lower to a CriticProgram: {reason}"


def _lower(modules: Sequence[nn.Module], call: CriticCall, state_dim: int, action_dim: int) -> Lowered:
    for name, given, limit in (("states", state_dim, MAX_STATE), ("actions", action_dim, MAX_ACTION)):
        if given > limit:
            raise NotLowerable(f"{name} of width {given} are above the limit of {limit}")
    dropout = training_dropout(modules)
    if dropout:
        raise NotLowerable(dropout)
    leaves = leaves_of(modules)
    values = [t.detach() for t in leaves.tensors()]
    graph = trace(modules, leaves, call, state_dim, action_dim)
    units, outputs, captured = interpret(graph, values, state_dim, action_dim, TRACE_ROWS)
    like = values[0] if values else torch.empty(0)
    layers = Layers(units, state_dim + action_dim, like)
    finder = Heads(layers)
    heads = [finder.head(unit) for unit in output_units(units, outputs, call)]
    reduction = heads[0].reduction if len(heads) == 1 else None
    if len(heads) > 1 and any(head.reduction for head in heads):
        raise NotLowerable("it returns several Q, each reduced over members of its own")
    members = [finder.member(part) for head in heads for part in head.parts]
    check_limits(members)
    build = Builder(members, reduction, state_dim, action_dim, len(values) + len(captured))
    verify(modules, leaves, call, build, captured, (state_dim, action_dim))
    used = build.leaves
    slots = [*leaves.slots, *(({"": tensor}, "") for tensor in captured)]
    return Lowered(tuple(slots[i] for i in used), build.for_leaves(used))


def output_units(units, outputs, call: CriticCall) -> list[int]:
    """The unit behind each Q, in the order of `as_members`."""
    found = []
    axes = [axis for part in call.axes for axis in part]
    for value, axis in zip(outputs, axes, strict=True):
        if not isinstance(value, Var):
            raise NotLowerable("its output does not depend on states and actions")
        codes = value.codes.movedim(axis, -1).reshape(-1, TRACE_ROWS)
        which, rows = units.split(codes)
        if (which != which[:, :1]).any() or (rows != range(TRACE_ROWS)).any():
            raise NotLowerable("its Q depends on the number of the row or mixes rows of the batch")
        found += which[:, 0].tolist()
    return found


def check_limits(members) -> None:
    for layers in members:
        linear = [layer for layer in layers if isinstance(layer, LinearSpec)]
        if len(linear) > MAX_DEPTH:
            raise NotLowerable(f"{len(linear)} Linear layers are above the limit of {MAX_DEPTH}")
        width = max(layer.weight.shape[0] for layer in linear)
        if width > MAX_WIDTH:
            raise NotLowerable(f"a layer of width {width} is above the limit of {MAX_WIDTH}")


def outline(spec) -> Callable:
    """How to make a layer from the next numbers. Keeps no Expr: those hold the weights seen at the trace."""
    if isinstance(spec, LinearSpec):
        return lambda numbers: Linear(next(numbers), next(numbers))
    if isinstance(spec, NormSpec):
        width, eps = spec.width, spec.eps
        return lambda numbers: LayerNorm(width, next(numbers), next(numbers), eps)
    activation = Activation(spec.kind, spec.params)
    return lambda numbers: activation


class Builder:
    """Evaluates the constants of assembled layers into a CriticProgram."""

    def __init__(self, members, reduction, state_dim: int, action_dim: int, leaves: int) -> None:
        self._reduction = reduction
        self._dims = state_dim, action_dim
        exprs = []
        for layers in members:
            for layer in layers:
                if not isinstance(layer, ActivationSpec):
                    exprs += (layer.weight, layer.bias)
        self._recipe = Recipe(exprs, leaves)
        self._members = [[outline(layer) for layer in layers] for layers in members]
        self.leaves = self._recipe.used_leaves()
        self._total = leaves

    def __call__(self, leaves: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> CriticProgram:
        numbers = iter(None if t is None else t.to(dtype).contiguous() for t in self._recipe.run(leaves))
        members = tuple(tuple(make(numbers) for make in makers) for makers in self._members)
        return CriticProgram(*self._dims, members, self._reduction)

    def for_leaves(self, used: Sequence[int]) -> Callable[[Sequence[Tensor]], CriticProgram]:
        """The same from only the leaves that matter."""

        def build(tensors: Sequence[Tensor]) -> CriticProgram:
            leaves: list[Tensor | None] = [None] * self._total
            for i, tensor in zip(used, tensors, strict=True):
                leaves[i] = tensor.detach()
            return self(leaves)

        return build
