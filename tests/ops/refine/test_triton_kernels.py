"""The numbers of the Triton kernel: on a GPU where there is one, else in Triton's interpreter, and fewer."""

from functools import partial

import pytest
import torch
from exact_walks import assert_exact, exact
from extreme_checks import check_far_out, check_gradient_not_finite, check_norms, check_rows_not_finite
from kernel_cases import (
    ACTIVATIONS,
    make_inputs,
    make_member,
    make_options,
    make_program,
    mixed_members,
    on_device,
    refined,
    traced,
)
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

from dtag_fast.ops.refine.options import Adam
from dtag_fast.ops.refine.program import CriticProgram
from dtag_fast.ops.refine.reference import TorchExecutor, evaluate_program
from dtag_fast.ops.refine.triton import TritonExecutor

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    from dtag_fast.ops.refine.triton_kernel import refine_kernel

    if type(refine_kernel).__name__ != "InterpretedFunction":
        pytest.skip("TRITON_INTERPRET=1 came after the first import of triton", allow_module_level=True)
# The interpreter computes with NumPy, which speaks of every infinity that a test is about.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def make(program, options, precision="fp32"):
    return TritonExecutor(on_device(program, DEVICE), options, precision)


run = partial(traced, device=DEVICE)


@pytest.mark.parametrize("norm", [None, "plain", "affine"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_every_layer_kind(norm, activation):
    program = make_program(activations=(activation,), norm=norm, members=1)
    states, actions = make_inputs(program, 7)
    _, info = run(make(program, make_options()), states, actions, 1, 0.05)
    assert_exact(program, states, info)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_units_far_out_have_the_slope_of_their_asymptote(activation):
    check_far_out(make, activation, DEVICE)


SHAPES = {  # state, action, hidden, members, batch
    "linear": (3, 2, (), 1, 2),
    "narrow": (1, 1, (1,), 2, 1),
    "odd": (5, 5, (123, 5), 1, 7),
    "bottleneck": (5, 3, (100, 1, 70), 1, 3),
    "blocks": (111, 17, (256, 300), 2, 2),
    "deep": (17, 6, (33,) * 7, 1, 3),
    "wide": (3, 3, (2048, 5), 1, 2),
    "action256": (17, 256, (64,), 1, 3),
    "state1000": (1000, 1, (40, 40), 1, 2),
    "ensemble": (17, 6, (32, 64), 5, 33),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape):
    state, action, hidden, members, batch = SHAPES[shape]
    program = make_program(state=state, action=action, hidden=hidden, members=members)
    states, actions = make_inputs(program, batch)
    _, info = run(make(program, make_options(action)), states, actions, 2, 0.01)
    assert_exact(program, states, info)


def test_rows_of_states_may_be_strided():
    program = make_program(hidden=(40,))
    states, actions = make_inputs(program, 5)
    wide = torch.randn(5, 40, device=DEVICE)
    wide[:, 3:20] = states.to(DEVICE)
    out = torch.empty(5, 6, device=DEVICE)
    executor = make(program, make_options())
    executor.run(wide[:, 3:20], actions.to(DEVICE), out, steps=3, lr=0.05, info=None)
    assert torch.equal(out.cpu(), refined(executor, states, actions, 3, 0.05, DEVICE))


@pytest.mark.parametrize("reduce", ["min", "mean", 1])
def test_members_of_different_shape(reduce):
    program = mixed_members()
    states, actions = make_inputs(program, 19)
    _, info = run(make(program, make_options(4, reduce=reduce)), states, actions, 2, 0.02)
    assert_exact(program, states, info, reduce=reduce)


def test_a_norm_may_stand_behind_an_activation_or_another_norm():
    first, norm, act, *rest = make_member(torch.Generator().manual_seed(0), 23, (40, 30), norm="affine")
    program = CriticProgram(17, 6, ((first, act, norm, norm, act, *rest),))
    states, actions = make_inputs(program, 5)
    _, info = run(make(program, make_options()), states, actions, 2, 0.05)
    assert_exact(program, states, info)


@pytest.mark.parametrize("reduction", ["min", "mean", "max"])
def test_the_programs_own_reduction_replaces_reduce(reduction):
    check_own_reduction(make, reduction, DEVICE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_every_step_follows_the_formulas(optimizer, gradient):
    # Each pair of values of two options comes up; the interpreter is too slow for every triple.
    some = (OPTIMIZERS.index(optimizer) + GRADIENTS.index(gradient)) % len(RADII)
    for radius in RADII if DEVICE == "cuda" else RADII[some : some + 1]:
        check_steps(make, optimizer, gradient, radius, DEVICE)


@pytest.mark.parametrize("pick", range(21) if DEVICE == "cuda" else range(1, 21, 3))
def test_scale_and_radius_of_each_row(pick):
    check_scale_and_radius(make, pick, DEVICE)


@pytest.mark.parametrize("candidates", [1, 2])
def test_rows_of_different_variants_go_as_each_goes_alone(candidates):
    check_variants(make, DEVICE, candidates=candidates)


@pytest.mark.parametrize("pick", range(24) if DEVICE == "cuda" else range(1, 24, 3))
def test_a_prior_is_climbed_and_q_reported(pick):
    check_prior(make, pick, DEVICE)


def test_variants_have_the_prior_of_their_state():
    check_prior_of_variants(make, DEVICE)


def test_small_costs_decide_beside_a_large_q():
    check_small_costs(make, DEVICE)


def test_the_radius_and_the_box_hold():
    check_radius_and_box(make, DEVICE)


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_norms_neither_overflow_nor_vanish(scale):
    check_norms(make, scale, DEVICE)


@pytest.mark.parametrize("select", ["best", "last"])
def test_no_steps_or_no_lr_gives_back_the_bits(select):
    check_bits_of_a_0(make, select, DEVICE)


def test_rows_that_are_not_finite():
    check_rows_not_finite(make, DEVICE)


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_gradient_that_is_not_finite_ends_its_row(select):
    check_gradient_not_finite(make, select, DEVICE)


@pytest.mark.parametrize("candidates", [3, 40])
def test_the_best_candidate_wins_the_first_on_ties(candidates):
    """40 candidates are refined in several rounds; rounds and slots must not disturb the order."""
    program = make_program(hidden=(24,))
    states, actions = make_inputs(program, 3, candidates)
    actions[1, candidates - 1] = actions[1, 0]
    states[2, 4] = torch.nan
    executor = make(program, make_options())
    out, info = run(executor, states, actions, 2, 0.05)
    q = info.q_best[:2]
    winner = q.argmax(1)
    assert torch.equal(info.best_candidate[:2].long(), winner)
    rows = torch.arange(2)
    assert torch.equal(out[:2], info.trace_actions[info.best_index[rows, winner].long(), rows, winner])
    assert info.best_candidate[2] == 0 and torch.equal(out[2], actions[2, 0])
    actions[1] = actions[1, :1]  # all alike: the first
    _, info = run(executor, states, actions, 2, 0.05)
    assert info.best_candidate[1] == 0
    alone, _ = run(executor, states[:1], actions[:1, 2:3].contiguous(), 2, 0.05)
    torch.testing.assert_close(
        alone[0], info.trace_actions[info.best_index[0, 2].long(), 0, 2], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("activation", [("relu", ()), ("silu", ())], ids=lambda a: a[0])
def test_lower_precisions_stay_near(precision, activation):
    """A unit near its kink may fall on either side once its inputs are rounded: compare over all rows."""
    program = make_program(hidden=(96, 70), activations=(activation,), norm="affine")
    states, actions = make_inputs(program, 21)
    executor = make(program, make_options(reduce="mean"), precision)
    _, info = run(executor, states, actions, 2, 0.05)
    for i in range(3):
        q, g, _ = exact(program, states, info.trace_actions[i, :, 0], "mean")
        error = (info.trace_q[i, :, 0] - q).abs().max()
        assert error <= 1e-2 * q.abs().max()
        assert precision == "tf32" or error > 1e-6 * q.abs().max()  # bf16 was asked for and is what runs
        if i < 2:
            smooth = 1e-2 if DEVICE == "cuda" else 2e-2  # the interpreter cuts to bf16, a GPU rounds
            bound = smooth if activation[0] == "silu" else 8e-2
            assert (info.trace_grad[i, :, 0] - g).norm() <= bound * g.norm()


def test_bf16_sees_steps_below_its_spacing():
    """The action is not rounded to bf16, or a step of 1e-4 near 1 would leave Q where it was."""
    program = make_program(hidden=(64, 64), activations=(("silu", ()),), members=1)
    states, actions = make_inputs(program, 5)
    _, info = run(make(program, make_options(gradient="unit"), "bf16"), states, actions * 0.01 + 0.9, 4, 1e-4)
    assert (info.trace_q[1:, :, 0] != info.trace_q[:-1, :, 0]).float().mean() > 0.6


def test_other_rows_change_no_bit_of_a_row():
    program = make_program(hidden=(40, 70), activations=(("mish", ()),), norm="affine", members=1)
    states, actions = make_inputs(program, 35)
    executor = make(program, make_options(optimizer=Adam()))
    whole = refined(executor, states, actions, 2, 0.05, DEVICE)
    back = refined(executor, states.flip(0), actions.flip(0).contiguous(), 2, 0.05, DEVICE)
    if DEVICE == "cuda":
        assert torch.equal(back.flip(0), whole)
    else:  # NumPy multiplies rows at the end of a matrix in another order
        torch.testing.assert_close(back.flip(0), whole, rtol=1e-5, atol=1e-6)
    poisoned = states.clone()
    poisoned[::2] = torch.nan
    assert torch.equal(refined(executor, poisoned, actions, 2, 0.05, DEVICE)[1::2], whole[1::2])


def test_never_worse_and_as_good_as_the_reference():
    program = make_program(hidden=(32, 32))
    states, actions = make_inputs(program, 100_000 if DEVICE == "cuda" else 200)
    generator = torch.Generator().manual_seed(5)
    lr = 10 ** (torch.rand(len(states), 1, generator=generator) * 4 - 3)  # up to 10: most steps overshoot
    steps = torch.randint(0, 4, (len(states),), generator=generator, dtype=torch.int32)
    _, info = run(make(program, make_options()), states, actions, steps, lr)
    assert (info.q_best >= info.q_0).all() and (info.best_index[:, 0] <= steps).all()
    reference = TorchExecutor(partial(evaluate_program, program), make_options())
    _, host = traced(reference, states, actions, steps, lr)
    same = (info.q_best - host.q_best).abs() <= 1e-4 * host.q_best.abs().max()
    assert same.float().mean() > 0.95  # a kink or a switch of the smallest member may part a few
