"""The Action Gradient loop unrolled for a fixed number of steps; what it does is what `refine` does.

The contract is that of ops/refine/reference.py, with options that are the same for all rows.
"""

from __future__ import annotations

from dtag_fast.interop.export.critic_gradient import WrittenCritic
from dtag_fast.interop.export.operators import Value
from dtag_fast.ops.refine.options import SGD, Adam, ClipNorm, Optimizer, Radius, RefineOptions


def climb(
    ops, critic: WrittenCritic, actions: Value, options: RefineOptions, steps: int, lr: float, low, high
) -> Value:
    """The refined actions (B, A).

    Args:
        ops: the operators. critic: at the rows' states. actions: (B, A) of the policy.
        options: optimizer, gradient, radius and select are read. steps: n >= 0. lr: step size.
        low, high: bounds of the actions as values (A,).
    """
    a_0 = a = ops.minimum(ops.maximum(actions, low), high)
    best, best_q, running, state = a, None, None, None
    takes_best = options.select == "best"
    for i in range(steps + 1):
        last = i == steps
        if last and takes_best and i:
            q, g = critic.value(a), None
        elif last:
            break
        else:
            q, g = critic.value_and_gradient(a)
        if i == 0:
            best_q, running = q, ops.is_finite(q)
        elif takes_best:
            takes = running & ops.is_finite(q) & (q > best_q)
            best, best_q = ops.where(takes, a, best), ops.where(takes, q, best_q)
        if last:
            break
        running = running & _all_finite(ops, g)
        delta, state = optimizer_step(
            ops, options.optimizer, shape_gradient(ops, g, options.gradient), lr, state
        )
        a_next = ops.minimum(ops.maximum(within(ops, a + delta, a_0, options.radius), low), high)
        a = ops.where(running, a_next, a)
    return best if takes_best else a


def _all_finite(ops, g: Value) -> Value:
    return ops.largest(ops.where(ops.is_finite(g), 0.0, 1.0)) < 0.5


def _norm(ops, x: Value) -> Value:
    """Euclidean length (B, 1), safe from overflow and underflow."""
    largest = ops.largest(ops.abs(x))
    scaled = x / ops.where(largest > 0.0, largest, 1.0)
    return largest * ops.sqrt(ops.sum(scaled * scaled))


def shape_gradient(ops, g: Value, gradient: str | ClipNorm) -> Value:
    """Apply "raw", "unit" or ClipNorm to each row."""
    if gradient == "raw":
        return g
    norm = _norm(ops, g)
    norm = ops.where(norm > 0.0, norm, 1.0)
    return g / norm if gradient == "unit" else g * ops.minimum(gradient.limit / norm, 1.0)


def optimizer_step(ops, optimizer: Optimizer, g: Value, lr: float, state):
    """One ascent step: the change of `a` and the new state (None at the start), formulas of torch.optim."""
    if isinstance(optimizer, SGD):
        if optimizer.momentum == 0:
            return g * lr, None
        m = g if state is None else state * optimizer.momentum + g
        return (g + m * optimizer.momentum if optimizer.nesterov else m) * lr, m
    if isinstance(optimizer, Adam):
        b1, b2 = optimizer.betas
        t, m, v = state or (0, g * 0.0, g * 0.0)
        t, m, v = t + 1, m * b1 + g * (1 - b1), v * b2 + g * g * (1 - b2)
        return m * (lr / (1 - b1**t)) / (ops.sqrt(v) / (1 - b2**t) ** 0.5 + optimizer.eps), (t, m, v)
    v = (g * 0.0 if state is None else state) * optimizer.alpha + g * g * (1 - optimizer.alpha)
    return g * lr / (ops.sqrt(v) + optimizer.eps), v


def within(ops, a: Value, a_0: Value, radius: Radius | None) -> Value:
    """a, or the nearest action in the ball around a_0."""
    if radius is None:
        return a
    if radius.norm == "inf":
        return ops.minimum(ops.maximum(a, a_0 - radius.limit), a_0 + radius.limit)
    d = a - a_0
    norm = _norm(ops, d)
    return ops.where(norm > radius.limit, a_0 + d * (radius.limit / norm), a)
