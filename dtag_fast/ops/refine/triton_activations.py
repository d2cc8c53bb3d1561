"""Activations in Triton: (f(x), f'(x)) of a tile, formulas as in torch.nn.

NaN stays NaN, so comparisons are written to let it through. Far out no intermediate may overflow into a value
or slope that its asymptote does not have.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def kind_of(stage, i):
    """The name of a stage's i-th activation."""
    return stage.activations[i][0]


@triton.constexpr_function
def parameter_of(stage, i, j):
    """The j-th parameter of a stage's i-th activation, 0 where it has none."""
    parameters = stage.activations[i][1]
    return parameters[j] if j < len(parameters) else 0.0


@triton.jit
def expm1(x):
    """e^x - 1: a Taylor sum where the subtraction would cancel."""
    near = tl.minimum(tl.maximum(x, -0.5), 0.5)
    tail = 1 / 720 + near * (1 / 5040 + near * (1 / 40320))
    tail = 1 / 6 + near * (1 / 24 + near * (1 / 120 + near * tail))
    small = near + near * near * (0.5 + near * tail)
    return tl.where(tl.abs(x) < 0.5, small, tl.exp(x) - 1.0)


@triton.jit
def log1p_unit(x):
    """log(1 + x) for x in [0, 1], as 2 atanh(x / (2 + x))."""
    s = x / (2.0 + x)
    s2 = s * s
    tail = 1 / 9 + s2 * (1 / 11 + s2 * (1 / 13 + s2 * (1 / 15)))
    return 2.0 * s * (1.0 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * tail))))


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x): e^-x may be infinite."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def activation(x, KIND: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """f(x) and f'(x); FIRST and SECOND are the parameters in the order of program.ACTIVATIONS."""
    if KIND == "relu":
        return tl.where(x < 0, 0.0, x), tl.where(x > 0, 1.0, 0.0)
    elif KIND == "leaky_relu":
        return tl.where(x < 0, FIRST * x, x), tl.where(x > 0, 1.0, FIRST)
    elif KIND == "elu":
        below = tl.minimum(x, 0.0)
        return tl.where(x < 0, FIRST * expm1(below), x), tl.where(x > 0, 1.0, FIRST * tl.exp(below))
    elif KIND == "gelu":
        phi = 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476))
        return x * phi, phi + x * (0.3989422804014327 * tl.exp(-0.5 * x * x))
    elif KIND == "gelu_tanh":
        # 0.5 (1 + tanh u) = sigmoid(2 u). Past |x| = 10 it is 0 or 1, and its slope 0.
        near = tl.minimum(tl.maximum(x, -10.0), 10.0)
        square = 0.044715 * near * near
        s = sigmoid(1.5957691216057308 * near * (1.0 + square))
        return x * s, s + near * s * (1.0 - s) * (1.5957691216057308 * (1.0 + 3.0 * square))
    elif KIND == "silu":
        s = sigmoid(x)
        return x * s, s * (1.0 + x * sigmoid(-x))
    elif KIND == "mish":
        # tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2); past 20 it is 1, as torch has it.
        e = tl.exp(tl.minimum(x, 20.0))
        n = e * (e + 2.0)
        w = n / (n + 2.0)
        slope = w + x * (1.0 + w) * (2.0 / (n + 2.0)) * sigmoid(x)
        return tl.where(x > 20.0, x, x * w), tl.where(x > 20.0, 1.0, slope)
    elif KIND == "tanh":
        e = tl.exp(-2.0 * tl.abs(x))
        t = -expm1(-2.0 * tl.abs(x)) / (1.0 + e)
        return tl.where(x < 0, -t, t), 4.0 * e / ((1.0 + e) * (1.0 + e))
    else:
        tl.static_assert(KIND == "softplus")
        scaled = FIRST * x
        soft = (tl.maximum(scaled, 0.0) + log1p_unit(tl.exp(-tl.abs(scaled)))) / FIRST
        return tl.where(scaled > SECOND, x, soft), tl.where(scaled > SECOND, 1.0, sigmoid(scaled))


@triton.jit
def activations(x, STAGE: tl.constexpr):
    """A stage's activations one after the other, and the slope of the whole."""
    slope = tl.full(x.shape, 1.0, tl.float32)
    for i in tl.static_range(len(STAGE.activations)):
        x, d = activation(x, kind_of(STAGE, i), parameter_of(STAGE, i, 0), parameter_of(STAGE, i, 1))
        slope *= d
    return x, slope
