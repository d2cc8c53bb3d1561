"""One rule per operator: what it does to codes, units and constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .constants import Expr, apply, constant, transpose
from .moves import Var, move
from .trace import NotLowerable
from .units import Activated, Extreme, Normed, Product, Summed, Units

aten = torch.ops.aten


RULES: dict[Any, Callable] = {}

SIMPLE = {aten.relu: "relu", aten.silu: "silu", aten.mish: "mish", aten.tanh: "tanh"}


def rule(*packets):
    def register(function):
        for packet in packets:
            RULES[packet] = function
        return function

    return register


def activate(units: Units, x: Var, kind: str, params: tuple[float, ...] = ()) -> Var:
    return Var(units.each(x.codes, lambda inputs: Activated(inputs, kind, params)))


@rule(aten.index)
def _index(units, x, indices):
    if not isinstance(x, Var):
        raise NotLowerable("it looks values up by its inputs")
    return move(aten.index.Tensor, (x, indices), {})


@rule(aten._to_copy, aten.to)
def _cast(units, x, dtype=None, **_):
    if dtype is not None and not dtype.is_floating_point:
        raise NotLowerable(f"it rounds features to {dtype}")
    return x


@rule(aten.leaky_relu)
def _leaky_relu(units, x, negative_slope=0.01):
    return activate(units, x, "leaky_relu", (float(negative_slope),))


@rule(aten.elu)
def _elu(units, x, alpha=1.0, scale=1.0, input_scale=1.0):
    """scale * elu_alpha with its input scaled where negative: SELU and CELU too."""
    if input_scale != 1.0:  # CELU: alpha * (exp(x / alpha) - 1) for x < 0, x above: alpha * elu_1(x / alpha)
        if scale != 1.0 or abs(alpha * input_scale - 1.0) > 1e-12:
            raise NotLowerable("elu with an input scale that is not CELU's")
        inner = activate(units, _scale(units, x, input_scale), "elu", (1.0,))
        return _scale(units, inner, alpha)
    return _scale(units, activate(units, x, "elu", (float(alpha),)), scale)


@rule(aten.celu)
def _celu(units, x, alpha=1.0):
    return _elu(units, x, alpha, 1.0, 1.0 / alpha)


@rule(aten.selu)
def _selu(units, x):
    return _elu(units, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@rule(aten.gelu)
def _gelu(units, x, approximate="none"):
    return activate(units, x, "gelu_tanh" if approximate == "tanh" else "gelu")


@rule(aten.softplus)
def _softplus(units, x, beta=1, threshold=20):
    return activate(units, x, "softplus", (float(beta), float(threshold)))


@rule(aten.clamp, aten.clamp_min)
def _clamp(units, x, min=None, max=None):
    if min == 0 and max is None and isinstance(x, Var):
        return activate(units, x, "relu")
    raise NotLowerable("it clamps features (only clamp(min=0), which is ReLU, is taken)")


def _scale(units: Units, x: Var, factor: float) -> Var:
    return x if factor == 1.0 else Var(units.affine(x.codes, _const(factor), None))


def _const(x: Any) -> Expr:
    return x if isinstance(x, Expr) else constant(torch.tensor(float(x), dtype=torch.float64))


def _negative(x: Expr) -> Expr:
    return apply(torch.neg, x)


def _sum_pair(units: Units, x: Var, y: Var, factors: tuple[float, float]) -> Var:
    pair = torch.stack(torch.broadcast_tensors(x.codes, y.codes), -1)
    return Var(units.each_tuple(pair, lambda inputs: Summed(inputs, factors)))


@rule(aten.add)
def _add(units, x, y, alpha=1):
    if isinstance(x, Var) and isinstance(y, Var):
        return _sum_pair(units, x, y, (1.0, float(alpha)))
    if isinstance(y, Var):
        return Var(units.affine(y.codes, None if alpha == 1 else _const(alpha), _const(x)))
    shift = _const(y) if alpha == 1 else apply(torch.mul, _const(y), alpha)
    return Var(units.affine(x.codes, None, shift))


@rule(aten.sub)
def _sub(units, x, y, alpha=1):
    return _add(units, x, y, -alpha)


@rule(aten.rsub)
def _rsub(units, x, y, alpha=1):
    return _sub(units, y, x, alpha)


@rule(aten.neg)
def _neg(units, x):
    return _scale(units, x, -1.0)


@rule(aten.mul)
def _mul(units, x, y):
    if isinstance(x, Var) and isinstance(y, Var):
        raise NotLowerable("it multiplies features with features")
    x, y = (x, y) if isinstance(x, Var) else (y, x)
    return Var(units.affine(x.codes, _const(y), None))


@rule(aten.div)
def _div(units, x, y, rounding_mode=None):
    if isinstance(y, Var) or rounding_mode is not None:
        raise NotLowerable("it divides by features")
    return Var(units.affine(x.codes, apply(torch.reciprocal, _const(y)), None))


def _product(units: Units, codes: Tensor, weight: Expr) -> Tensor:
    """codes (..., F) times weight (F, O)."""
    out = transpose(weight)
    return units.each_vector(codes, lambda inputs: (Product(inputs, out), out.shape[0]))


@rule(aten.mm, aten.matmul)
def _mm(units, x, y):
    if isinstance(x, Var) and isinstance(y, Var):
        raise NotLowerable("it multiplies features with features")
    if isinstance(x, Var):
        return Var(_product(units, x.codes, y))
    return Var(_product(units, y.codes.t(), apply(aten.t.default, x)).t())  # (W x^T) = (x W^T)^T


@rule(aten.mv)
def _mv(units, x, y):
    if not isinstance(x, Var) or isinstance(y, Var):
        raise NotLowerable("it multiplies features with features")
    return Var(_product(units, x.codes, apply(lambda t: t[:, None], y)).squeeze(-1))


@rule(aten.addmm)
def _addmm(units, bias, x, y, beta=1, alpha=1):
    product = _scale(units, _mm(units, x, y), alpha)
    return _add(units, product, bias, beta)


@rule(aten.linear)
def _linear(units, x, weight, bias=None):
    product = _mm(units, x, apply(aten.t.default, weight))
    return product if bias is None else _add(units, product, bias)


@rule(aten.bmm)
def _bmm(units, x, y):
    parts = []
    for i in range((x.codes if isinstance(x, Var) else y.codes).shape[0]):
        pick = [Var(v.codes[i]) if isinstance(v, Var) else apply(aten.select.int, v, 0, i) for v in (x, y)]
        parts.append(_mm(units, *pick).codes)
    return Var(torch.stack(parts))


@rule(aten.baddbmm)
def _baddbmm(units, bias, x, y, beta=1, alpha=1):
    product = _scale(units, _bmm(units, x, y), alpha)
    return _add(units, product, bias, beta)


@rule(aten.native_layer_norm)
def _layer_norm(units, x, shape, weight, bias, eps):
    if isinstance(weight, Var) or isinstance(bias, Var) or not isinstance(x, Var):
        raise NotLowerable("a LayerNorm whose weights depend on its inputs")
    width = len(shape)
    flat = x.codes.flatten(-width)
    codes = units.each_vector(flat, lambda inputs: (Normed(inputs, float(eps)), len(inputs)))
    y = Var(codes.reshape(x.codes.shape))
    if weight is not None or bias is not None:
        y = Var(units.affine(y.codes, weight, bias))
    return [y, None, None]


def _batch_norm(units, x, weight, bias, mean, var, eps):
    wide = [-1] + [1] * (x.codes.ndim - 2)
    scale = apply(lambda v: (v.double() + eps).rsqrt(), var)
    scale = scale if weight is None else apply(torch.mul, scale, weight)
    shift = apply(lambda m, s: -m * s, mean, scale)
    shift = shift if bias is None else apply(torch.add, shift, bias)
    shape = lambda t: t.reshape(wide)  # noqa: E731
    return [Var(units.affine(x.codes, apply(shape, scale), apply(shape, shift))), None, None, None]


@rule(aten._native_batch_norm_legit_no_training)
def _batch_norm_eval(units, x, weight, bias, mean, var, momentum, eps):
    return _batch_norm(units, x, weight, bias, mean, var, eps)


@rule(aten.native_batch_norm, aten.cudnn_batch_norm)
def _batch_norm_any(units, x, weight, bias, mean, var, training, momentum, eps):
    if training:
        raise NotLowerable("BatchNorm in training mode; call critic.eval()")
    return _batch_norm(units, x, weight, bias, mean, var, eps)


def _along(x: Var, dim: Any, keepdim: bool) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Codes with the reduced axes flattened to the end, and how to put kept axes back."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.codes.ndim))
    dims = sorted(d % x.codes.ndim for d in dims)
    kept = [d for d in range(x.codes.ndim) if d not in dims]
    moved = x.codes.permute(*kept, *dims).flatten(len(kept)) if kept else x.codes.reshape(-1)

    def back(codes: Tensor) -> Tensor:
        for d in dims if keepdim else ():
            codes = codes.unsqueeze(d)
        return codes

    return moved, back


@rule(aten.sum)
def _sum(units, x, dim=None, keepdim=False, dtype=None):
    moved, back = _along(x, dim, keepdim)
    factors = (1.0,) * moved.shape[-1]
    return Var(back(units.each_tuple(moved, lambda inputs: Summed(inputs, factors))))


@rule(aten.mean)
def _mean(units, x, dim=None, keepdim=False, dtype=None):
    moved, back = _along(x, dim, keepdim)
    factors = (1.0 / moved.shape[-1],) * moved.shape[-1]
    return Var(back(units.each_tuple(moved, lambda inputs: Summed(inputs, factors))))


def _extreme(kind: str):
    def reduce(units, x, dim=None, keepdim=False):
        if isinstance(dim, Var):  # torch.min(q1, q2)
            return pair(units, x, dim)
        moved, back = _along(x, dim, keepdim)
        return Var(back(units.each_tuple(moved, lambda inputs: Extreme(inputs, kind))))

    def with_index(units, x, dim=None, keepdim=False):
        result = reduce(units, x, dim, keepdim)
        return result if dim is None or isinstance(dim, Var) else [result, None]

    def pair(units, x, y):
        if not (isinstance(x, Var) and isinstance(y, Var)):
            raise NotLowerable(f"it takes the {kind} of features and a constant")
        both = torch.stack(torch.broadcast_tensors(x.codes, y.codes), -1)
        return Var(units.each_tuple(both, lambda inputs: Extreme(inputs, kind)))

    return reduce, with_index, pair


_amin, _min_dim, _minimum = _extreme("min")
_amax, _max_dim, _maximum = _extreme("max")
RULES |= {
    aten.amin: _amin,
    aten.min: _min_dim,
    aten.minimum: _minimum,
    aten.amax: _amax,
    aten.max: _max_dim,
    aten.maximum: _maximum,
}
