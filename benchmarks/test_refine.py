"""`Refiner` on the CPU against the usual ways to run the same loop, taking turns in one process.

Each test measures one batch size: `extra_info["variants"]` holds the interleaved times per call, and the
time that pytest-benchmark itself reports is of `Refiner` alone.
"""

import os
from collections.abc import Callable
from importlib import util

import numpy as np
import pytest
import torch

import dtag_fast

from .interleave import cores, measure
from .peers import Problem, compiled, eager, handwritten

REFERENCE = "dtag_fast fp32"

# The thread counts at which torch.compile takes part; it compiles anew for each.
COMPILED = {1: 1, 64: 2, 4096: 2}


def prepared(problem: Problem, precision: str, backend: str | None = "cpu") -> Callable[[], torch.Tensor]:
    refiner = dtag_fast.Refiner(
        problem.critic, steps=problem.steps, lr=problem.lr, precision=precision, backend=backend
    )
    out = torch.empty_like(problem.actions)
    return lambda: refiner(problem.states, problem.actions, out=out)


def variants(problem: Problem, with_compile: bool) -> dict[str, Callable[[], object]]:
    found = {
        REFERENCE: prepared(problem, "highest"),
        "dtag_fast bf16": prepared(problem, "medium"),
        "eager autograd": eager.prepare(problem),
        "gradient by hand": handwritten.prepare(problem),
    }
    if with_compile:
        found["torch.compile"] = compiled.prepare(problem)
    if util.find_spec("jax"):
        from .peers import jax_jit

        found["jax.jit"] = jax_jit.prepare(problem)
    return found


def assert_they_agree(problem: Problem, calls: dict[str, Callable[[], object]]) -> None:
    """The same actions up to rounding; few rows may part where a ReLU or the minimum switches."""
    expected = problem.q(eager.prepare(problem)())
    gain = (expected - problem.q(problem.actions)).mean()
    for name, call in calls.items():
        actual = problem.q(torch.tensor(np.asarray(call())))
        if "bf16" in name:  # its own choice among the iterates, by a Q that is rounded
            lost = (expected - actual).mean()
            assert lost < 0.15 * gain, f"{name}: loses {lost} of a gain of {gain}"
            continue
        error = (actual - expected).abs().quantile(0.99)
        assert error < 1e-3 * gain, f"{name}: Q differs by {error}, gain {gain}"


@pytest.mark.parametrize("threads", [1, 2], ids="threads={}".format)
@pytest.mark.parametrize("batch", [1, 64, 4096], ids="B={}".format)
def test_refine(benchmark, request, batch: int, threads: int):
    if threads > len(os.sched_getaffinity(0)):
        pytest.skip(f"needs {threads} cores")
    with cores(threads):
        problem = Problem.make(batch)
        with_compile = COMPILED[batch] == threads and not request.config.getoption("without_compile")
        calls = variants(problem, with_compile)
        assert_they_agree(problem, calls)
        measured = measure(calls, seconds=request.config.getoption("seconds"))
        benchmark.extra_info |= {
            "batch": batch,
            "threads": threads,
            "reference": REFERENCE,
            "variants": measured,
        }
        benchmark(calls[REFERENCE])


def test_call_overhead(benchmark):
    """A prepared call whose arithmetic is next to nothing: hidden layers of 4 units, one step, one row."""
    with cores(1):
        problem = Problem.make(1, state_dim=2, action_dim=1, hidden=4, steps=1)
        calls = {REFERENCE: prepared(problem, "highest"), "gradient by hand": handwritten.prepare(problem)}
        refiner = dtag_fast.Refiner(problem.critic, steps=1, backend="cpu", precision="highest")
        calls["dtag_fast, no out="] = lambda: refiner(problem.states, problem.actions)
        arrays = problem.states.numpy(), problem.actions.numpy()
        calls["dtag_fast, NumPy, no out="] = lambda: refiner(*arrays)
        calls["dtag_fast.refine"] = lambda: dtag_fast.refine(
            problem.critic, problem.states, problem.actions, steps=1, backend="cpu", precision="highest"
        )
        measured = measure(calls, seconds=1.0)
        benchmark.extra_info |= {"batch": 1, "threads": 1, "reference": REFERENCE, "variants": measured}
        benchmark(calls[REFERENCE])
