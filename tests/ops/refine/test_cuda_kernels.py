"""The numbers of the CUDA kernels: on a GPU where there is one, else the same sources on the CPU.

There (tools/simt.py) shared memory, barriers and exchanges are watched: a race, a read of what was never
written or a barrier that not all reach ends the test with the place where it happened.
"""

from functools import partial

import pytest
import torch
from cuda_core import DEVICE, load_core, run_traced, set_device
from exact_walks import assert_exact
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

from dtag_fast.ops.refine.cuda import CudaExecutor
from dtag_fast.ops.refine.options import Adam
from dtag_fast.ops.refine.program import CriticProgram

GENERIC = [("generic", rows) for rows in (4, 8, 16, 32, 64)]
LATENCY = [("latency", rows) for rows in (1, 2, 8)]
KERNELS = [("generic", 4), ("generic", 16), ("generic", 64), ("latency", 1), ("latency", 8)]
run = run_traced

# Rounds of 12 through all options on the generic kernel. The latency kernel steps with the same functions
# (refine/ascent.h), and without a GPU a combination on it is many times the work: four for each number of
# rows, in which every form of scale meets both norms and, over both, every optimizer has its turn.
PICKS_OF_LATENCY = {1: (0, 1, 2, 7), 8: (3, 4, 5, 6)}
COMBINATIONS = [
    (kernel, rows, pick)
    for kernel, rows in KERNELS
    for pick in range(12)
    if DEVICE == "cuda" or kernel == "generic" or pick in PICKS_OF_LATENCY[rows]
]


@pytest.fixture(scope="module")
def core():
    set_device(seed=0)
    return load_core()


@pytest.fixture
def make(core):
    """make(program, options, kernel=, rows=): the executor on the GPU or its stand-in."""

    def build(program, options, precision="fp32", kernel=None, rows=None):
        return CudaExecutor(
            on_device(program, DEVICE), options, precision, kernel=kernel, rows=rows, core=core
        )

    return build


@pytest.mark.parametrize("kernel, rows", [("generic", 8), ("latency", 8)])
@pytest.mark.parametrize("norm", [None, "plain", "affine"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_every_layer_kind(make, kernel, rows, norm, activation):
    program = make_program(activations=(activation,), norm=norm, hidden=(64, 40))
    states, actions = make_inputs(program, 7)
    executor = make(program, make_options(), kernel=kernel, rows=rows)
    _, info = run(executor, states, actions, 1, 0.05)
    assert_exact(program, states, info)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_units_far_out_have_the_slope_of_their_asymptote(make, activation):
    check_far_out(make, activation, DEVICE)


# state, action, hidden, members, batch
SHAPES = {
    "linear": (3, 2, (), 1, 3),
    "one layer": (17, 6, (100,), 2, 33),
    "narrow": (1, 1, (1,), 1, 1),
    "A=3, S=111": (111, 3, (64, 64), 2, 7),
    "A=17, 5 members": (17, 17, (64, 100), 5, 33),
    "A=1, width 300": (3, 1, (300, 256), 1, 2),
    "bottleneck": (5, 3, (123, 1, 70), 2, 3),
    "deep": (17, 6, (33,) * 7, 1, 3),
    "width 400": (17, 6, (400, 400), 2, 2),
    "wide": (23, 123, (1024, 5), 1, 3),
    "action 256": (17, 256, (40,), 1, 3),
    "state 1000": (1000, 1, (40, 40), 1, 2),
    "batch 200": (3, 2, (16, 20), 2, 200),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(make, shape):
    state, action, hidden, members, batch = SHAPES[shape]
    program = make_program(state=state, action=action, hidden=hidden, members=members)
    states, actions = make_inputs(program, batch)
    _, info = run(make(program, make_options(action), kernel="generic"), states, actions, 2, 0.01)
    assert_exact(program, states, info)


LATENCY_SHAPES = {
    "A=1, 1 member": (3, 1, (256, 256), 1, 3),
    "A=3, S=111": (111, 3, (100, 64), 2, 2),
    "A=17, 5 members": (17, 17, (64, 60), 5, 3),
    "A=31, 8 members": (2, 31, (128, 64), 8, 2),
    "[256, 256]": (17, 6, (256, 256), 2, 2),
    "[300, 256]": (17, 6, (300, 256), 2, 2),
    "[400, 256]": (17, 6, (400, 256), 2, 1),
    "[512, 512], 1 member": (17, 6, (512, 512), 1, 1),
    "[300, 300]": (17, 6, (300, 300), 2, 3),
    "[400, 400]": (17, 6, (400, 400), 2, 1),
    "[512, 512]": (17, 6, (512, 512), 2, 2),
    "[512, 512], A=17": (111, 17, (512, 512), 2, 1),
    "3 x 512, 1 member": (17, 6, (512, 512, 512), 1, 1),
    "3 x 256": (17, 6, (256, 256, 256), 2, 2),
    "unlike layers": (17, 6, (70, 250, 130), 2, 2),
    "3 members": (17, 6, (256, 200), 3, 2),
    "3 x 256, 3 members": (17, 6, (256, 256, 256), 3, 2),
    "3 x 200, 4 members": (17, 6, (200, 200, 200), 4, 1),
    "batch 33": (17, 6, (64, 64), 2, 33),
}


@pytest.mark.parametrize("shape", LATENCY_SHAPES)
def test_shapes_of_the_latency_kernel(make, shape):
    state, action, hidden, members, batch = LATENCY_SHAPES[shape]
    program = make_program(state=state, action=action, hidden=hidden, members=members)
    states, actions = make_inputs(program, batch)
    executor = make(program, make_options(action), kernel="latency")
    if DEVICE == "cuda" and executor.refusal():
        pytest.skip(executor.refusal())  # larger than this GPU's shared memory
    _, info = run(executor, states, actions, 2, 0.01)
    assert_exact(program, states, info)


def test_the_form_for_relu_computes_what_the_general_one_does(make):
    """Leaky ReLU of slope 0 is looked up, ReLU has code of its own."""
    results = []
    for activation in (("relu", ()), ("leaky_relu", (0.0,))):
        program = make_program(hidden=(200, 256), activations=(activation,))
        states, actions = make_inputs(program, 3)
        executor = make(program, make_options(), kernel="latency", rows=2)
        results.append(run(executor, states, actions, 5, 0.05))
    (out, info), (other, other_info) = results
    assert torch.equal(out, other)
    assert all(torch.equal(x, y) for x, y in zip(info.trace_q, other_info.trace_q, strict=True))


@pytest.mark.parametrize("kernel, rows", KERNELS)
def test_rows_of_states_may_be_strided(make, kernel, rows):
    program = make_program(hidden=(40, 30))
    states, actions = make_inputs(program, 5)
    wide = torch.randn(5, 40, device=DEVICE)
    wide[:, 3:20] = states.to(DEVICE)
    out = torch.empty(5, 6, device=DEVICE)
    executor = make(program, make_options(), kernel=kernel, rows=rows)
    executor.run(wide[:, 3:20], actions.to(DEVICE), out, steps=3, lr=0.05, info=None)
    assert torch.equal(out.cpu(), refined(executor, states, actions, 3, 0.05, DEVICE))


@pytest.mark.parametrize("reduce", ["min", "mean", 1])
def test_members_of_different_shape(make, reduce):
    program = mixed_members()
    states, actions = make_inputs(program, 19)
    _, info = run(make(program, make_options(4, reduce=reduce)), states, actions, 2, 0.02)
    assert_exact(program, states, info, reduce=reduce)


@pytest.mark.parametrize("reduce", ["min", "mean", 1])
def test_members_of_different_shape_in_one_cluster(make, reduce):
    generator = torch.Generator().manual_seed(3)
    members = (
        make_member(generator, 12, (40, 50)),
        make_member(generator, 12, (130, 64), activations=(("tanh", ()),), norm="affine"),
        make_member(generator, 12, (9, 200), activations=(("softplus", (1.0, 20.0)),)),
    )
    program = CriticProgram(8, 4, members)
    states, actions = make_inputs(program, 5)
    executor = make(program, make_options(4, reduce=reduce), kernel="latency")
    _, info = run(executor, states, actions, 3, 0.02)
    assert_exact(program, states, info, reduce=reduce)


def test_a_norm_may_stand_behind_an_activation_or_another_norm(make):
    first, norm, act, *rest = make_member(torch.Generator().manual_seed(0), 23, (40, 30), norm="affine")
    program = CriticProgram(17, 6, ((first, act, norm, norm, act, *rest),))
    states, actions = make_inputs(program, 5)
    _, info = run(make(program, make_options()), states, actions, 2, 0.05)
    assert_exact(program, states, info)


@pytest.mark.parametrize("kernel, rows", KERNELS)
@pytest.mark.parametrize("reduction", ["min", "mean", "max"])
def test_the_programs_own_reduction_replaces_reduce(make, kernel, rows, reduction):
    check_own_reduction(partial(make, kernel=kernel, rows=rows), reduction, DEVICE)


def two_layers(make, kernel, rows):
    """The checks use one hidden layer, which the latency kernel leaves to the other one."""
    if kernel == "generic":
        return partial(make, kernel=kernel, rows=rows)

    def build(program, options, precision="fp32"):
        members = []
        for first, act, last in program.members:
            width = first.weight.shape[0]
            # identity on ReLU outputs: the same function with a layer more
            members.append((first, act, type(first)(torch.eye(width)), act, last))
        deeper = CriticProgram(program.state_dim, program.action_dim, tuple(members), program.reduction)
        return make(deeper, options, precision, kernel=kernel, rows=rows)

    return build


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_every_step_follows_the_formulas(make, optimizer, gradient):
    for radius in RADII:
        check_steps(partial(make, kernel="generic", rows=16), optimizer, gradient, radius, DEVICE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_every_step_of_the_latency_kernel_follows_the_formulas(make, optimizer):
    """Each optimizer with one gradient and one radius; each of these with two optimizers at least."""
    turn = OPTIMIZERS.index(optimizer)
    gradient, radius = GRADIENTS[turn % 3], RADII[(turn + turn // 3) % 3]
    check_steps(two_layers(make, "latency", 8), optimizer, gradient, radius, DEVICE)


@pytest.mark.parametrize("kernel, rows, pick", COMBINATIONS)
def test_scale_and_radius_of_each_row(make, kernel, rows, pick):
    check_scale_and_radius(two_layers(make, kernel, rows), pick, DEVICE)


@pytest.mark.parametrize("kernel, rows", GENERIC)
def test_rows_of_different_variants_go_as_each_goes_alone(make, kernel, rows):
    check_variants(partial(make, kernel=kernel, rows=rows), DEVICE, bits=True, hidden=(40, 24))


@pytest.mark.parametrize("kernel, rows", GENERIC)
def test_variants_have_the_prior_of_their_state(make, kernel, rows):
    check_prior_of_variants(partial(make, kernel=kernel, rows=rows), DEVICE)


@pytest.mark.parametrize("kernel, rows, pick", COMBINATIONS)
def test_a_prior_is_climbed_and_q_reported(make, kernel, rows, pick):
    check_prior(two_layers(make, kernel, rows), pick, DEVICE)


@pytest.mark.parametrize("kernel, rows", KERNELS)
def test_small_costs_decide_beside_a_large_q(make, kernel, rows):
    check_small_costs(two_layers(make, kernel, rows), DEVICE)


@pytest.mark.parametrize("kernel, rows", KERNELS)
def test_the_radius_and_the_box_hold(make, kernel, rows):
    check_radius_and_box(two_layers(make, kernel, rows), DEVICE)


@pytest.mark.parametrize("kernel, rows", KERNELS)
@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_norms_neither_overflow_nor_vanish(make, kernel, rows, scale):
    check_norms(two_layers(make, kernel, rows), scale, DEVICE)


@pytest.mark.parametrize(
    "kernel, rows, select",
    [(*k, s) for k in KERNELS for s in ("best", "last") if k[0] == "generic" or (k[1] == 1) == (s == "best")],
)
def test_no_steps_or_no_lr_gives_back_the_bits(make, kernel, rows, select):
    check_bits_of_a_0(two_layers(make, kernel, rows), select, DEVICE)


@pytest.mark.parametrize("kernel, rows", KERNELS)
def test_rows_that_are_not_finite(make, kernel, rows):
    check_rows_not_finite(partial(make, kernel=kernel, rows=rows), DEVICE)


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_gradient_that_is_not_finite_ends_its_row(make, select):
    check_gradient_not_finite(make, select, DEVICE)


@pytest.mark.parametrize(
    "kernel, rows, candidates", [(*k, c) for k in KERNELS for c in (3, 20) if c == 3 or k[1] > 1]
)
def test_the_best_candidate_wins_the_first_on_ties(make, kernel, rows, candidates):
    """20 candidates fill several tiles of 4, 8 or 16 rows, 3 those of one row: rounds must not disturb the
    order."""
    program = make_program(hidden=(24, 24))
    states, actions = make_inputs(program, 3, candidates)
    actions[1, candidates - 1] = actions[1, 0]
    states[2, 4] = torch.nan
    executor = make(program, make_options(), kernel=kernel, rows=rows)
    out, info = run(executor, states, actions, 2, 0.05)
    winner = info.q_best[:2].argmax(1)
    assert torch.equal(info.best_candidate[:2].long(), winner)
    two = torch.arange(2)
    assert torch.equal(out[:2], info.trace_actions[info.best_index[two, winner].long(), two, winner])
    assert info.best_candidate[2] == 0 and torch.equal(out[2], actions[2, 0])
    actions[1] = actions[1, :1]  # all alike: the first
    _, info = run(executor, states, actions, 2, 0.05)
    assert info.best_candidate[1] == 0


@pytest.mark.parametrize("kernel, rows", GENERIC + LATENCY)
def test_other_rows_change_no_bit_of_a_row(make, kernel, rows):
    program = make_program(hidden=(40, 70), activations=(("mish", ()),), norm="affine")
    states, actions = make_inputs(program, 21)
    executor = make(program, make_options(optimizer=Adam()), kernel=kernel, rows=rows)
    whole = refined(executor, states, actions, 2, 0.05, DEVICE)
    for part in (torch.arange(20, -1, -1), torch.tensor([13]), torch.arange(5, 14)):
        assert torch.equal(refined(executor, states[part], actions[part], 2, 0.05, DEVICE), whole[part])
    poisoned = states.clone()
    poisoned[::2] = torch.nan
    assert torch.equal(refined(executor, poisoned, actions, 2, 0.05, DEVICE)[1::2], whole[1::2])


@pytest.mark.parametrize("kernel, rows", KERNELS)
def test_never_worse(make, kernel, rows):
    program = make_program(hidden=(32, 32))
    states, actions = make_inputs(program, 100_000 if DEVICE == "cuda" else 60)
    generator = torch.Generator().manual_seed(5)
    lr = 10 ** (torch.rand(len(states), 1, generator=generator) * 4 - 3)  # up to 10: most steps overshoot
    steps = torch.randint(0, 4, (len(states),), generator=generator, dtype=torch.int32)
    executor = make(program, make_options(), kernel=kernel, rows=rows)
    out, info = run(executor, states, actions, steps, lr)
    assert (info.q_best >= info.q_0).all() and (info.best_index[:, 0] <= steps).all()
    stayed = info.best_index[:, 0] == 0
    assert torch.equal(out[stayed], actions[stayed, 0]) and not stayed.all()


@pytest.mark.skipif(DEVICE == "cuda", reason="the GPU's own order of threads is one")
@pytest.mark.parametrize("kernel, rows", KERNELS)
def test_the_order_of_threads_changes_no_bit(core, make, kernel, rows):
    """Other orders of warps and lanes, and later arrival of what blocks send each other."""
    program = make_program(hidden=(40, 70, 50), norm="affine")
    states, actions = make_inputs(program, 5)
    results = []
    for seed in (0, 1, 2, 3):
        core.set_device(seed=seed)
        executor = make(program, make_options(), kernel=kernel, rows=rows)
        results.append(refined(executor, states, actions, 3, 0.05, DEVICE))
    core.set_device(seed=0)
    assert all(torch.equal(r, results[0]) for r in results)


def test_new_numbers_are_written_where_the_old_ones_were(make):
    old, new = make_program(seed=0, norm="affine"), make_program(seed=1, norm="affine")
    states, actions = make_inputs(old, 5)
    for kernel in ("generic", "latency"):
        executor = make(old, make_options(), kernel=kernel)
        refined(executor, states, actions, 3, 0.05, DEVICE)
        place = executor._forms[kernel].numbers.data_ptr()
        executor.repack(on_device(new, DEVICE))
        out = refined(executor, states, actions, 3, 0.05, DEVICE)
        assert executor._forms[kernel].numbers.data_ptr() == place
        fresh = make(new, make_options(), kernel=kernel)
        assert torch.equal(out, refined(fresh, states, actions, 3, 0.05, DEVICE))


@pytest.mark.parametrize("kernel, rows", KERNELS)
def test_the_result_may_lie_in_the_candidates(make, kernel, rows):
    """With 20 candidates later rounds read actions after the first round has written its result."""
    program = make_program(hidden=(24, 24))
    states, actions = (x.to(DEVICE) for x in make_inputs(program, 1, 20))
    executor = make(program, make_options(), kernel=kernel, rows=rows)
    apart = torch.empty(1, 6, device=DEVICE)
    executor.run(states, actions, apart, steps=2, lr=0.05, info=None)
    within = actions[:, 13]
    executor.run(states, actions, within, steps=2, lr=0.05, info=None)
    assert torch.equal(within, apart)
