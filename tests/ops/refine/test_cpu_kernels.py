"""The numbers of the compiled CPU kernels: the checks that all backends share, and what is theirs alone."""

from functools import partial

import pytest
import torch
from exact_walks import assert_exact, exact
from extreme_checks import check_far_out, check_gradient_not_finite, check_norms, check_rows_not_finite
from kernel_cases import ACTIVATIONS, make_inputs, make_options, make_program, mixed_members, traced
from prior_checks import check_prior, check_small_costs
from step_checks import (
    GRADIENTS,
    OPTIMIZERS,
    RADII,
    check_bits_of_a_0,
    check_own_reduction,
    check_radius_and_box,
    check_scale_and_radius,
    check_steps,
)
from variant_checks import check_prior_of_variants, check_variants

from dtag_fast.ops.refine.cpu import CpuExecutor
from dtag_fast.ops.refine.executor import InfoBuffers
from dtag_fast.ops.refine.options import Adam
from dtag_fast.ops.refine.program import CriticProgram, Linear
from dtag_fast.ops.refine.reference import evaluate_program

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")

MACHINE = _C.isas()
EMULATED = [
    "emulated512",
    "emulated512bf16",
    "emulated512amx",
]  # the shape of the AVX-512 kernels, on any machine
ISAS = MACHINE + EMULATED
KERNELS = ["rows", "tiles"]


def maker(**kwargs):
    """What the checks build executors with: CpuExecutor(program, options, precision, **kwargs)."""
    return partial(CpuExecutor, **kwargs)


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
    check_far_out(maker(isa=isa, kernel=kernel), activation)


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
    program = mixed_members()
    states, actions = make_inputs(program, 45)
    executor = CpuExecutor(program, make_options(4, reduce=reduce), isa=isa, kernel=kernel)
    _, info = traced(executor, states, actions, 3, 0.02)
    assert_exact(program, states, info, reduce=reduce)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("reduction", ["min", "mean", "max"])
def test_the_programs_own_reduction_replaces_reduce(kernel, reduction):
    check_own_reduction(maker(kernel=kernel), reduction)


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
    if isa.endswith("bf16") or (isa.endswith("amx") and kernel == "tiles"):
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


@pytest.mark.parametrize("isa", [MACHINE[-1], "baseline", "emulated512"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
@pytest.mark.parametrize("radius", RADII, ids=str)
def test_every_step_follows_the_formulas(isa, kernel, optimizer, gradient, radius):
    check_steps(maker(isa=isa, kernel=kernel), optimizer, gradient, radius)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pick", range(21))
def test_scale_and_radius_of_each_row(isa, kernel, pick):
    check_scale_and_radius(maker(isa=isa, kernel=kernel), pick)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "candidates"), [(6, 1), (11, 2), (70, 1), (90, 3)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_rows_of_different_variants_go_as_each_goes_alone(isa, kernel, rows, candidates, activation):
    norm = "affine" if activation == "tanh" else None
    kinds = {"hidden": (40, 24), "activations": ((activation, ()),), "norm": norm}
    check_variants(maker(isa=isa, kernel=kernel), rows=rows, candidates=candidates, bits=True, **kinds)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pick", range(24))
def test_a_prior_is_climbed_and_q_reported(isa, kernel, pick):
    check_prior(maker(isa=isa, kernel=kernel), pick)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_variants_have_the_prior_of_their_state(isa, kernel):
    check_prior_of_variants(maker(isa=isa, kernel=kernel))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_small_costs_decide_beside_a_large_q(isa, kernel):
    check_small_costs(maker(isa=isa, kernel=kernel))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_radius_and_the_box_hold(isa, kernel):
    check_radius_and_box(maker(isa=isa, kernel=kernel))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_norms_neither_overflow_nor_vanish(kernel, scale):
    check_norms(maker(kernel=kernel), scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("select", ["best", "last"])
def test_no_steps_or_no_lr_gives_back_the_bits(isa, kernel, select):
    check_bits_of_a_0(maker(isa=isa, kernel=kernel), select)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_that_are_not_finite(isa, kernel):
    check_rows_not_finite(maker(isa=isa, kernel=kernel))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [5, 33, 45])
def test_an_infinite_state_that_every_relu_silences_leaves_q_finite(isa, kernel, width):
    """All units at -inf: Q is the last bias, whatever stands where the width fills no whole vector."""
    (first, act, last), *_ = make_program(state=1, action=2, hidden=(width,)).members
    first.weight[:, 0] = -1.0
    program = CriticProgram(1, 2, ((first, act, last),))
    states, actions = torch.full((3, 1), torch.inf), torch.zeros(3, 1, 2)
    _, info = traced(CpuExecutor(program, make_options(2), isa=isa, kernel=kernel), states, actions, 1, 0.1)
    assert torch.equal(info.trace_q, last.bias.expand(2, 3, 1))
    assert not info.trace_grad[0].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("norm", [None, "affine"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_that_an_earlier_call_left_is_read(isa, kernel, norm, precision):
    """256 dimensions of NaN fill the start of the scratch, where a small critic's gradients will stand."""
    program = make_program(state=3, action=2, hidden=(40, 33), norm=norm, members=1)
    states, actions = make_inputs(program, 3)
    executor = CpuExecutor(program, make_options(2), precision, isa=isa, kernel=kernel)
    clean, _ = traced(executor, states, actions, 3, 0.1)
    assert not torch.equal(clean, actions[:, 0])

    poison = make_program(state=1, action=256, hidden=(1,), members=1)
    left = CpuExecutor(poison, make_options(256), isa=isa, kernel=kernel)
    left.run(
        torch.ones(99, 1),
        torch.full((99, 1, 256), torch.nan),
        torch.empty(99, 256),
        steps=1,
        lr=0.1,
        info=None,
    )
    assert torch.equal(traced(executor, states, actions, 3, 0.1)[0], clean)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("select", ["best", "last"])
def test_a_gradient_that_is_not_finite_ends_its_row(kernel, select):
    check_gradient_not_finite(maker(kernel=kernel), select)


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
