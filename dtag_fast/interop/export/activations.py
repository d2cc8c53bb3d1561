"""Activation functions of a CriticProgram and their derivatives, in plain operators."""

from __future__ import annotations

import math

from dtag_fast.interop.export.operators import Value
from dtag_fast.ops.refine.program import Activation

# By the names of the networks of dtag_fast.models.
NAMED = {kind: Activation(kind) for kind in ("relu", "gelu", "silu", "mish", "tanh")}
NAMED["elu"] = Activation("elu", (1.0,))

_TANH_GELU, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def apply(ops, activation: Activation, x: Value) -> Value:
    """f(x), formulas as in torch.nn."""
    kind, params = activation.kind, activation.params
    if kind == "identity":
        return x
    if kind == "relu":
        return ops.relu(x)
    if kind == "leaky_relu":
        return ops.where(x > 0.0, x, x * params[0])
    if kind == "elu":
        return ops.where(x > 0.0, x, (ops.exp(ops.minimum(x, 0.0)) - 1.0) * params[0])
    if kind == "gelu":
        return x * _normal_cdf(ops, x)
    if kind == "gelu_tanh":
        return x * (ops.tanh(_inner(x)) + 1.0) * 0.5
    if kind == "silu":
        return x * ops.sigmoid(x)
    if kind == "mish":
        return x * ops.tanh(_softplus(ops, x))
    if kind == "tanh":
        return ops.tanh(x)
    beta, threshold = params
    return ops.where(x * beta > threshold, x, _softplus(ops, x * beta) / beta)


def derivative(ops, activation: Activation, x: Value) -> Value | None:
    """f'(x) as autograd has it, at kinks too; None where it is 1 everywhere."""
    kind, params = activation.kind, activation.params
    if kind == "identity":
        return None
    if kind == "relu":
        return ops.where(x > 0.0, 1.0, 0.0)
    if kind == "leaky_relu":
        return ops.where(x > 0.0, 1.0, params[0])
    if kind == "elu":
        return ops.where(x > 0.0, 1.0, ops.exp(ops.minimum(x, 0.0)) * params[0])
    if kind == "gelu":
        density = ops.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return _normal_cdf(ops, x) + x * density
    if kind == "gelu_tanh":
        t = ops.tanh(_inner(x))
        slope = (x * x * (3 * _CUBIC) + 1.0) * _TANH_GELU
        return (t + 1.0) * 0.5 + x * (1.0 - t * t) * slope * 0.5
    if kind == "silu":
        s = ops.sigmoid(x)
        return s * (x * (1.0 - s) + 1.0)
    if kind == "mish":
        t = ops.tanh(_softplus(ops, x))
        return t + x * ops.sigmoid(x) * (1.0 - t * t)
    if kind == "tanh":
        t = ops.tanh(x)
        return 1.0 - t * t
    beta, threshold = params
    return ops.where(x * beta > threshold, 1.0, ops.sigmoid(x * beta))


def _normal_cdf(ops, x: Value) -> Value:
    return (ops.erf(x * (1 / math.sqrt(2))) + 1.0) * 0.5


def _inner(x: Value) -> Value:
    return (x + x * x * x * _CUBIC) * _TANH_GELU


def _softplus(ops, x: Value) -> Value:
    """log(1 + exp(x)), from the side on which exp does not overflow."""
    return ops.maximum(x, 0.0) + ops.log(ops.exp(-ops.abs(x)) + 1.0)
