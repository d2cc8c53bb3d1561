"""The contract of `refine`, for every backend this machine has."""

import math
from functools import partial

import numpy as np
import pytest
import small_critics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_critics import BACKENDS, A, Ensemble, S, backends, ensemble, exact_q, linear_program, quiet
from torch import nn

from dtag_fast import SGD, ClipNorm, CriticProgram, Radius, Refiner, refine
from dtag_fast.ops.refine.program import Activation, Linear
from dtag_fast.ops.refine.reference import evaluate_program

pytestmark = quiet
inputs = partial(small_critics.inputs, scale=0.9)


# Rows: own steps, own step size, nothing shared


@backends
def test_steps_and_lr_per_row_equal_separate_calls(backend):
    critic, (states, actions) = ensemble(), inputs(12)
    steps = torch.tensor([0, 1, 5, 9] * 3)
    lr = torch.linspace(0.01, 0.2, 12)
    together, info = refine(
        critic, states, actions, steps=steps, lr=lr, optimizer="adam", backend=backend, return_info="trace"
    )
    assert info.trace_q.shape == (10, 12)
    for i in range(12):
        n = int(steps[i])
        row = slice(i, i + 1)
        alone = refine(
            critic, states[row], actions[row], steps=n, lr=float(lr[i]), optimizer="adam", backend=backend
        )
        torch.testing.assert_close(together[row], alone, rtol=0, atol=2e-5)
        assert info.trace_q[: n + 1, i].isfinite().all() and info.trace_q[n + 1 :, i].isnan().all()
        assert info.trace_actions[n + 1 :, i].isnan().all()


@backends
def test_lr_per_dimension(backend):
    program = linear_program([1.0, 1.0, 1.0])
    states, actions = torch.zeros(2, 2), torch.zeros(2, 3)
    per_dimension = refine(program, states, actions, steps=2, lr=[0.1, 0.0, 0.2], backend=backend)
    torch.testing.assert_close(per_dimension, torch.tensor([[0.2, 0.0, 0.4]]).expand(2, 3))
    both = torch.tensor([[0.1, 0.0, 0.2], [0.0, 0.05, 0.0]])
    torch.testing.assert_close(refine(program, states, actions, steps=2, lr=both, backend=backend), 2 * both)
    per_row = refine(program, states, actions, steps=2, lr=torch.tensor([[0.1], [0.2]]), backend=backend)
    torch.testing.assert_close(per_row, torch.tensor([[0.2], [0.4]]).expand(2, 3))


@backends
@pytest.mark.parametrize("rows", [1, 2, 7, 33, 130])
def test_other_rows_change_no_bit(backend, rows):
    critic, (states, actions) = ensemble(), inputs(rows)
    clean = refine(critic, states, actions, backend=backend)
    states, actions = states.clone(), actions.clone()
    states[1::3], actions[2::3] = torch.inf, torch.nan
    dirty = refine(critic, states, actions, backend=backend)
    untouched = [i for i in range(rows) if i % 3 == 0]
    assert torch.equal(clean[untouched], dirty[untouched])


@backends
def test_rows_without_a_finite_start_come_back(backend):
    critic, (states, actions) = ensemble(), inputs(4, scale=0.5)
    states[1, 0], states[2, 1] = torch.nan, torch.inf
    for select in ("best", "last"):
        refined, info = refine(critic, states, actions, select=select, backend=backend, return_info="trace")
        assert torch.equal(refined[1:3], actions[1:3])
        assert info.best_index[1:3].tolist() == [0, 0] and not info.q_0[1:3].isfinite().any()
        assert info.trace_q[1:, 1:3].isnan().all()
        assert (refined[[0, 3]] != actions[[0, 3]]).any(1).all()


@backends
def test_non_finite_later_iterates_never_win(backend):
    """Q overflows on the way: "best" keeps the last finite rise, "last" stops where the gradient does."""
    weight = torch.tensor([[0.0, 1e18]])
    program = CriticProgram(
        1, 1, [[Linear(weight), Activation("elu", (1.0,)), Linear(torch.tensor([[1e18]]))]]
    )
    states, actions = torch.zeros(1, 1), torch.tensor([[1.0]])
    refined, info = refine(
        program, states, actions, steps=5, lr=1.0, bounds=None, backend=backend, return_info="trace"
    )
    assert info.q_best.isfinite().all() and refined.isfinite().all()
    assert info.best_index.item() == 0 and torch.equal(refined, actions)


@backends
def test_unit_and_clip_survive_extreme_gradients(backend):
    for size in (1e-25, 1e25):
        program = linear_program([3.0 * size, 4.0 * size])
        states, actions = torch.zeros(1, 2), torch.zeros(1, 2)
        for gradient, length in (("unit", 1.0), (ClipNorm(0.5), min(0.5, 5 * size))):
            refined = refine(
                program, states, actions, steps=1, lr=0.1, gradient=gradient, select="last", backend=backend
            )
            torch.testing.assert_close(refined, torch.tensor([[0.6, 0.8]]) * length * 0.1, rtol=1e-5, atol=0)


@backends
def test_never_worse(backend):
    critic, (states, actions) = (
        Ensemble(2, nn.ReLU, seed=3),
        inputs(100_000 if backend == "cpu" else 10_000, scale=1.0),
    )
    for options in ({"lr": 0.03}, {"lr": 3.0}, {"lr": 0.3, "optimizer": "adam"}):
        refined, info = refine(critic, states, actions, backend=backend, return_info=True, **options)
        assert (info.q_best >= info.q_0).all()
        before, _ = exact_q(critic, states, actions)
        after, _ = exact_q(critic, states, refined)
        assert (after >= before - 1e-6).all()
        assert refined.abs().max() <= 1


@backends
def test_earlier_calls_leave_nothing_behind(backend):
    """Not-a-number in one call must not reach the next through reused memory, whatever its shape."""
    critic, (states, actions) = ensemble(), inputs(130)
    states[::2] = torch.nan
    narrow = CriticProgram(
        1, 1, [[Linear(torch.tensor([[0.0, 2.0]])), Activation("elu", (1.0,)), Linear(torch.tensor([[3.0]]))]]
    )
    for rows in (1, 3, 130):
        refine(critic, states, actions, backend=backend)
        _, info = refine(
            narrow, torch.zeros(rows, 1), torch.ones(rows, 1), steps=1, return_info=True, backend=backend
        )
        assert info.q_0.tolist() == [6.0] * rows


@backends
def test_deterministic(backend):
    critic, (states, actions) = ensemble(), inputs(50)
    results = [refine(critic, states, actions, optimizer="adam", backend=backend) for _ in range(3)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


# Candidates


@backends
@pytest.mark.parametrize("select", ["best", "last"])
def test_candidates_equal_separate_refinements(backend, select):
    critic, (states, _) = ensemble(), inputs(6)
    candidates = torch.rand(6, 4, A, generator=torch.Generator().manual_seed(2)) * 2 - 1
    refined, info = refine(critic, states, candidates, select=select, backend=backend, return_info="trace")
    assert refined.shape == (6, A) and info.trace_actions.shape == (11, 6, 4, A)
    for m in range(4):
        alone, single = refine(
            critic, states, candidates[:, m].contiguous(), select=select, backend=backend, return_info=True
        )
        torch.testing.assert_close(info.candidate_q_best[:, m], single.q_best, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(info.candidate_q_0[:, m], single.q_0, rtol=1e-5, atol=1e-6)
        won = info.best_candidate == m
        torch.testing.assert_close(refined[won], alone[won], rtol=0, atol=1e-5)
    assert torch.equal(info.q_best, info.candidate_q_best.max(1).values)
    assert torch.equal(info.best_candidate, info.candidate_q_best.argmax(1))


@backends
def test_candidates_that_are_not_finite_lose(backend):
    critic, (states, actions) = ensemble(), inputs(3)
    candidates = torch.stack([torch.full_like(actions, torch.nan), actions], 1)
    refined, info = refine(critic, states, candidates, backend=backend, return_info=True)
    assert info.best_candidate.tolist() == [1, 1, 1] and refined.isfinite().all()


# Types, shapes, layouts


@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_come_back_as_they_went(backend, dtype):
    critic, (states, actions) = ensemble(), inputs(8)
    low = refine(critic, states.to(dtype), actions.to(dtype), steps=5, backend=backend)
    full = refine(critic, states.to(dtype).float(), actions.to(dtype).float(), steps=5, backend=backend)
    assert low.dtype is dtype
    torch.testing.assert_close(
        low.float(), full.to(dtype).float(), rtol=1e-2 if dtype is torch.bfloat16 else 1e-3, atol=1e-6
    )


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("select", ["best", "last"])
def test_no_step_gives_back_the_bits(backend, dtype, select):
    critic, (states, _) = ensemble(), inputs(5)
    actions = (torch.rand(5, A, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(
        dtype
    )
    for options in ({"steps": 0}, {"lr": 0.0}):
        refined = refine(critic, states, actions, select=select, backend=backend, **options)
        assert refined.dtype is dtype and torch.equal(refined, actions)
    candidates = actions[:, None].expand(5, 2, A)
    assert torch.equal(refine(critic, states, candidates, steps=0, backend=backend), actions)


@backends
def test_bounds_hold_in_every_dtype(backend):
    program = linear_program([1.0, -1.0])
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        low, high = (torch.tensor(x, dtype=torch.float64).to(dtype) for x in (-0.3, 0.1))
        states, actions = torch.zeros(2, 2, dtype=dtype), torch.zeros(2, 2, dtype=dtype)
        refined = refine(program, states, actions, lr=1.0, bounds=(-0.3, 0.1), backend=backend)
        assert torch.equal(refined, torch.stack([high, low]).expand(2, 2))


@backends
def test_numpy_in_numpy_out(backend):
    critic, (states, actions) = ensemble(), inputs(4)
    expected = refine(critic, states, actions, backend=backend)
    for dtype in (np.float32, np.float64):
        s, a = states.numpy().astype(dtype), actions.numpy().astype(dtype)
        a.flags.writeable = False
        refined, details = refine(critic, s, a, backend=backend, return_info=True)
        assert isinstance(refined, np.ndarray) and refined.dtype == dtype
        assert isinstance(details.q_best, np.ndarray)
        np.testing.assert_allclose(refined, expected.numpy(), atol=1e-6)
    np.testing.assert_array_equal(
        refine(critic, states.numpy()[::-1], actions.numpy()[::-1], backend=backend)[::-1], expected
    )


@backends
def test_one_state(backend):
    critic, (states, actions) = ensemble(), inputs(1)
    rows, info = refine(critic, states, actions, backend=backend, return_info="trace")
    one, details = refine(critic, states[0], actions[0], backend=backend, return_info="trace")
    assert one.shape == (A,) and torch.equal(one, rows[0])
    assert details.q_0.shape == () and torch.equal(details.trace_actions, info.trace_actions[:, 0])


@backends
def test_no_rows(backend):
    refined, info = refine(
        Ensemble(), torch.empty(0, S), torch.empty(0, A), backend=backend, return_info="trace"
    )
    assert refined.shape == (0, A) and info.q_0.shape == (0,) and info.trace_actions.shape == (11, 0, A)
    assert refine(ensemble(), torch.empty(0, S), torch.empty(0, 3, A), backend=backend).shape == (0, A)


@backends
def test_inputs_stay_and_out_is_filled(backend):
    critic, (states, actions) = ensemble(), inputs(6)
    kept = states.clone(), actions.clone()
    refiner = Refiner(critic, backend=backend)
    expected = refiner(states, actions)
    assert torch.equal(states, kept[0]) and torch.equal(actions, kept[1])
    out = torch.empty(6, A)
    assert refiner(states, actions, out=out) is out and torch.equal(out, expected)
    strided = torch.empty(6, 2 * A)[:, ::2]
    assert torch.equal(refiner(states, actions, out=strided), expected) and torch.equal(strided, expected)
    for dtype in (np.float32, np.float64):
        array = np.empty((6, A), dtype)
        refiner(states.numpy(), actions.numpy().astype(dtype), out=array)
        np.testing.assert_allclose(array, expected.numpy(), atol=1e-6)
    in_place = actions.clone()
    assert torch.equal(refiner(states, in_place, out=in_place), expected)


@backends
def test_autograd_modes_do_not_matter(backend):
    critic, (states, actions) = ensemble(), inputs(5)
    expected = refine(critic, states, actions, backend=backend)
    with torch.no_grad():
        assert torch.equal(refine(critic, states, actions, backend=backend), expected)
    with torch.inference_mode():
        fresh = states.clone(), actions.clone()
        assert torch.equal(refine(critic, *fresh, backend=backend), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(refine(critic, states, actions, backend=backend), expected)
    leaf = actions.clone().requires_grad_()
    refined = refine(critic, states, leaf, backend=backend)
    assert not refined.requires_grad and torch.equal(refined, expected)
    assert all(p.grad is None for p in critic.parameters())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_stride_dtype_and_option(data):
    """Each backend agrees with the plain contiguous float32 call, and keeps the promises of every call."""
    draw = data.draw
    backend = draw(st.sampled_from(BACKENDS))
    rows, state_dim = draw(st.integers(1, 40)), draw(st.sampled_from([1, 6, 17, 40]))
    action_dim = draw(st.sampled_from([1, 3, 8, 20]))
    members, dtype = (
        draw(st.integers(1, 3)),
        draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
    )
    critic = ensemble(members, draw(st.sampled_from([nn.ReLU, nn.Tanh])), 7, state_dim, action_dim)
    states, actions = inputs(rows, draw(st.integers(0, 9)), state_dim, action_dim)
    states, actions = states.to(dtype), actions.to(dtype)
    layout = draw(st.sampled_from(["rows", "columns", "misaligned", "transposed"]))

    def relaid(x):
        if layout == "rows":
            return torch.stack([x, x], 1)[:, 0]
        if layout == "columns":
            return torch.stack([x, x], 2)[:, :, 1]
        if layout == "misaligned":
            return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)
        return x.t().contiguous().t()

    options = {
        "steps": draw(st.integers(0, 6)),
        "lr": draw(st.sampled_from([0.0, 0.02, 0.5])),
        "optimizer": draw(st.sampled_from(["sgd", "adam", "rmsprop", SGD(0.9, nesterov=True)])),
        "gradient": draw(st.sampled_from(["raw", "unit", ClipNorm(0.1)])),
        "radius": draw(st.sampled_from([None, 0.2, Radius(0.2, "l2")])),
        "reduce": draw(st.sampled_from(["min", "mean", members - 1])),
        "select": draw(st.sampled_from(["best", "last"])),
        "bounds": draw(st.sampled_from([None, (-1, 1), (-0.5, 0.25)])),
    }
    plain, info = refine(critic, states, actions, backend=backend, return_info=True, **options)
    other = refine(critic, relaid(states), relaid(actions), backend=backend, **options)
    assert torch.equal(plain, other)
    assert plain.shape == actions.shape and plain.dtype is dtype
    low, high = options["bounds"] or (-math.inf, math.inf)
    assert (plain >= torch.tensor(low).to(dtype)).all() and (plain <= torch.tensor(high).to(dtype)).all()
    if options["radius"] is not None and options["bounds"] is None:
        reach = (plain.float() - actions.float()).norm(
            dim=1, p=2 if isinstance(options["radius"], Radius) else math.inf
        )
        assert (reach <= 0.2 + (1e-5 if dtype is not torch.bfloat16 else 2e-2)).all()
    if options["select"] == "best":
        assert (info.q_best >= info.q_0).all()


def test_program_reductions_replace_the_callers():
    torch.manual_seed(0)
    weights = [torch.randn(1, S + A) for _ in range(3)]
    states, actions = inputs(7)
    for reduction in ("min", "mean", "max"):
        program = CriticProgram(S, A, [[Linear(w)] for w in weights], reduction)
        q = evaluate_program(program, states, actions)
        every = torch.cat([states, actions], 1) @ torch.cat(weights).T
        expected = {"min": every.min(1).values, "mean": every.mean(1), "max": every.max(1).values}[reduction]
        torch.testing.assert_close(q, expected[None])
        first = refine(program, states, actions, backend="torch", reduce="min")
        second = refine(program, states, actions, backend="torch", reduce=0)
        assert torch.equal(first, second)
