"""Kernels that multiply in bf16, against float64 at their own iterates.

"bf16x3" is held to bounds near those of float32. Under "bf16" a ReLU unit near its kink may fall on either
side once its inputs are rounded, so ReLU critics are compared with a float64 evaluation that rounds where the
kernels do, and the others, over all rows, with the critic as it is.
"""

import torch
from exact_walks import exact

from dtag_fast.ops.refine.program import Linear


def assert_close(program, states, info, precision, reduce="min"):
    """Q of every iterate, relative to the terms it sums (about 1), and over all rows its gradient.

    Not the gradient of rows where the next member is about as small.
    """
    bound = 1e-2 if precision == "bf16" else 3e-5
    for i, (a_i, q_i, g_i) in enumerate(zip(info.trace_actions, info.trace_q, info.trace_grad, strict=True)):
        for m in range(a_i.shape[1]):
            here = ~q_i[:, m].isnan()
            q, g, gap = exact(program, states[here], a_i[here, m], reduce)
            scale = q.abs().max().clamp_min(1)
            assert (q_i[here, m] - q).abs().max() <= bound * scale
            stepped = ~g_i[here, m].isnan().any(1) & (gap > 3 * bound * scale)
            if i == 0:
                assert stepped.float().mean() > 0.4
            if stepped.any():
                assert (g_i[here, m] - g)[stepped].norm() <= 2 * bound * g[stepped].norm()


def halves(x):
    return x.bfloat16().double()


def rounded_q_and_gradient(layers, states, actions, last_whole=False):
    """Q (N,) and dQ/da (N, A) of Linear ReLU ... Linear in float64, bf16 where the kernel is.

    States and actions are whole: a step smaller than their rounding to bf16 counts. last_whole: Q is the sum
    of the last hidden layer's numbers before their rounding.
    """
    linears = [layer for layer in layers if isinstance(layer, Linear)]
    s = states.shape[1]
    y, kept = torch.cat([states, actions], 1).double(), []
    for layer in linears[:-1]:
        whole = (y @ halves(layer.weight).T + layer.bias).relu()
        y = halves(whole.float())
        kept.append(y)
    head = linears[-1]
    q = ((whole if last_whole else y) @ head.weight.double().T)[:, 0] + head.bias
    g = halves((head.weight * (y > 0)).float())
    for layer, y in zip(linears[-2:0:-1], kept[-2::-1], strict=True):
        g = halves((g @ halves(layer.weight) * (y > 0)).float())
    return q, g @ halves(linears[0].weight[:, s:])


def assert_rounded(program, states, info, last_whole=False):
    """Against the rounded reference: exact, but in rows where another order of sums crossed a rounding."""
    (layers,) = program.members
    for i in range(len(info.trace_q) - 1):
        q, g = rounded_q_and_gradient(layers, states, info.trace_actions[i, :, 0], last_whole)
        q_error = (info.trace_q[i, :, 0] - q).abs() / q.abs().max()
        g_error = (info.trace_grad[i, :, 0] - g).norm(dim=1) / g.norm(dim=1).max()
        assert q_error.max() <= 1e-2
        assert g_error.norm() <= 8e-2 * len(q) ** 0.5
        assert ((q_error <= 1e-5) & (g_error <= 1e-5)).float().mean() >= 0.5
