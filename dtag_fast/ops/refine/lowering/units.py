"""The scalars ("units") a critic computes per row, and which tensor entry holds which.

A tensor of the traced graph is known by its codes: an int64 tensor of its shape, entry = unit * rows + row.
Moving data (view, permute, expand, slice, cat, ...) is then exact for any operator: run it on the codes.
Arithmetic makes new units, kept in nodes that say how they come from earlier ones.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .constants import Expr, apply, flat, take
from .trace import NotLowerable


@dataclass(frozen=True)
class Inputs:
    """Unit j is column j of [state | action]."""


@dataclass(frozen=True)
class Product:
    """weight @ inputs: weight Expr (out, F), inputs (F,) units."""

    inputs: np.ndarray
    weight: Expr


@dataclass(frozen=True)
class Scaled:
    """inputs * scale + shift, entry by entry; Exprs (n,) or None."""

    inputs: np.ndarray
    scale: Expr | None
    shift: Expr | None


@dataclass(frozen=True)
class Activated:
    """kind(inputs), entry by entry."""

    inputs: np.ndarray
    kind: str
    params: tuple[float, ...]


@dataclass(frozen=True)
class Normed:
    """(inputs - mean) / sqrt(var + eps) over all inputs."""

    inputs: np.ndarray
    eps: float


@dataclass(frozen=True)
class Summed:
    """sum_k factors[k] * inputs[:, k]; inputs (n, k)."""

    inputs: np.ndarray
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Extreme:
    """Smallest or largest over k; inputs (n, k), kind "min" or "max"."""

    inputs: np.ndarray
    kind: str


Node = Inputs | Product | Scaled | Activated | Normed | Summed | Extreme


class Units:
    """All units, numbered in order of their making; each node owns a run of them."""

    def __init__(self, inputs: int, rows: int) -> None:
        self.rows = rows
        self._starts, self._nodes, self._total = [], [], 0
        self.add(Inputs(), inputs)

    def add(self, node: Node, count: int) -> int:
        """Make `count` units; returns the first."""
        start = self._total
        self._starts.append(start)
        self._nodes.append(node)
        self._total += count
        return start

    def node_of(self, unit: int) -> tuple[Node, int]:
        """The node that owns a unit, and its first unit."""
        i = bisect_right(self._starts, unit) - 1
        return self._nodes[i], self._starts[i]

    def groups(self, units: np.ndarray) -> list[tuple[Node, np.ndarray, np.ndarray]]:
        """`units` by node: (node, positions in `units`, numbers within the node)."""
        which = np.searchsorted(self._starts, units, side="right") - 1
        found = []
        for i in dict.fromkeys(which.tolist()):
            positions = np.flatnonzero(which == i)
            found.append((self._nodes[i], positions, units[positions] - self._starts[i]))
        return found

    def input_codes(self, first: int, width: int) -> Tensor:
        """Codes (rows, width) of input columns first..first+width."""
        return (torch.arange(first, first + width) * self.rows)[None] + torch.arange(self.rows)[:, None]

    def split(self, codes: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Codes as (units, rows)."""
        array = codes.numpy()
        return array // self.rows, array % self.rows

    def codes(self, units: np.ndarray, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(units * self.rows + rows)

    def each(self, codes: Tensor, make) -> Tensor:
        """New units for the distinct units in `codes`: make(units (n,)) gives their node."""
        units, rows = self.split(codes)
        distinct, inverse = np.unique(units, return_inverse=True)
        start = self.add(make(distinct), len(distinct))
        return self.codes(start + inverse.reshape(units.shape), rows)

    def each_vector(self, codes: Tensor, make) -> Tensor:
        """New units for the distinct vectors along the last axis: make(units (F,)) gives (node, width)."""
        units, rows = self.split(codes.reshape(-1, codes.shape[-1]))
        if (rows != rows[:, :1]).any():
            raise NotLowerable("it mixes rows of the batch")
        distinct, inverse = np.unique(units, axis=0, return_inverse=True)
        made = [make(vector) for vector in distinct]
        width = made[0][1]
        starts = np.array([self.add(node, count) for node, count in made])
        new = starts[inverse.reshape(-1)][:, None] + np.arange(width)
        return self.codes(new, rows[:, :1]).reshape(*codes.shape[:-1], width)

    def each_tuple(self, stacked: Tensor, make) -> Tensor:
        """New units for the distinct k-tuples along the last axis: make(units (n, k)) gives their node."""
        units, rows = self.split(stacked)
        if (rows != rows[..., :1]).any():
            raise NotLowerable("it mixes rows of the batch")
        distinct, inverse = np.unique(units.reshape(-1, units.shape[-1]), axis=0, return_inverse=True)
        start = self.add(make(distinct), len(distinct))
        return self.codes(start + inverse.reshape(units.shape[:-1]), rows[..., 0])

    def affine(self, codes: Tensor, factor: Expr | None, shift: Expr | None) -> Tensor:
        """codes * factor + shift with constants that broadcast."""
        constants = [c for c in (factor, shift) if c is not None]
        shape = torch.broadcast_shapes(codes.shape, *(c.shape for c in constants))
        units, rows = self.split(codes.expand(shape).contiguous())
        keys = [units.reshape(-1)]
        for c in constants:
            entries = torch.arange(c.value.numel())
            if c.fixed:  # equal numbers are one entry, so that ones_like(x) does not tell rows apart
                entries = torch.from_numpy(
                    np.unique(c.value.detach().double().cpu().numpy().reshape(-1), return_inverse=True)[
                        1
                    ].reshape(-1)
                )
                first = torch.from_numpy(np.unique(entries.numpy(), return_index=True)[1])
                entries = first[entries]
            keys.append(entries.view(c.shape).expand(shape).reshape(-1).numpy())
        distinct, inverse = np.unique(np.stack(keys, 1), axis=0, return_inverse=True)
        columns = iter(distinct.T[1:])

        def pick(c: Expr | None) -> Expr | None:
            if c is None:
                return None
            index = next(columns)
            if c.value.numel() == 1 and len(index) > 1:
                count = len(index)
                return apply(lambda t: t.reshape(1).expand(count), c)
            return take(flat(c), index.tolist())

        node = Scaled(distinct[:, 0], pick(factor), pick(shift))
        start = self.add(node, len(distinct))
        return self.codes(start + inverse.reshape(shape), rows)
