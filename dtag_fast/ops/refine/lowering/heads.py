"""What an output of the critic is: one network, or the mean, min or max of several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .constants import Expr, apply, flat, take
from .layers import Layers, Spec, added, scaled, scaled_shift
from .trace import NotLowerable
from .units import Extreme, Product, Scaled, Summed


@dataclass(frozen=True)
class Functional:
    """A number per row: row @ vector + shift."""

    vector: np.ndarray
    row: Expr  # (F,)
    shift: Expr | None  # (1,)


@dataclass(frozen=True)
class Head:
    """An output: the mean, min or max of functionals, or just one (reduction None)."""

    parts: tuple[Functional, ...]
    reduction: str | None


class Heads:
    """Finds the members and the reduction behind an output unit."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    def head(self, unit: int) -> Head:
        """What an output unit is."""
        node, start = self._layers.units.node_of(unit)
        i = unit - start
        if isinstance(node, Product):
            return Head((Functional(node.inputs, flat(take(node.weight, [i])), None),), None)
        if isinstance(node, Scaled):
            scale, shift = (None if c is None else take(c, [i]) for c in (node.scale, node.shift))
            return self._scale_head(self.head(int(node.inputs[i])), scale, shift)
        if isinstance(node, Summed):
            return self._sum_head(node.inputs[i], node.factors)
        if isinstance(node, Extreme):
            return self._extreme_head([self.head(int(u)) for u in node.inputs[i]], node.kind)
        return Head((Functional(np.array([unit]), self._layers.numbers([1.0]), None),), None)

    def _scale_head(self, head: Head, scale: Expr | None, shift: Expr | None) -> Head:
        kind = head.reduction
        if scale is not None and kind in ("min", "max"):
            if not scale.fixed:
                raise NotLowerable("it scales its min over members by a parameter, whose sign may change")
            if float(scale.value) < 0:
                kind = "max" if kind == "min" else "min"
        parts = tuple(
            Functional(
                p.vector,
                p.row if scale is None else scaled(p.row, scale),
                added(scaled_shift(p.shift, scale), shift),
            )
            for p in head.parts
        )
        return Head(parts, kind)

    def _sum_head(self, inputs: np.ndarray, factors: tuple[float, ...]) -> Head:
        nodes = [self._layers.units.node_of(int(u))[0] for u in inputs]
        if not any(
            isinstance(n, Product | Scaled | Summed | Extreme) for n in nodes
        ):  # sum over hidden features
            row = self._layers.numbers(factors)
            return Head((Functional(inputs, row, None),), None)
        heads = [self.head(int(u)) for u in inputs]
        if any(h.reduction not in (None, "mean") for h in heads):
            raise NotLowerable("it adds up minima or maxima over members")
        groups: dict[bytes, list[Functional]] = {}
        for head, factor in zip(heads, factors, strict=True):
            each = self._layers.numbers([factor / len(head.parts)])
            for part in head.parts:
                row, shift = scaled(part.row, each), scaled_shift(part.shift, each)
                groups.setdefault(part.vector.tobytes(), []).append(Functional(part.vector, row, shift))
        members = [self._merge(parts) for parts in groups.values()]
        if len(members) == 1:
            return Head((members[0],), None)
        count = self._layers.numbers([float(len(members))])
        parts = tuple(
            Functional(m.vector, scaled(m.row, count), scaled_shift(m.shift, count)) for m in members
        )
        return Head(parts, "mean")

    def _merge(self, parts: list[Functional]) -> Functional:
        """The sum of functionals of one vector."""
        if len(parts) == 1:
            return parts[0]
        row = apply(lambda *rows: torch.stack([r.double() for r in rows]).sum(0), *(p.row for p in parts))
        shifts = [p.shift for p in parts if p.shift is not None]
        shift = apply(lambda *s: torch.stack([x.double() for x in s]).sum(0), *shifts) if shifts else None
        return Functional(parts[0].vector, row, shift)

    def _extreme_head(self, heads: list[Head], kind: str) -> Head:
        if any(h.reduction not in (None, kind) for h in heads):
            raise NotLowerable(f"it takes the {kind} of other reductions over members")
        return Head(tuple(p for h in heads for p in h.parts), kind)

    def member(self, part: Functional) -> list[Spec]:
        """The layers of a functional."""
        return self._layers.linear(part.vector, apply(lambda r: r[None], part.row), part.shift)
