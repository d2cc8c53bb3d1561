"""One ascent step in Triton: what reference.py does in torch, on a tile (ROWS, action_padded).

Padding holds zeros in `g`; the caller keeps it out of the actions.
"""

import triton
import triton.language as tl

from .triton_activations import expm1
from .triton_variants import BALL, INF, L2, of_rows
from .triton_variants import optimizer_step as step_of_rows
from .triton_variants import shape_gradient as gradient_of_rows


@triton.jit
def norm(x):
    """Euclidean length (ROWS, 1); the largest entry is taken out of the root, against over- and underflow."""
    largest = tl.max(tl.abs(x), 1)[:, None]
    scale = tl.where(largest > 0, largest, 1.0)
    x = tl.div_rn(x, tl.broadcast_to(scale, x.shape))
    return scale * tl.sqrt_rn(tl.sum(x * x, 1))[:, None]


@triton.jit
def shape_gradient(g, r_line, OPTIONS: tl.constexpr):
    """ "raw", "unit" or "clip"."""
    if OPTIONS.mixed:
        g = gradient_of_rows(g, norm(g), r_line)
    elif OPTIONS.gradient != "raw":
        length = norm(g)
        length = tl.where(length > 0, length, 1.0)
        if OPTIONS.gradient == "unit":
            g = tl.div_rn(g, tl.broadcast_to(length, g.shape))
        else:
            g = g * tl.minimum(tl.div_rn(tl.zeros_like(length) + OPTIONS.clip, length), 1.0)
    return g


@triton.jit
def optimizer_step(g, lr, m, v, i, r_line, OPTIONS: tl.constexpr):
    """Change of the action and new state after the gradient of iterate i; formulas of torch.optim."""
    if OPTIONS.mixed:
        return step_of_rows(g, lr, m, v, i, r_line)
    elif OPTIONS.optimizer == "sgd":
        if OPTIONS.first == 0.0:
            return lr * g, m, v
        else:
            m = OPTIONS.first * m + g
            return lr * (g + OPTIONS.first * m if OPTIONS.nesterov else m), m, v
    elif OPTIONS.optimizer == "adam":
        m = OPTIONS.first * m + (1.0 - OPTIONS.first) * g
        v = OPTIONS.second * v + (1.0 - OPTIONS.second) * g * g
        t = tl.zeros((1, 1), tl.float32) + (i + 1)
        # 1 - b^t without the cancellation that b near 1 would bring.
        first = -expm1(t * OPTIONS.log_first)
        second = -expm1(t * OPTIONS.log_second)
        return lr / first * m / (tl.sqrt_rn(v) / tl.sqrt_rn(second) + OPTIONS.eps), m, v
    else:
        v = OPTIONS.first * v + (1.0 - OPTIONS.first) * g * g
        return lr * g / (tl.sqrt_rn(v) + OPTIONS.eps), m, v


@triton.jit
def from_mean(a, mean, scale, SCALED: tl.constexpr):
    """(a - mean) / scale, 0 where scale is 0. mean (ROWS or 1, action_padded), in padding 0 as a is there."""
    far = a - mean
    if SCALED:
        unit = tl.broadcast_to(tl.where(scale == 0, 1.0, scale), far.shape)
        far = tl.where(scale == 0, 0.0, tl.div_rn(far, unit))
    return far


@triton.jit
def prior_cost(a, mean, weight, scale, SCALED: tl.constexpr):
    """Q - F (ROWS,). weight (ROWS or 1, 1), divided by A."""
    far = from_mean(a, mean, scale, SCALED)
    total = tl.sum(far * far, 1)[:, None]
    return tl.sum(tl.where(weight > 0, weight * total, 0.0), 1)


@triton.jit
def project(a, a_0, low, high, limit, scale, r_line, OPTIONS: tl.constexpr, SCALED: tl.constexpr):
    """Onto the ball around a_0, then into the box; NaN stays. limit: of the ball, a number or (ROWS, 1), in
    units of u = (a - a_0) / scale; scale (ROWS or 1, action_padded), not read unless SCALED."""
    if OPTIONS.mixed:
        ball = of_rows(r_line, BALL)
        a = project_on_ball(a, a_0, tl.where(ball == INF, limit, float("inf")), scale, "inf", SCALED)
        a = project_on_ball(a, a_0, tl.where(ball == L2, limit, float("inf")), scale, "l2", SCALED)
    else:
        a = project_on_ball(a, a_0, limit, scale, OPTIONS.ball, SCALED)
    return tl.where(a < low, low, tl.where(a > high, high, a))


@triton.jit
def project_on_ball(a, a_0, limit, scale, BALL_NORM: tl.constexpr, SCALED: tl.constexpr):
    """Of this norm, "none", "inf" or "l2"."""
    if BALL_NORM == "inf":
        if SCALED:
            limit = tl.where(scale == 0, 0.0, limit * scale)  # infinity times 0 would be NaN
        a = tl.where(a < a_0 - limit, a_0 - limit, a)
        a = tl.where(a > a_0 + limit, a_0 + limit, a)
    elif BALL_NORM == "l2":
        d = a - a_0
        if SCALED:
            unit = tl.broadcast_to(tl.where(scale == 0, 1.0, scale), d.shape)
            length = norm(tl.where(scale == 0, 0.0, tl.div_rn(d, unit)))
        else:
            length = norm(d)
        ratio = tl.div_rn(tl.zeros_like(length) + limit, tl.where(length > 0, length, 1.0))
        outside = length > limit
        if SCALED:
            outside = outside & (scale != 0)
        a = tl.where(outside, a_0 + d * ratio, a)
    return a
