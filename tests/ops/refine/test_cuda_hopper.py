"""The Hopper kernel, on a GPU or its stand-in on the CPU, against float64 at the kernel's own iterates."""

from functools import partial

import pytest
import torch
from bf16_checks import assert_close, assert_rounded
from cuda_core import DEVICE, load_core, run_traced, set_device
from extreme_checks import check_gradient_not_finite, check_rows_not_finite
from kernel_cases import make_inputs, make_options, make_program, on_device, refined
from prior_checks import check_prior, check_small_costs
from step_checks import (
    GRADIENTS,
    OPTIMIZERS,
    RADII,
    check_bits_of_a_0,
    check_radius_and_box,
    check_scale_and_radius,
    check_settings_of_rows,
    check_steps,
)

from dtag_fast.ops.refine.cuda import CudaExecutor
from dtag_fast.ops.refine.options import Adam
from dtag_fast.ops.refine.program import CriticProgram, Linear

core = load_core()
if DEVICE == "cuda" and torch.cuda.get_device_capability() != (9, 0):
    pytest.skip("products of a warpgroup need compute capability 9.0", allow_module_level=True)
SELECTS = ["best", "last"]
SMOOTH = ["gelu", "silu", "mish", "tanh"]


@pytest.fixture(autouse=True)
def device():
    set_device()


def hopper(program, options, precision="bf16", tile_rows=None):
    moved = on_device(program, DEVICE)
    return CudaExecutor(moved, options, precision, kernel="hopper", rows=tile_rows, core=core)


SHAPES = {  # states, actions, hidden widths, rows
    "one of each": (1, 1, (1, 1), 1),
    "one action, one state": (1, 1, (64, 64), 2),
    "odd": (5, 3, (100, 33), 33),
    "many actions": (17, 17, (64, 48), 7),
    "most actions": (10, 32, (64, 64), 70),
    "most inputs": (54, 8, (128, 100), 33),
    "wide": (17, 6, (256, 256), 200),
    "wide, padded": (11, 3, (200, 256), 7),
}


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(rows, shape):
    state, action, hidden, batch = SHAPES[shape]
    # With this seed no narrow layer is dead in every row.
    program = make_program(7, state=state, action=action, hidden=hidden, members=1)
    states, actions = make_inputs(program, batch)
    executor = hopper(program, make_options(action), tile_rows=rows)
    _, info = run_traced(executor, states, actions, 1, 0.01)
    assert_rounded(program, states, info, last_whole=True)


@pytest.mark.parametrize("reduce", ["min", "max", "mean", 1])
@pytest.mark.parametrize("activation", SMOOTH)
def test_members_and_activations(activation, reduce):
    program = make_program(state=8, action=4, hidden=(40, 50), members=3, activations=((activation, ()),))
    program = CriticProgram(8, 4, program.members, None if reduce == 1 else reduce)
    states, actions = make_inputs(program, 45)
    options = make_options(4, reduce=reduce if reduce == 1 else "min")
    _, info = run_traced(hopper(program, options), states, actions, 3, 0.02)
    if reduce == "max":
        negated = [(*m[:-1], Linear(-m[-1].weight, -m[-1].bias)) for m in program.members]
        info.trace_q, info.trace_grad = -info.trace_q, -info.trace_grad
        program = CriticProgram(8, 4, tuple(negated))
    program = CriticProgram(8, 4, program.members)
    assert_close(program, states, info, "bf16", "min" if reduce == "max" else reduce)


# Every number of members with every number of candidates; both sizes of a tile with each of them.
@pytest.mark.parametrize(
    ("members", "candidates", "rows"),
    [(m, c, 64 * (1 + (i + j) % 2)) for i, m in enumerate((1, 2, 5)) for j, c in enumerate((1, 3, 70))],
)
def test_options_candidates_and_steps_of_each_row(members, candidates, rows):
    program = make_program(hidden=(64, 64), members=members)
    check_settings_of_rows(partial(hopper, tile_rows=rows), program, candidates, members, DEVICE)


def test_several_tiles_for_each_warpgroup():
    """On two multiprocessors a block carries 64 or 128 rows at a time; the last tile is half empty."""
    program = make_program(state=11, action=3, hidden=(64, 40))
    states, actions = make_inputs(program, 480)
    outs = []
    for rows in (64, 128):
        executor = hopper(program, make_options(3), tile_rows=rows)
        outs.append(run_traced(executor, states, actions, 2, 0.02))
    (out, info), (again, _) = outs
    assert torch.equal(out, again)
    assert (info.q_best > info.q_0).float().mean() > 0.9
    single = make_program(state=11, action=3, hidden=(64, 40), members=1)
    _, info = run_traced(hopper(single, make_options(3)), states, actions, 1, 0.02)
    assert_rounded(single, states, info, last_whole=True)


def test_other_rows_change_no_bit_of_a_row_nor_does_the_schedule():
    program = make_program(hidden=(64, 60))
    states, actions = make_inputs(program, 141)

    def run(rows, seed=0, **kwargs):
        set_device(seed=seed)
        executor = hopper(program, make_options(optimizer=Adam()), **kwargs)
        return refined(executor, states[rows], actions[rows].contiguous(), 2, 0.05, DEVICE)

    whole = run(torch.arange(141))
    for rows in (torch.arange(140, -1, -1), torch.tensor([40]), torch.arange(13, 86)):
        assert torch.equal(run(rows), whole[rows])
    for seed in range(1, 7):
        assert torch.equal(run(torch.arange(141), seed, tile_rows=64 * (1 + seed % 2)), whole)


@pytest.mark.parametrize("pick", range(12))
def test_every_step_follows_the_formulas(pick):
    optimizer, gradient, radius = OPTIMIZERS[pick % 7], GRADIENTS[pick % 3], RADII[(pick // 2) % 3]
    check_steps(hopper, optimizer, gradient, radius, DEVICE, hidden=(24, 24))


@pytest.mark.parametrize("select", SELECTS)
def test_no_steps_or_no_lr_gives_back_the_bits(select):
    check_bits_of_a_0(hopper, select, DEVICE, hidden=(24, 24))


@pytest.mark.parametrize("pick", range(6))
def test_scale_and_radius_of_each_row(pick):
    check_scale_and_radius(hopper, pick, DEVICE, hidden=(24, 24))


@pytest.mark.parametrize("pick", range(6))
def test_a_prior_is_climbed_and_q_reported(pick):
    check_prior(hopper, pick, DEVICE, hidden=(24, 24), bound=2e-2)


def test_small_costs_decide_beside_a_large_q():
    check_small_costs(hopper, DEVICE, hidden=(24, 24))


def test_no_iterate_leaves_ball_or_box():
    check_radius_and_box(hopper, DEVICE, hidden=(24, 24))


def test_rows_not_finite():
    check_rows_not_finite(hopper, DEVICE)


@pytest.mark.parametrize("select", SELECTS)
def test_a_gradient_that_is_not_finite_ends_its_row(select):
    check_gradient_not_finite(hopper, select, DEVICE, smooth=("silu", ()), again=True)


def test_repacking_replaces_every_number():
    first, second = (make_program(seed, hidden=(20, 30), members=1) for seed in (0, 1))
    states, actions = make_inputs(first, 9)
    executor = hopper(first, make_options())
    refined(executor, states, actions, 1, 0.05, DEVICE)
    executor.repack(on_device(second, DEVICE))
    _, info = run_traced(executor, states, actions, 1, 0.05)
    assert_rounded(second, states, info, last_whole=True)
