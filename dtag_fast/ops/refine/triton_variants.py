"""Variants in Triton: a table of numbers, and what each row does by its line of it.

The kernel is compiled once for all of them: a row's optimizer, gradient, reduction, radius and selection are
numbers, and every form of a step is computed for every row, of which it takes its own. What the lines of a
tile hold stays in the L1 cache.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .options import SGD, Adam, RefineOptions
from .plan_arguments import radius_norm, reduction_of, walk_settings
from .program import CriticProgram
from .triton_activations import expm1

COLUMNS = 16  # of the table
OPTIMIZER, FIRST, SECOND, REST_FIRST, REST_SECOND, LOG_FIRST, LOG_SECOND, EPS, NESTEROV = map(
    tl.constexpr, range(9)
)
GRADIENT, CLIP, BALL, RADIUS, LAST, REDUCE, MEMBER = map(tl.constexpr, range(9, 16))
SGD_, ADAM, RMSPROP = map(tl.constexpr, range(3))
RAW, UNIT, CLIPPED = map(tl.constexpr, range(3))
NONE, INF, L2 = map(tl.constexpr, range(3))
MIN, MAX, MEAN, ONE = map(tl.constexpr, range(4))


def table_of(program: CriticProgram, options: RefineOptions) -> Tensor:
    """The variants of `options`, (V, COLUMNS) float32 on the program's device."""
    lines = [_line(program, one) for one in options.each()]
    return torch.tensor(lines, dtype=torch.float32).to(program.device)


def log_of(beta: float) -> float:
    """log(beta), or a number whose every power is as good as beta = 0."""
    return math.log(beta) if beta > 0 else -1000.0


def _line(program: CriticProgram, options: RefineOptions) -> list[float]:
    optimizer, walk = options.optimizer, walk_settings(options)
    reduce = reduction_of(program, options)
    if isinstance(optimizer, SGD):
        step = [0, optimizer.momentum, 0, 1, 1, 0, 0, 1, optimizer.nesterov]
    elif isinstance(optimizer, Adam):
        first, second = optimizer.betas
        logs = log_of(first), log_of(second)
        step = [1, first, second, 1 - first, 1 - second, *logs, optimizer.eps, 0]
    else:
        step = [2, optimizer.alpha, 0, 1 - optimizer.alpha, 1, 0, 0, optimizer.eps, 0]
    one = isinstance(reduce, int)
    return [
        *step,
        ("raw", "unit", "clip").index(walk["gradient"]),
        walk["clip"],
        ("none", "inf", "l2").index(radius_norm(options)),
        walk["radius"],
        walk["select"] == "last",
        3 if one else ("min", "max", "mean").index(reduce),
        reduce if one else 0,
    ]


@triton.jit
def of_rows(r_line, COLUMN: tl.constexpr):
    """A column of the rows' lines, (ROWS, 1). r_line: where they begin, (ROWS,)."""
    return tl.load(r_line + COLUMN)[:, None]


@triton.jit
def joined(q, g, q_e, g_e, e, first, r_line):
    """Q (ROWS,) and gradient (ROWS, action_padded) of the members so far and member e; sums, of a mean."""
    reduce = tl.load(r_line + REDUCE)
    mean = reduce == MEAN
    nan_first = (q_e != q_e) & (q == q)
    takes = first | ((reduce == MIN) & ((q_e < q) | nan_first)) | ((reduce == MAX) & ((q_e > q) | nan_first))
    takes = tl.where(reduce == ONE, tl.load(r_line + MEMBER) == e, takes)
    q_next = tl.where(mean, q + q_e, tl.where(takes, q_e, q))
    g_next = tl.where(mean[:, None], g + g_e, tl.where(takes[:, None], g_e, g))
    return q_next, g_next


@triton.jit
def of_all(q, g, members, r_line):
    """What `joined` leaves after the last member: sums become means where the row takes the mean."""
    mean = tl.load(r_line + REDUCE) == MEAN
    return tl.where(mean, q / members, q), tl.where(mean[:, None], g / members, g)


@triton.jit
def shape_gradient(g, length, r_line):
    """g (ROWS, action_padded) of this length (ROWS, 1), as each row wants it."""
    kind = of_rows(r_line, GRADIENT)
    length = tl.where(length > 0, length, 1.0)
    unit = tl.div_rn(g, tl.broadcast_to(length, g.shape))
    clipped = g * tl.minimum(tl.div_rn(of_rows(r_line, CLIP), length), 1.0)
    return tl.where(kind == UNIT, unit, tl.where(kind == CLIPPED, clipped, g))


@triton.jit
def optimizer_step(g, lr, m, v, i, r_line):
    """As triton_steps.optimizer_step, for each row its own."""
    kind, eps = of_rows(r_line, OPTIMIZER), of_rows(r_line, EPS)
    first, second = of_rows(r_line, FIRST), of_rows(r_line, SECOND)
    rest = of_rows(r_line, REST_FIRST)
    adam, sgd = kind == ADAM, kind == SGD_
    m = first * m + tl.where(adam, rest * g, g)
    v = tl.where(adam, second * v + of_rows(r_line, REST_SECOND) * g * g, first * v + rest * g * g)
    t = tl.zeros((1, 1), tl.float32) + (i + 1)
    one = tl.where(adam, -expm1(t * of_rows(r_line, LOG_FIRST)), 1.0)
    two = tl.where(adam, -expm1(t * of_rows(r_line, LOG_SECOND)), 1.0)
    of_sgd = lr * tl.where(of_rows(r_line, NESTEROV) != 0, g + first * m, m)
    of_adam = lr / one * m / (tl.sqrt_rn(v) / tl.sqrt_rn(two) + eps)
    of_rmsprop = lr * g / (tl.sqrt_rn(v) + eps)
    return tl.where(sgd, of_sgd, tl.where(adam, of_adam, of_rmsprop)), m, v
