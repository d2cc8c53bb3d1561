"""From units back to layers.

Scales and shifts are folded into the neighbouring Linear or LayerNorm, in float64. Exprs stand for all the
numbers, so that the result can be evaluated again when parameters change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..program import MAX_WIDTH
from .constants import Expr, apply, constant, take
from .trace import NotLowerable
from .units import Activated, Extreme, Inputs, Normed, Product, Scaled, Summed, Units


@dataclass(frozen=True)
class LinearSpec:
    weight: Expr  # (out, in)
    bias: Expr | None


@dataclass(frozen=True)
class NormSpec:
    width: int
    weight: Expr | None
    bias: Expr | None
    eps: float


@dataclass(frozen=True)
class ActivationSpec:
    kind: str
    params: tuple[float, ...]


Spec = LinearSpec | NormSpec | ActivationSpec


def f64(fn):
    """Fold in float64, so that the float32 weights of the program are rounded once."""
    return lambda *tensors: fn(*(t.double() for t in tensors))


def scaled(x: Expr | None, by: Expr | None) -> Expr | None:
    if x is None or by is None:
        return x if by is None else by
    return apply(f64(torch.mul), x, by)


def added(x: Expr | None, y: Expr | None) -> Expr | None:
    if x is None or y is None:
        return x if y is None else y
    return apply(f64(torch.add), x, y)


def scaled_shift(shift: Expr | None, scale: Expr | None) -> Expr | None:
    """shift * scale, where a missing shift stays zero."""
    return None if shift is None else scaled(shift, scale)


class Layers:
    """Turns units into layer specs; `width` = S + A input columns."""

    def __init__(self, units: Units, width: int, like: torch.Tensor) -> None:
        self.units, self.width, self.like = units, width, like

    def numbers(self, values) -> Expr:
        """Given numbers, in float64 on the critic's device."""
        return constant(torch.tensor(values, dtype=torch.float64, device=self.like.device))

    def linear(self, vector: np.ndarray, weight: Expr, bias: Expr | None) -> list[Spec]:
        """Layers that end in weight @ vector + bias."""
        vector, scale, shift = self.strip(vector)
        if shift is not None:
            bias = added(apply(f64(lambda w, s: w @ s), weight, shift), bias)
        if scale is not None:
            weight = scaled(weight, scale)
        groups = self.units.groups(vector)
        if len(groups) > 1:
            return self._joined(groups, len(vector), weight, bias)
        node, _, index = groups[0]
        if isinstance(node, Inputs):
            return [LinearSpec(self._spread(weight, index, self.width), bias)]
        if isinstance(node, Product):
            return [*self.vector(vector), LinearSpec(weight, bias)]
        if isinstance(node, Activated):
            return [*self.vector(vector), LinearSpec(weight, bias)]
        if isinstance(node, Normed):
            before = self.vector(node.inputs)
            spec = NormSpec(len(node.inputs), None, None, node.eps)
            return [*before, spec, LinearSpec(self._spread(weight, index, len(node.inputs)), bias)]
        raise self._misplaced(node)

    def vector(self, vector: np.ndarray) -> list[Spec]:
        """Layers whose output is exactly `vector`."""
        source, scale, shift = self.strip(vector)
        groups = self.units.groups(source)
        nodes = [node for node, _, _ in groups]
        if all(isinstance(n, Product) for n in nodes):
            return self._products(groups, len(vector), scale, shift)
        if len(groups) == 1:
            node, _, index = groups[0]
            if isinstance(node, Activated) and scale is None and shift is None:
                return [*self.vector(node.inputs[index]), ActivationSpec(node.kind, node.params)]
            if isinstance(node, Normed) and sorted(index) == list(range(len(node.inputs))):
                return [*self.vector(node.inputs[index]), NormSpec(len(index), scale, shift, node.eps)]
        for node in nodes:
            if isinstance(node, Summed | Extreme):
                raise self._misplaced(node)
        if len(source) > MAX_WIDTH:
            raise NotLowerable(f"a layer of width {len(source)} is above {MAX_WIDTH}")
        eye = constant(torch.eye(len(source), dtype=torch.float64, device=self.like.device))
        diagonal = eye if scale is None else apply(f64(torch.diag), scale)
        return self.linear(source, diagonal, shift)

    def _products(self, groups, count: int, scale: Expr | None, shift: Expr | None) -> list[Spec]:
        """Rows of one or several products over the same vector, with scale and shift folded in."""
        first = groups[0][0].inputs
        if all(np.array_equal(node.inputs, first) for node, _, _ in groups):
            weight = self._gather(
                [(pos, take(node.weight, index.tolist())) for node, pos, index in groups], count
            )
            weight = weight if scale is None else apply(f64(lambda w, s: w * s[:, None]), weight, scale)
            return self.linear(first, weight, shift)
        parts = []  # branches side by side: one Linear when each is affine in the inputs
        for node, positions, index in groups:
            layers = self.linear(node.inputs, take(node.weight, index.tolist()), None)
            if len(layers) > 1:
                raise NotLowerable("it joins branches that are more than one layer deep")
            parts.append((positions, layers[0]))
        weight = self._gather([(pos, layer.weight) for pos, layer in parts], count)
        biases = [(pos, layer.bias) for pos, layer in parts if layer.bias is not None]
        bias = self._gather(biases, count, fill=0.0) if biases else None
        if scale is not None:
            weight = apply(f64(lambda w, s: w * s[:, None]), weight, scale)
            bias = None if bias is None else scaled(bias, scale)
        return [LinearSpec(weight, added(bias, shift))]

    def _joined(self, groups, count: int, weight: Expr, bias: Expr | None) -> list[Spec]:
        """weight @ [pieces of several nodes] + bias: one Linear when every piece is affine in the inputs."""
        if all(isinstance(node, Product) for node, _, _ in groups):
            first = groups[0][0].inputs
            if all(np.array_equal(node.inputs, first) for node, _, _ in groups):
                return [*self._products(groups, count, None, None), LinearSpec(weight, bias)]
        if all(isinstance(node, Activated) for node, _, _ in groups):
            kinds = {(node.kind, node.params) for node, _, _ in groups}
            if len(kinds) == 1:
                merged = np.empty(count, dtype=np.int64)
                for node, positions, index in groups:
                    merged[positions] = node.inputs[index]
                return [*self.vector(merged), ActivationSpec(*kinds.pop()), LinearSpec(weight, bias)]
        total, extra = None, bias
        for node, positions, index in groups:
            columns = take(weight, positions.tolist(), axis=1)
            if isinstance(node, Inputs):
                piece = LinearSpec(self._spread(columns, index, self.width), None)
            elif isinstance(node, Product):
                layers = self.linear(node.inputs, take(node.weight, index.tolist()), None)
                if len(layers) > 1:
                    raise NotLowerable("it joins the inputs with features that are not affine in them")
                inner_bias = layers[0].bias
                piece = LinearSpec(
                    apply(f64(torch.matmul), columns, layers[0].weight),
                    None if inner_bias is None else apply(f64(torch.matmul), columns, inner_bias),
                )
            elif isinstance(node, Summed | Extreme):
                raise self._misplaced(node)
            else:
                raise NotLowerable(
                    "it joins features of different depth (such as an encoded state beside the action)"
                )
            total = piece.weight if total is None else added(total, piece.weight)
            extra = added(extra, piece.bias)
        return [LinearSpec(total, extra)]

    def strip(self, vector: np.ndarray) -> tuple[np.ndarray, Expr | None, Expr | None]:
        """vector = source * scale + shift, with no Scaled unit left in source."""
        scale = shift = None
        while True:
            groups = self.units.groups(vector)
            if not any(isinstance(node, Scaled) for node, _, _ in groups):
                return vector, scale, shift
            source = vector.copy()
            scales, shifts = [], []
            for node, positions, index in groups:
                if isinstance(node, Scaled):
                    source[positions] = node.inputs[index]
                    scales += (
                        [(positions, take(node.scale, index.tolist()))] if node.scale is not None else []
                    )
                    shifts += (
                        [(positions, take(node.shift, index.tolist()))] if node.shift is not None else []
                    )
            inner_shift = self._gather(shifts, len(vector), fill=0.0) if shifts else None
            inner_scale = self._gather(scales, len(vector), fill=1.0) if scales else None
            shift = added(scaled_shift(inner_shift, scale), shift)
            scale = scaled(inner_scale, scale)
            vector = source

    def _gather(self, parts: list[tuple[np.ndarray, Expr]], count: int, fill: float | None = None) -> Expr:
        """A vector or matrix of `count` rows from pieces at given rows, `fill` elsewhere."""
        positions = np.concatenate([p for p, _ in parts])
        pieces = [piece for _, piece in parts]
        if fill is not None and len(positions) < count:
            rest = np.setdiff1d(np.arange(count), positions)
            positions = np.concatenate([positions, rest])
            pieces.append(
                constant(torch.full((len(rest),), fill, dtype=torch.float64, device=self.like.device))
            )
        joined = pieces[0]
        if len(pieces) > 1:
            joined = apply(lambda *t: torch.cat([x.double() for x in t]), *pieces)
        return take(joined, np.argsort(positions).tolist())

    def _spread(self, weight: Expr, index: np.ndarray, width: int) -> Expr:
        """weight's columns moved to `index` of `width` columns (columns that meet are added)."""
        if list(index) == list(range(width)):
            return weight
        where = torch.as_tensor(index, dtype=torch.long, device=self.like.device)
        return apply(lambda w: w.new_zeros(w.shape[0], width).index_add(1, where, w), weight)

    def _misplaced(self, node) -> NotLowerable:
        if isinstance(node, Summed):
            return NotLowerable("it adds features to features (a skip connection or a hand-written mean)")
        return NotLowerable("it takes a min or max inside the network")
