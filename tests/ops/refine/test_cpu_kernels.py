"""The numbers of the compiled CPU kernels, against float64 at the kernel's own iterates.

ReLU kinks and switches of the smallest member make distant iterates of two correct programs differ, so each
iterate a_i that the kernel visited is judged by itself: Q and gradient there, and the step from it.
"""

import numpy as np
import pytest
import torch

from dtag_fast.ops.refine.cpu import CpuExecutor
from dtag_fast.ops.refine.executor import InfoBuffers
from dtag_fast.ops.refine.options import SGD, Adam, ClipNorm, Radius, RefineOptions, RMSprop
from dtag_fast.ops.refine.program import Activation, CriticProgram, LayerNorm, Linear
from dtag_fast.ops.refine.reference import (
    evaluate_program,
    optimizer_step,
    project,
    shape_gradient,
    value_and_gradient,
)

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")

MACHINE = _C.isas()
EMULATED = ["emulated512", "emulated512bf16"]  # the shape of the AVX-512 kernels, on any machine
ISAS = MACHINE + EMULATED
KERNELS = ["rows", "tiles"]
ACTIVATIONS = [
    ("identity", ()),
    ("relu", ()),
    ("leaky_relu", (0.1,)),
    ("elu", (0.7,)),
    ("gelu", ()),
    ("gelu_tanh", ()),
    ("silu", ()),
    ("mish", ()),
    ("tanh", ()),
    ("softplus", (1.5, 20.0)),
]


def make_member(generator, inputs, hidden, activations=(("relu", ()),), norm=None):
    """Linear [LayerNorm] Activation ... Linear; `norm` is None, "affine" or "plain"."""
    layers = []

    def draw(*shape):
        return torch.rand(shape, generator=generator) * 2 - 1

    for width in hidden:
        layers.append(Linear(draw(width, inputs) * (3 / inputs) ** 0.5, draw(width) * 0.3))
        if norm:
            affine = (1 + 0.5 * draw(width), draw(width)) if norm == "affine" else (None, None)
            layers.append(LayerNorm(width, *affine))
        layers += [Activation(*a) for a in activations]
        inputs = width
    layers.append(Linear(draw(1, inputs) * (3 / inputs) ** 0.5, draw(1)))
    return tuple(layers)


def make_program(seed=0, state=17, action=6, hidden=(64, 40), members=2, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return CriticProgram(
        state,
        action,
        tuple(make_member(generator, state + action, hidden, **kwargs) for _ in range(members)),
    )


def make_inputs(program, batch, candidates=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, program.state_dim, generator=generator)
    return states, torch.rand(batch, candidates, program.action_dim, generator=generator) * 2 - 1


def make_options(action=6, **kwargs):
    box = {"low": np.full(action, -1, np.float32), "high": np.full(action, 1, np.float32)}
    return RefineOptions(**(box | kwargs))


def traced(executor, states, actions, steps, lr):
    """out (B, A) and all details of one call."""
    b, m, a = actions.shape
    n = int(steps.max()) if torch.is_tensor(steps) else steps
    info = InfoBuffers(
        torch.empty(b, m),
        torch.empty(b, m),
        torch.empty(b, m, dtype=torch.int32),
        torch.empty(b, dtype=torch.int32),
        torch.empty(n + 1, b, m, a),
        torch.empty(n + 1, b, m),
        torch.empty(n + 1, b, m, a),
    )
    out = torch.empty(b, a)
    executor.run(states, actions, out, steps=steps, lr=lr, info=info)
    return out, info


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


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("norm", [None, "plain", "affine"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_every_layer_kind(isa, kernel, norm, activation):
    program = make_program(activations=(activation,), norm=norm)
    states, actions = make_inputs(program, 19)
    executor = CpuExecutor(program, make_options(), isa=isa, kernel=kernel)
    _, info = traced(executor, states, actions, 2, 0.05)
    assert_exact(program, states, info)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_units_far_out_have_the_slope_of_their_asymptote(isa, kernel, activation):
    """Q = f(1e18 + a) + f(-1e18 - a): cubes overflow float32, values and slopes do not."""
    weight, bias = torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.tensor([1e18, -1e18])
    layers = (Linear(weight, bias), Activation(*activation), Linear(torch.ones(1, 2), torch.zeros(1)))
    program = CriticProgram(1, 1, (layers,))
    options = make_options(action=1, reduce="mean")
    _, info = traced(
        CpuExecutor(program, options, isa=isa, kernel=kernel), torch.zeros(3, 1), torch.zeros(3, 1, 1), 1, 0.1
    )
    q, slope, _ = exact(program, torch.zeros(3, 1), torch.zeros(3, 1), "mean")
    torch.testing.assert_close(info.trace_q[0, :, 0].double(), q, rtol=1e-6, atol=1.0)
    torch.testing.assert_close(info.trace_grad[0, :, 0].double(), slope, rtol=1e-6, atol=1e-6)


SHAPES = {
    "linear": (3, 2, ()),
    "narrow": (1, 1, (1,)),
    "odd": (5, 5, (123, 5)),
    "bottleneck": (5, 3, (123, 1, 70)),
    "few": (123, 3, (7, 31, 33)),
    "tiny": (3, 2, (5, 3, 2)),
    "deep": (17, 6, (33,) * 7),
    "wide": (123, 123, (2048, 5)),
    "action256": (17, 256, (123,)),
    "state4096": (4096, 1, (40, 40)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(isa, kernel, shape):
    """After calls that leave NaN in this thread's scratch: nothing that was there may be read."""
    for width in (9, 33):
        poison = make_program(hidden=(width,) * 7)
        states, actions = make_inputs(poison, 3)
        executor = CpuExecutor(poison, make_options(), isa=isa, kernel=kernel)
        executor.run(states * torch.nan, actions, torch.empty(3, 6), steps=1, lr=0.1, info=None)

    state, action, hidden = SHAPES[shape]
    program = make_program(state=state, action=action, hidden=hidden, members=1)
    states, actions = make_inputs(program, 3)
    executor = CpuExecutor(program, make_options(action), isa=isa, kernel=kernel)
    _, info = traced(executor, states, actions, 2, 0.01)
    assert_exact(program, states, info)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reduce", ["min", "mean", 1])
def test_members_of_different_shape(isa, kernel, reduce):
    generator = torch.Generator().manual_seed(3)
    members = (
        make_member(generator, 12, (40, 50)),
        make_member(generator, 12, (9,), activations=(("tanh", ()),), norm="affine"),
        make_member(generator, 12, ()),
        make_member(generator, 12, (33, 64, 35), activations=(("relu", ()), ("elu", (1.0,)), ("relu", ()))),
    )
    program = CriticProgram(8, 4, members)
    states, actions = make_inputs(program, 45)
    executor = CpuExecutor(program, make_options(4, reduce=reduce), isa=isa, kernel=kernel)
    _, info = traced(executor, states, actions, 3, 0.02)
    assert_exact(program, states, info, reduce=reduce)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reduction", ["min", "mean", "max"])
def test_the_programs_own_reduction_replaces_reduce(kernel, reduction):
    program = make_program(members=3, activations=(("silu", ()),))
    program = CriticProgram(program.state_dim, program.action_dim, program.members, reduction)
    states, actions = make_inputs(program, 5)
    _, info = traced(CpuExecutor(program, make_options(reduce=2), kernel=kernel), states, actions, 2, 0.02)
    for i in range(3):
        q, g, _ = exact(program, states, info.trace_actions[i, :, 0], "mean")  # of the one value it gives
        torch.testing.assert_close(info.trace_q[i, :, 0].double(), q, rtol=1e-5, atol=1e-5)
        if i < 2:
            torch.testing.assert_close(info.trace_grad[i, :, 0].double(), g, rtol=1e-4, atol=1e-5)


def rounded(program):
    """The program with the hidden layers' weights at bf16 values (csrc/cpu/pack.h says which)."""

    def layer(i, x):
        wide = isinstance(x, Linear) and i > 0 and min(x.weight.shape) >= 32
        return Linear(x.weight.bfloat16().float(), x.bias) if wide else x

    members = tuple(tuple(layer(i, x) for i, x in enumerate(m)) for m in program.members)
    return CriticProgram(program.state_dim, program.action_dim, members)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", [("relu", ()), ("silu", ())], ids=lambda a: a[0])
def test_bf16_rounds_weights_only_unless_the_machine_multiplies_bf16(isa, kernel, activation):
    program = make_program(hidden=(96, 70), activations=(activation,))
    states, actions = make_inputs(program, 21)
    executor = CpuExecutor(program, make_options(reduce="mean"), "bf16", isa=isa, kernel=kernel)
    _, info = traced(executor, states, actions, 2, 0.05)
    if isa.endswith("bf16"):
        # A unit near its kink may fall on either side once its inputs are rounded: compare over all rows.
        for i in range(3):
            q, g, _ = exact(program, states, info.trace_actions[i, :, 0], "mean")
            assert (info.trace_q[i, :, 0] - q).abs().max() <= 1e-2 * q.abs().max()
            if i < 2:
                assert (info.trace_grad[i, :, 0] - g).norm() <= (
                    1e-2 if activation[0] == "silu" else 8e-2
                ) * g.norm()
    else:
        assert_exact(rounded(program), states, info, reduce="mean")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_infinite_weight_spoils_its_own_unit_only(isa, kernel):
    """-inf into one unit of a bf16 layer: ReLU silences it, and Q is that of the program without the unit."""
    first, act, hidden, act2, last = make_program(hidden=(40, 64), members=1).members[0]
    dead = Linear(hidden.weight.clone(), hidden.bias)
    dead.weight[10] = 0
    dead.weight[10, 3] = -torch.inf
    first = Linear(first.weight, first.bias + 9.0)  # every input of that layer is positive
    program = CriticProgram(17, 6, ((first, act, dead, act2, last),))
    states, actions = make_inputs(program, 5)
    _, info = traced(
        CpuExecutor(program, make_options(), "bf16", isa=isa, kernel=kernel), states, actions, 0, 0.1
    )
    q, _, _ = exact(program, states, actions[:, 0])
    torch.testing.assert_close(info.trace_q[0, :, 0].double(), q, rtol=1e-2, atol=1e-2)


OPTIMIZERS = [
    SGD(),
    SGD(momentum=0.9),
    SGD(momentum=0.8, nesterov=True),
    Adam(),
    Adam(betas=(0.5, 0.9), eps=1e-3),
    RMSprop(),
    RMSprop(alpha=0.5, eps=1e-2),
]
GRADIENTS = ["raw", "unit", ClipNorm(0.3)]
RADII = [None, Radius(0.15), Radius(0.2, "l2")]


def replay(info, options, steps, lr, candidate):
    """All a_{i+1} and the index of the result, in float64 from the traced a_i, q_i, g_i."""
    actions, q, g = (t[:, :, candidate].double() for t in (info.trace_actions, info.trace_q, info.trace_grad))
    batch = q.shape[1]
    low, high = (None if b is None else torch.as_tensor(b).double() for b in (options.low, options.high))
    per_row = steps if torch.is_tensor(steps) else torch.full((batch,), steps)
    state, expected = None, [actions[0]]
    for i in range(len(q) - 1):
        delta, state = optimizer_step(options.optimizer, shape_gradient(g[i], options.gradient), lr, state)
        expected.append(project(actions[i] + delta, actions[0], options.radius, low, high))
    index = torch.zeros(batch, dtype=torch.int64)
    for b in range(batch):
        n = int(per_row[b])
        index[b] = int(q[: n + 1, b].argmax()) if options.select == "best" else n
        assert q[n + 1 :, b].isnan().all() and not q[: n + 1, b].isnan().any()
    return expected, index


@pytest.mark.parametrize("isa", [MACHINE[-1], "baseline", "emulated512"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
@pytest.mark.parametrize("radius", RADII, ids=str)
def test_every_step_follows_the_formulas(isa, kernel, optimizer, gradient, radius):
    program = make_program(hidden=(24,), members=2)
    states, actions = make_inputs(program, 11, candidates=2)
    # Odd combinations ride along, so that each value of every option meets each of the others somewhere.
    pick = len(str((optimizer, gradient, radius)))
    select = ["best", "last"][pick % 2]
    bounds = (
        {"low": None, "high": None} if pick % 3 == 0 else {"low": np.linspace(-1, -0.3, 6, dtype=np.float32)}
    )
    options = make_options(optimizer=optimizer, gradient=gradient, radius=radius, select=select, **bounds)
    rng = torch.Generator().manual_seed(pick)
    steps = torch.randint(0, 6, (11,), generator=rng, dtype=torch.int32) if pick % 2 else 5
    if torch.is_tensor(steps):
        steps[0] = 5
    lr = [
        0.05,
        torch.rand(11, 1, generator=rng),
        torch.rand(1, 6, generator=rng),
        torch.rand(11, 6, generator=rng),
    ][pick // 2 % 4]
    executor = CpuExecutor(program, options, isa=isa, kernel=kernel)
    out, info = traced(executor, states, actions, steps, lr)
    best_q = []
    for m in range(2):
        expected, index = replay(info, options, steps, lr.double() if torch.is_tensor(lr) else lr, m)
        for i, e in enumerate(expected):
            running = ~info.trace_q[i, :, m].isnan()
            torch.testing.assert_close(
                info.trace_actions[i, running, m].double(), e[running], rtol=1e-5, atol=2e-6
            )
        assert torch.equal(info.best_index[:, m].long(), index)
        assert torch.equal(info.q_0[:, m], info.trace_q[0, :, m])
        best_q.append(info.trace_q[index, torch.arange(11), m])
        assert torch.equal(info.q_best[:, m], best_q[m])
    winner = torch.stack(best_q, 1).argmax(1)
    assert torch.equal(info.best_candidate.long(), winner)
    rows = torch.arange(11)
    index = info.best_index[rows, winner].long()
    assert torch.equal(out, info.trace_actions[index, rows, winner])  # the very bits of an iterate
    # Without details the same kernel gives the same bits.
    plain = torch.empty_like(out)
    executor.run(states, actions, plain, steps=steps, lr=lr, info=None)
    assert torch.equal(plain, out)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_radius_and_the_box_hold(isa, kernel):
    program = make_program(hidden=(24,))
    states, actions = make_inputs(program, 30)
    for radius in (Radius(0.1), Radius(0.1, "l2"), Radius(0.0, "l2")):
        options = make_options(radius=radius, select="last", high=np.full(6, 0.5, np.float32))
        out = torch.empty(30, 6)
        executor = CpuExecutor(program, options, isa=isa, kernel=kernel)
        executor.run(states, actions, out, steps=5, lr=0.5, info=None)
        start = actions[:, 0].clamp(-1, 0.5)
        away = (out - start).abs().amax(1) if radius.norm == "inf" else (out - start).norm(dim=1)
        assert away.max() <= radius.limit * (1 + 1e-5) + 1e-7
        assert out.max() <= 0.5 and out.min() >= -1
        assert radius.limit == 0 or away.max() > 0.09


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_norms_neither_overflow_nor_vanish(kernel, scale):
    program = make_program(hidden=(24,), members=1)
    *body, last = program.members[0]
    program = CriticProgram(17, 6, ((*body, Linear(last.weight * scale, last.bias * 0)),))
    states, actions = make_inputs(program, 9)
    for gradient in ("unit", ClipNorm(1e-30)):
        executor = CpuExecutor(program, make_options(gradient=gradient, select="last"), kernel=kernel)
        _, info = traced(executor, states, actions, 1, 0.1)
        g = info.trace_grad[0, :, 0].double()
        length = (
            1.0
            if gradient == "unit"
            else torch.minimum(g.norm(dim=1, keepdim=True), torch.tensor(1e-30).double())
        )
        expected = (actions[:, 0].double() + 0.1 * g / g.norm(dim=1, keepdim=True) * length).clamp(-1, 1)
        torch.testing.assert_close(info.trace_actions[1, :, 0].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("select", ["best", "last"])
def test_no_steps_or_no_lr_gives_back_the_bits(isa, kernel, select):
    program = make_program(hidden=(24,))
    states, actions = make_inputs(program, 20)
    actions[0, 0, :2] = torch.tensor([-0.0, 0.0])
    executor = CpuExecutor(program, make_options(select=select, optimizer=Adam()), isa=isa, kernel=kernel)
    for steps, lr in ((0, 0.1), (4, 0.0), (4, torch.zeros(1, 6)), (torch.zeros(20, dtype=torch.int32), 0.1)):
        out = torch.full((20, 6), 7.0)
        executor.run(states, actions, out, steps=steps, lr=lr, info=None)
        assert torch.equal(out.view(torch.int32), actions[:, 0].view(torch.int32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_that_are_not_finite(isa, kernel):
    """q_0 not finite: a_0 comes back, NaN and all; the other rows keep their bits."""
    program = make_program(hidden=(40, 40))
    states, actions = make_inputs(program, 20)
    executor = CpuExecutor(program, make_options(), isa=isa, kernel=kernel)
    clean, _ = traced(executor, states, actions, 4, 0.05)
    broken = states.clone()
    broken[3, 5], broken[7, 0] = torch.nan, torch.inf
    dirty = actions.clone()
    dirty[11, 0, 2] = torch.nan
    out, info = traced(executor, broken, dirty, 4, 0.05)
    touched = torch.zeros(20, dtype=torch.bool)
    touched[[3, 7, 11]] = True
    assert torch.equal(out[~touched], clean[~touched])
    torch.testing.assert_close(out[touched], dirty[touched, 0], rtol=0, atol=0, equal_nan=True)
    assert not info.q_0[touched].isfinite().any() and (info.best_index[touched] == 0).all()
    assert info.trace_q[1:, touched].isnan().all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("select", ["best", "last"])
def test_a_gradient_that_is_not_finite_ends_its_row(kernel, select):
    """Q = w relu(a): finite at a_0 with a finite gradient, but a step takes it where Q overflows."""
    large = torch.tensor([[3e38]])
    program = CriticProgram(1, 1, ((Linear(torch.tensor([[0.0, 1.0]])), Activation("relu"), Linear(large)),))
    options = RefineOptions(select=select, gradient="unit")
    executor = CpuExecutor(program, options, kernel=kernel)
    actions = torch.tensor([[[0.5]], [[-1.0]]])
    out, info = traced(executor, torch.zeros(2, 1), actions, 3, 1.0)
    assert info.trace_q[
        1, 0, 0
    ].isinf()  # Q(1.5) = inf never wins; its gradient is finite, so the row goes on
    assert out[0, 0] == (0.5 if select == "best" else 3.5)
    assert out[1, 0] == -1.0  # dead unit: the gradient is 0 and unit keeps it 0
    infinite = CriticProgram(
        1, 1, ((Linear(torch.tensor([[0.0, 3e38]])), Activation("elu", (1.0,)), Linear(large)),)
    )
    out, info = traced(CpuExecutor(infinite, options, kernel=kernel), torch.zeros(2, 1), -actions * 0, 3, 1.0)
    assert info.trace_q[1:].isnan().all() and info.trace_grad[0].isinf().all() and (out == 0).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_rows_change_no_bit_of_a_row(isa, kernel, precision):
    program = make_program(hidden=(40, 70), activations=(("mish", ()),), norm="affine", members=3)
    states, actions = make_inputs(program, 83)
    executor = CpuExecutor(program, make_options(optimizer=Adam()), precision, isa=isa, kernel=kernel)

    def run(rows):
        out = torch.empty(len(rows), 6)
        executor.run(states[rows], actions[rows].contiguous(), out, steps=4, lr=0.05, info=None)
        return out

    whole = run(torch.arange(83))
    for rows in (torch.arange(82, -1, -1), torch.tensor([40]), torch.arange(7), torch.arange(13, 46)):
        assert torch.equal(run(rows), whole[rows])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_never_worse_over_100k_random_rows(precision):
    program = make_program(hidden=(32, 32), activations=(("relu", ()),))
    states, actions = make_inputs(program, 100_000)
    generator = torch.Generator().manual_seed(5)
    lr = 10 ** (torch.rand(100_000, 1, generator=generator) * 4 - 3)  # up to 10: most steps overshoot
    executor = CpuExecutor(program, make_options(), precision)
    out = torch.empty(100_000, 6)
    q = torch.empty(2, 100_000, 1)
    index, candidate = torch.empty(100_000, 1, dtype=torch.int32), torch.empty(100_000, dtype=torch.int32)
    info = InfoBuffers(q[0], q[1], index, candidate)
    executor.run(states, actions, out, steps=3, lr=lr, info=info)
    assert (q[1] >= q[0]).all() and (index >= 0).all() and (index <= 3).all()
    assert torch.equal(out[index[:, 0] == 0], actions[index[:, 0] == 0, 0])
    before, after = (
        evaluate_program(program, states.double(), a.double()).amin(0) for a in (actions[:, 0], out)
    )
    slack = (2e-2 if precision == "bf16" else 1e-5) * before.abs().max()
    assert (after >= before - slack).all()
    assert (after > before + slack).float().mean() > 0.2
