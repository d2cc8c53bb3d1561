"""`refine` on a GPU against the usual ways to run the same loop. `--device cpu` is a dry run."""

from collections.abc import Callable

import pytest
import torch

import dtag_fast

from .interleave import measure
from .peers import Problem, compiled, eager, handwritten

REFERENCE = "gradient by hand"
BATCHES = {"cuda": (1, 4096, 65536), "cpu": (1, 64)}


def variants(problem: Problem, device: str, with_compile: bool) -> dict[str, Callable[[], object]]:
    def ours(precision: str) -> Callable[[], object]:
        refiner = dtag_fast.Refiner(problem.critic, steps=problem.steps, lr=problem.lr, precision=precision)
        return lambda: refiner(problem.states, problem.actions)

    found = {
        REFERENCE: handwritten.prepare(problem),
        "eager autograd": eager.prepare(problem),
        "dtag_fast fp32": ours("highest"),
    }
    if with_compile:
        found["torch.compile"] = compiled.prepare(problem)
    if device == "cuda":
        from .peers import cuda_graph

        found["CUDA graph"] = cuda_graph.prepare(problem)
    return found


@pytest.mark.parametrize("row", range(3))
def test_refine_gpu(benchmark, request, row: int):
    device = request.config.getoption("device")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; --device cpu runs it dry")
    if row >= len(BATCHES[device]):
        pytest.skip("the dry run has fewer rows")
    batch = BATCHES[device][row]
    problem = Problem.make(batch, device=device)
    calls = variants(problem, device, not request.config.getoption("without_compile"))
    expected = problem.q(calls["eager autograd"]())
    for name, call in calls.items():
        error = (problem.q(call()) - expected).abs().float()[:4096].quantile(0.99)
        assert error < 1e-3 * expected.abs().max(), f"{name}: Q differs by {error}"
    finish = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    measured = measure(calls, seconds=request.config.getoption("seconds"), finish=finish)
    backend = str(dtag_fast.explain(problem.critic, problem.states))
    benchmark.extra_info |= {"batch": batch, "reference": REFERENCE, "variants": measured, "explain": backend}
    benchmark(lambda: (calls["dtag_fast fp32"](), finish()))
