"""Tensors of the traced graph as codes, and the operators that only move data: they run on the codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from .constants import Expr
from .trace import NotLowerable

aten = torch.ops.aten


class Var:
    """A tensor that depends on states or actions, known by its codes."""

    __slots__ = ("codes",)

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes


Value = Var | Expr | Any

MOVES = {
    *(aten.view, aten._unsafe_view, aten.reshape, aten.flatten, aten.expand, aten.expand_as, aten.repeat),
    *(aten.permute, aten.t, aten.transpose, aten.movedim, aten.squeeze, aten.unsqueeze, aten.unfold),
    *(aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten.diagonal),
    *(aten.cat, aten.stack, aten.index_select, aten.flip, aten.roll, aten.slice_scatter, aten.select_scatter),
    *(aten.clone, aten.alias, aten.detach, aten.contiguous, aten.lift_fresh_copy, aten.copy),
}


def move(target: Any, args: tuple, kwargs: dict) -> Value:
    if any(isinstance(x, Expr) for x in tree_flatten((args, kwargs))[0]):
        args, kwargs = tree_map(
            lambda x: _index_only(target, x) if isinstance(x, Expr) else x, (args, kwargs)
        )
    kwargs = {name: x for name, x in kwargs.items() if name != "memory_format"}
    args, kwargs = tree_map(lambda x: x.codes if isinstance(x, Var) else x, (args, kwargs))
    codes = target(*args, **kwargs)
    return Var(codes) if isinstance(codes, Tensor) else [Var(c) for c in codes]


def _index_only(target: Any, x: Expr) -> Tensor:
    """A constant inside a data movement may be an index, never data."""
    if x.fixed and not x.value.is_floating_point():
        return x.value.cpu()
    raise NotLowerable(f"{target.overloadpacket} joins features with a constant")
