"""What a kernel's trace is judged by, in float64.

ReLU kinks and switches of the smallest member make distant iterates of two correct programs differ, so each
iterate a_i that the kernel visited is judged by itself: Q and gradient there, and the step from it.
"""

import torch

from dtag_fast.ops.refine.reference import (
    along,
    evaluate_program,
    optimizer_step,
    project,
    shape_gradient,
    value_and_gradient,
)


def exact(program, states, actions, reduce="min"):
    """Q (N,), dQ/da (N, A) in float64 and how far the chosen member is from the next one (N,)."""

    def members(s, a):
        return evaluate_program(program, s, a)

    s, a = states.double(), actions.double()
    q, g = value_and_gradient(members, s, a, reduce)
    every = members(s, a)
    gap = (every - every.amin(0)).sort(0).values[1] if len(every) > 1 else torch.ones(len(q))
    return q, g, gap if reduce == "min" else torch.ones(len(q))


def assert_exact(program, states, info, bound=1e-5, reduce="min"):
    """Every q_i and, but for the last iterate, g_i of the trace against float64 at a_i."""
    for i, (a_i, q_i, g_i) in enumerate(zip(info.trace_actions, info.trace_q, info.trace_grad, strict=True)):
        for m in range(a_i.shape[1]):
            q, g, gap = exact(program, states, a_i[:, m], reduce)
            scale = q.abs().max()
            assert (q_i[:, m] - q).abs().max() <= bound * scale
            if i == len(info.trace_q) - 1:
                continue
            decided = gap > 10 * bound * scale
            assert decided.float().mean() > 0.5
            error = (g_i[:, m] - g).norm(dim=1) / g.norm(dim=1).clamp_min(
                1e-3 * float(g.norm(dim=1).max()) + 1e-30
            )
            assert error[decided].max() <= bound


def cost_of(actions, mean, weight, scale):
    """Q - F (...,) of actions (..., B, A) in float64, from the formula of Prior."""
    scale = torch.ones(1, dtype=torch.float64) if scale is None else scale
    far = torch.where(scale > 0, (actions.double() - mean) / scale.where(scale > 0, 1.0), 0.0)
    return weight * far.square().sum(-1) / actions.shape[-1]


def pull_of(actions, mean, weight, scale):
    """d(Q - F)/du (..., B, A), by differences of the cost: a = a_0 + scale * u."""
    scale = torch.ones(1, dtype=torch.float64) if scale is None else scale
    steps = 1e-4 * torch.eye(actions.shape[-1], dtype=torch.float64) * scale[..., None, :]
    up, down = (
        cost_of(actions.double()[..., None, :] + sign * steps, mean[..., None, :], weight[:, None],
                scale[..., None, :])
        for sign in (1, -1)
    )  # fmt: skip
    return (up - down) / 2e-4


def replay(info, options, steps, lr, candidate, scale=None, radius=None, prior=None):
    """All a_{i+1} and the index of the result, in float64 from the traced a_i, q_i, g_i. prior: mean and
    weight."""
    actions, q, g = (t[:, :, candidate].double() for t in (info.trace_actions, info.trace_q, info.trace_grad))
    batch = q.shape[1]
    low, high = (None if b is None else torch.as_tensor(b).double() for b in (options.low, options.high))
    per_row = steps if torch.is_tensor(steps) else torch.full((batch,), steps)
    state, expected = None, [actions[0]]
    for i in range(len(q) - 1):
        ascent = g[i] if scale is None else g[i] * scale
        ascent = ascent if prior is None else ascent - pull_of(actions[i], *prior, scale)
        shaped = shape_gradient(ascent, options.gradient)
        delta, state = optimizer_step(options.optimizer, shaped, lr, state)
        a_next = along(actions[i], delta, scale)
        limit = None if radius is None else radius.double()[:, None]
        expected.append(project(a_next, actions[0], options.radius, low, high, limit, scale))
    q = q if prior is None else q - cost_of(actions, *prior, scale)
    index = torch.zeros(batch, dtype=torch.int64)
    for b in range(batch):
        n = int(per_row[b])
        index[b] = int(q[: n + 1, b].argmax()) if options.select == "best" else n
        assert q[n + 1 :, b].isnan().all() and not q[: n + 1, b].isnan().any()
    return expected, index
