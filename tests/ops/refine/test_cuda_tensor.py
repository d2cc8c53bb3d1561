"""The tensor kernel, on a GPU or its stand-in on the CPU, against float64 at the kernel's own iterates."""

from functools import partial

import pytest
import torch
from bf16_checks import assert_close, assert_rounded
from cuda_core import DEVICE, load_core, run_traced, set_device
from extreme_checks import check_gradient_not_finite, check_rows_not_finite
from kernel_cases import ACTIVATIONS, make_inputs, make_member, make_options, make_program, on_device, refined
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


PRECISIONS = ["bf16", "bf16x3"]
SELECTS = ["best", "last"]
TILES = [("bf16", 32), ("bf16", 64), ("bf16", 128), ("bf16x3", 32), ("bf16x3", 64)]


@pytest.fixture(autouse=True)
def device():
    set_device()


def tensor(program, options, precision="bf16", tile_rows=None):
    moved = on_device(program, DEVICE)
    return CudaExecutor(moved, options, precision, kernel="tensor", rows=tile_rows, core=core)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("norm", [None, "plain", "affine"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a[0])
def test_every_layer_kind(precision, norm, activation):
    if precision == "bf16" and activation[0] in ("relu", "leaky_relu"):
        pytest.skip("kinks: see the tests with a rounded reference")
    program = make_program(hidden=(36, 21), activations=(activation,), norm=norm)
    states, actions = make_inputs(program, 19)
    executor = tensor(program, make_options(reduce="mean"), precision, tile_rows=32)
    _, info = run_traced(executor, states, actions, 1, 0.05)
    assert_close(program, states, info, precision, "mean")


SHAPES = {  # states, actions, hidden widths, rows
    "one of each": (1, 1, (1,), 1),
    "narrow": (1, 1, (64, 64), 7),
    "odd": (5, 3, (100, 33), 33),
    "many actions": (17, 17, (64, 48), 33),
    "more actions": (3, 40, (40,), 5),
    "bottleneck": (5, 3, (123, 1, 70), 7),
    "many states": (111, 8, (100, 100), 33),
    "wider than a panel": (17, 6, (300, 256), 33),
    "much wider": (3, 2, (40, 600), 5),
    "deep": (17, 6, (33,) * 7, 33),
}


@pytest.mark.parametrize(("precision", "rows"), TILES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(precision, rows, shape):
    state, action, hidden, batch = SHAPES[shape]
    # With this seed no narrow layer is dead in every row.
    program = make_program(7, state=state, action=action, hidden=hidden, members=1)
    states, actions = make_inputs(program, batch)
    executor = tensor(program, make_options(action), precision, tile_rows=rows)
    if rows > 32 and executor.refusal():
        pytest.skip(executor.refusal())
    _, info = run_traced(executor, states, actions, 1, 0.01)
    if precision == "bf16":
        assert_rounded(program, states, info)
    else:
        assert_close(program, states, info, precision)


@pytest.mark.parametrize(("precision", "rows"), TILES)
def test_batches_of_several_tiles_on_few_blocks(precision, rows):
    """200 rows: the tiles of a block follow each other, the last one half empty."""
    for state in (11, 40):  # states multiplied at every iterate, and folded
        program = make_program(state=state, action=3, hidden=(32, 24), members=1)
        states, actions = make_inputs(program, 200)
        executor = tensor(program, make_options(3), precision, tile_rows=rows)
        _, info = run_traced(executor, states, actions, 2, 0.02)
        if precision == "bf16":
            assert_rounded(program, states, info)
        else:
            assert_close(program, states, info, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("reduce", ["min", "max", "mean", 1])
def test_members_of_different_shape(precision, reduce):
    generator = torch.Generator().manual_seed(3)
    silu = (("silu", ()),)
    members = (
        make_member(generator, 12, (40, 50), activations=silu),
        make_member(generator, 12, (9,), activations=(("tanh", ()),), norm="affine"),
        make_member(generator, 12, (300,), activations=()),
        make_member(generator, 12, (33, 64, 35), activations=(("elu", (1.0,)), ("silu", ()))),
        make_member(generator, 12, (20,), activations=(("identity", ()),)),
    )
    program = CriticProgram(8, 4, members, None if reduce == 1 else reduce)
    states, actions = make_inputs(program, 45)
    options = make_options(4, reduce=reduce if reduce == 1 else "min")
    _, info = run_traced(tensor(program, options, precision), states, actions, 3, 0.02)
    if reduce == "max":
        negated = [(*m[:-1], Linear(-m[-1].weight, -m[-1].bias)) for m in members]
        info.trace_q, info.trace_grad = -info.trace_q, -info.trace_grad
        program = CriticProgram(8, 4, tuple(negated))
    program = CriticProgram(8, 4, program.members)
    assert_close(program, states, info, precision, "min" if reduce == "max" else reduce)


# Every number of members with every number of candidates; both precisions with each of them.
@pytest.mark.parametrize(
    ("members", "candidates", "precision"),
    [(m, c, PRECISIONS[(i + j) % 2]) for i, m in enumerate((1, 2, 5)) for j, c in enumerate((1, 3, 40))],
)
def test_options_candidates_and_steps_of_each_row(members, candidates, precision):
    program = make_program(hidden=(24,), members=members, activations=(("silu", ()),))
    make = partial(tensor, precision=precision, tile_rows=32)
    states, info = check_settings_of_rows(make, program, candidates, members, DEVICE)
    assert_close(program, states, info, precision)


@pytest.mark.parametrize("select", ["best", "last"])
def test_never_worse_as_the_kernel_sees_it(select):
    program = make_program(hidden=(32, 32))
    states, actions = make_inputs(program, 200)
    lr = 10 ** (
        torch.rand(200, 1, generator=torch.Generator().manual_seed(5)) * 4 - 3
    )  # most steps overshoot
    out, info = run_traced(tensor(program, make_options(select=select)), states, actions, 3, lr)
    if select == "best":
        assert (info.q_best >= info.q_0).all()
        assert torch.equal(info.q_best[:, 0], info.trace_q[:, :, 0].amax(0))
    else:
        assert (info.best_index == 3).all()
    index = info.best_index[:, 0].long()
    assert torch.equal(out, info.trace_actions[index, torch.arange(200), 0])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("state", [17, 60])
def test_other_rows_change_no_bit_of_a_row_nor_does_the_schedule(precision, state):
    program = make_program(state=state, hidden=(40, 70), activations=(("mish", ()),), norm="affine")
    states, actions = make_inputs(program, 41)

    def run(rows, seed=0, **kwargs):
        set_device(seed=seed)
        executor = tensor(program, make_options(optimizer=Adam()), precision, **kwargs)
        return refined(executor, states[rows], actions[rows].contiguous(), 2, 0.05, DEVICE)

    whole = run(torch.arange(41))
    for rows in (torch.arange(40, -1, -1), torch.tensor([40]), torch.arange(13, 36)):
        assert torch.equal(run(rows), whole[rows])
    for seed in (1, 2, 3):
        assert torch.equal(run(torch.arange(41), seed), whole)
    for rows in (32, 64):
        assert torch.equal(run(torch.arange(41), tile_rows=rows), whole)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("pick", range(12))
def test_every_step_follows_the_formulas(precision, pick):
    optimizer, gradient, radius = OPTIMIZERS[pick % 7], GRADIENTS[pick % 3], RADII[(pick // 2) % 3]
    check_steps(partial(tensor, precision=precision), optimizer, gradient, radius, DEVICE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("select", SELECTS)
def test_no_steps_or_no_lr_gives_back_the_bits(precision, select):
    check_bits_of_a_0(partial(tensor, precision=precision), select, DEVICE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("pick", range(6))
def test_scale_and_radius_of_each_row(precision, pick):
    check_scale_and_radius(partial(tensor, precision=precision), pick, DEVICE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("pick", range(6))
def test_a_prior_is_climbed_and_q_reported(precision, pick):
    check_prior(
        partial(tensor, precision=precision), pick, DEVICE, bound=2e-2 if precision == "bf16" else 1e-4
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_small_costs_decide_beside_a_large_q(precision):
    check_small_costs(partial(tensor, precision=precision), DEVICE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("check", [check_radius_and_box, check_rows_not_finite])
def test_walks_as_every_kernel(precision, check):
    check(partial(tensor, precision=precision), DEVICE)


@pytest.mark.parametrize("select", SELECTS)
def test_a_gradient_that_is_not_finite_ends_its_row(select):
    check_gradient_not_finite(tensor, select, DEVICE)


def test_repacking_replaces_every_number():
    first, second = (make_program(seed, hidden=(20, 30), norm="affine") for seed in (0, 1))
    states, actions = make_inputs(first, 9)
    executor = tensor(first, make_options(), "bf16x3")
    refined(executor, states, actions, 1, 0.05, DEVICE)
    executor.repack(on_device(second, DEVICE))
    _, info = run_traced(executor, states, actions, 1, 0.05)
    assert_close(second, states, info, "bf16x3")


def test_refusals_say_why():
    program = make_program(hidden=(2048, 2048))
    assert "KiB of shared memory" in tensor(program, make_options()).refusal()
    linear = CriticProgram(17, 6, (make_program(hidden=(), members=1).members[0],))
    assert "member 0 has no hidden layer" in tensor(linear, make_options()).refusal()


@pytest.mark.skipif(DEVICE == "cuda", reason="the rule depends on the GPU")
def test_the_rule_takes_larger_tiles_for_larger_batches():
    set_device(multiprocessors=132)
    executor = tensor(make_program(hidden=(256, 256)), make_options())
    assert [executor.describe_call(b)[0] for b in (1, 4096, 65536)] == [
        f"tensor kernel, tiles of {rows} rows, bf16" for rows in (32, 64, 128)
    ]
    assert executor.refusal() is None
