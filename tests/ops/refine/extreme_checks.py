"""What every kernel of refine must do with numbers that are not finite or near the ends of float32. Shared by
the tests of all backends."""

import torch
from exact_walks import exact
from kernel_cases import make_inputs, make_options, make_program, traced

from dtag_fast.ops.refine.options import ClipNorm, RefineOptions
from dtag_fast.ops.refine.program import Activation, CriticProgram, Linear


def check_far_out(make, activation, device="cpu"):
    """Q = f(1e18 + a) + f(-1e18 - a): cubes overflow float32, values and slopes do not."""
    weight, bias = torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.tensor([1e18, -1e18])
    layers = (Linear(weight, bias), Activation(*activation), Linear(torch.ones(1, 2), torch.zeros(1)))
    program = CriticProgram(1, 1, (layers,))
    executor = make(program, make_options(action=1, reduce="mean"))
    _, info = traced(executor, torch.zeros(3, 1), torch.zeros(3, 1, 1), 1, 0.1, device)
    q, slope, _ = exact(program, torch.zeros(3, 1), torch.zeros(3, 1), "mean")
    torch.testing.assert_close(info.trace_q[0, :, 0].double(), q, rtol=1e-6, atol=1.0)
    torch.testing.assert_close(info.trace_grad[0, :, 0].double(), slope, rtol=1e-6, atol=1e-6)


def check_norms(make, scale, device="cpu"):
    """Lengths of gradients near the ends of float32 neither overflow nor vanish."""
    program = make_program(hidden=(24,), members=1)
    *body, last = program.members[0]
    program = CriticProgram(17, 6, ((*body, Linear(last.weight * scale, last.bias * 0)),))
    states, actions = make_inputs(program, 9)
    for gradient in ("unit", ClipNorm(1e-30)):
        executor = make(program, make_options(gradient=gradient, select="last"))
        _, info = traced(executor, states, actions, 1, 0.1, device)
        g = info.trace_grad[0, :, 0].double()
        length = (
            1.0
            if gradient == "unit"
            else torch.minimum(g.norm(dim=1, keepdim=True), torch.tensor(1e-30).double())
        )
        expected = (actions[:, 0].double() + 0.1 * g / g.norm(dim=1, keepdim=True) * length).clamp(-1, 1)
        torch.testing.assert_close(info.trace_actions[1, :, 0].double(), expected, rtol=1e-5, atol=1e-7)


def check_rows_not_finite(make, device="cpu"):
    """q_0 not finite: a_0 comes back, NaN and all; the other rows keep their bits."""
    program = make_program(hidden=(40, 40))
    states, actions = make_inputs(program, 20)
    executor = make(program, make_options())
    clean, _ = traced(executor, states, actions, 4, 0.05, device)
    broken = states.clone()
    broken[3, 5], broken[7, 0] = torch.nan, torch.inf
    dirty = actions.clone()
    dirty[11, 0, 2] = torch.nan
    out, info = traced(executor, broken, dirty, 4, 0.05, device)
    touched = torch.zeros(20, dtype=torch.bool)
    touched[[3, 7, 11]] = True
    assert torch.equal(out[~touched], clean[~touched])
    torch.testing.assert_close(out[touched], dirty[touched, 0], rtol=0, atol=0, equal_nan=True)
    assert not info.q_0[touched].isfinite().any() and (info.best_index[touched] == 0).all()
    assert info.trace_q[1:, touched].isnan().all()


def check_gradient_not_finite(make, select, device="cpu", smooth=("elu", (1.0,)), again=False):
    """Q = w relu(a): finite at a_0 with a finite gradient, but a step takes it where Q overflows.

    again: w relu(relu(a)), for kernels that take two hidden layers.
    """
    large = torch.tensor([[3e38]])

    def critic(weight, *activation):
        second = (Linear(torch.ones(1, 1)), Activation(*activation)) if again else ()
        first = (Linear(torch.tensor([[0.0, weight]])), Activation(*activation))
        return CriticProgram(1, 1, ((*first, *second, Linear(large)),))

    program = critic(1.0, "relu")
    options = RefineOptions(select=select, gradient="unit")
    actions = torch.tensor([[[0.5]], [[-1.0]]])
    out, info = traced(make(program, options), torch.zeros(2, 1), actions, 3, 1.0, device)
    assert info.trace_q[
        1, 0, 0
    ].isinf()  # Q(1.5) = inf never wins; its gradient is finite, so the row goes on
    assert out[0, 0] == (0.5 if select == "best" else 3.5)
    assert out[1, 0] == -1.0  # dead unit: the gradient is 0 and unit keeps it 0
    infinite = critic(3e38, *smooth)
    out, info = traced(make(infinite, options), torch.zeros(2, 1), -actions * 0, 3, 1.0, device)
    assert info.trace_q[1:].isnan().all() and info.trace_grad[0].isinf().all() and (out == 0).all()
