"""Constant sub-expressions of a traced critic: what depends on its parameters but not on states or actions.

Each is an Expr with its present value. A Recipe replays only what a program needs on new parameter values,
which makes re-packing after an optimizer step a matter of microseconds instead of a new trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten


class Expr:
    """`fn(*args, **kwargs)` over other Exprs, or a numbered leaf. `value` is its result at trace time."""

    __slots__ = ("args", "fixed", "fn", "kwargs", "leaf", "value")

    def __init__(self, fn, args, kwargs, value, leaf: int | None = None) -> None:
        self.fn, self.args, self.kwargs, self.value, self.leaf = fn, args, kwargs, value, leaf
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Expr)]
        self.fixed = leaf is None and all(x.fixed for x in inputs)  # the same whatever the parameters are

    @property
    def shape(self) -> torch.Size:
        return self.value.shape


def leaf(number: int, value: Tensor) -> Expr:
    """The tensor in slot `number`."""
    return Expr(None, (), {}, value.detach(), leaf=number)


def constant(value: Tensor) -> Expr:
    """A tensor that never changes."""
    return Expr(lambda: value, (), {}, value)


def apply(fn: Callable, *args: Any, **kwargs: Any) -> Expr:
    """The Expr of fn(*args), where args may hold Exprs at any depth."""
    values, known = tree_map(lambda x: x.value if isinstance(x, Expr) else x, (args, kwargs))
    return Expr(fn, args, kwargs, fn(*values, **known))


def transpose(matrix: Expr) -> Expr:
    """matrix.T; of a transpose, the original, so that nn.Linear weights come back untouched."""
    if _is_transpose(matrix):
        return matrix.args[0]
    return apply(aten.t.default, matrix)


def _is_transpose(x: Expr) -> bool:
    if x.value.ndim != 2 or x.leaf is not None:
        return False
    if x.fn is aten.t.default:
        return True
    if x.fn is aten.transpose.int:
        return {d % 2 for d in x.args[1:3]} == {0, 1}
    return x.fn is aten.permute.default and [d % 2 for d in x.args[1]] == [1, 0]


def take(x: Expr, index: Sequence[int], axis: int = 0) -> Expr:
    """Entries `index` along an axis; nothing at all when they are all of them in order."""
    if list(index) == list(range(x.shape[axis])):
        return x
    where = torch.as_tensor(index, dtype=torch.long, device=x.value.device)
    return apply(lambda t: t.index_select(axis, where), x)


def flat(x: Expr) -> Expr:
    return x if x.value.ndim == 1 else apply(lambda t: t.reshape(-1), x)


class Recipe:
    """Replays the Exprs behind `wanted` (None stays None) for new leaves."""

    def __init__(self, wanted: Sequence[Expr | None], leaves: int) -> None:
        self._leaves = leaves
        self._places: dict[int, int] = {}  # id of Expr -> place in the table of values
        self._keep: list[Expr] = []  # holds the Exprs whose ids are keys
        self._fixed: list[Tensor | tuple] = []
        self._steps: list[tuple[Callable, list, Any]] = []  # function, its inputs, how they nest
        ordered: list[Expr] = []
        for expr in wanted:
            if expr is not None:
                self._visit(expr, ordered)
        for expr in ordered:
            if expr.fixed:
                self._places[id(expr)] = leaves + len(self._fixed)
                self._fixed.append(expr.value)
        for expr in ordered:
            if not expr.fixed and expr.leaf is None:
                items, spec = tree_flatten((expr.args, expr.kwargs))
                items = [(True, self._places[id(x)]) if isinstance(x, Expr) else (False, x) for x in items]
                flat = not expr.kwargs and all(isinstance(x, Expr) for x in expr.args)
                self._places[id(expr)] = leaves + len(self._fixed) + len(self._steps)
                self._steps.append((expr.fn, items, None if flat else spec))
        self._wanted = [None if e is None else self._places[id(e)] for e in wanted]
        self._keep.clear()

    def _visit(self, expr: Expr, ordered: list[Expr]) -> None:
        """Depth first without recursion: graphs of deep critics are long chains."""
        stack = [(expr, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                ordered.append(node)
                continue
            if id(node) in self._places:
                continue
            self._keep.append(node)
            self._places[id(node)] = node.leaf if node.leaf is not None else -1
            if node.leaf is None:
                stack.append((node, True))
                if not node.fixed:
                    stack += [
                        (x, False) for x in tree_flatten((node.args, node.kwargs))[0] if isinstance(x, Expr)
                    ]

    def used_leaves(self) -> list[int]:
        """The leaves that `run` looks at; others may be None."""
        places = {x for _, items, _ in self._steps for is_place, x in items if is_place} | set(self._wanted)
        return sorted(place for place in places if place is not None and place < self._leaves)

    def run(self, leaves: Sequence[Tensor]) -> list[Tensor | None]:
        """The values of `wanted` for these leaves."""
        table: list[Any] = [*leaves, *self._fixed]
        for fn, items, spec in self._steps:
            if spec is None:  # only tensors, one after the other: no need of the slow general way
                table.append(fn(*[table[place] for _, place in items]))
                continue
            args, kwargs = tree_unflatten([table[x] if is_place else x for is_place, x in items], spec)
            table.append(fn(*args, **kwargs))
        return [None if place is None else table[place] for place in self._wanted]
