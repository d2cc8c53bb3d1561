"""`refine` on a GPU against the usual ways to run the same loop. `--device cpu` is a dry run.

`extra_info["variants"]` holds the time from the call to the result, waited for; `extra_info["device"]` that
of back-to-back calls between two events, which leaves out the wait but nothing the device idles for.
"""

import numpy as np
import pytest
import torch

from . import roofline
from .interleave import measure
from .peers import Problem
from .peers.on_gpu import REFERENCE, explain, precision_of, prepare_all
from .variants import Call, device_time

DRY_RUN = (1, 64)
AUTOTUNED = (1, 4096)  # a search takes most of a minute
# Of the largest Q.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


def disagreements(problem: Problem, calls: dict[str, Call]) -> dict[str, str]:
    """name -> how it differs from autograd: the same Q up to rounding, in 99 of 100 rows."""
    expected = problem.q(calls["eager autograd"]())
    found = {}
    for name, call in calls.items():
        result = call()
        if not isinstance(result, torch.Tensor):
            result = torch.tensor(np.asarray(result)).to(problem.actions.device)
        error = (problem.q(result) - expected).abs().float()[:4096].quantile(0.99)
        bound = TOLERANCE.get(precision_of(problem, name), 1e-2) * expected.abs().max()
        if not error < bound:  # so that NaN is found
            found[name] = f"Q differs by {error:.3g}, at most {bound:.3g} is rounding"
    return found


@pytest.mark.parametrize("batch", [1, 64, 4096, 65536], ids="B={}".format)
def test_refine_gpu(benchmark, request, batch: int):
    device = request.config.getoption("device")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; --device cpu runs it dry")
    if device == "cpu" and batch not in DRY_RUN:
        pytest.skip("the dry run has small batches only")
    problem = Problem.make(batch, device=device)
    calls, left_out = prepare_all(
        problem,
        with_compile=not request.config.getoption("without_compile"),
        autotune=device == "cuda" and batch in AUTOTUNED,
        limit=request.config.getoption("prepare_seconds"),
    )
    wrong = disagreements(problem, calls)
    left_out |= wrong
    calls = {name: call for name, call in calls.items() if name not in wrong}
    for name, reason in left_out.items():
        print(f"B={batch}: {name} left out: {reason}")

    finish = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    waited = {name: lambda call=call: (call(), finish()) for name, call in calls.items()}
    # A wrong REFERENCE is an error of the benchmark itself.
    benchmark.extra_info |= {
        "batch": batch,
        "reference": REFERENCE,
        "variants": measure(waited, seconds=request.config.getoption("seconds")),
        "left_out": left_out,
        "flops": roofline.flops(problem),
        "precisions": {name: precision_of(problem, name) for name in calls},
        "explain": str(explain(problem, "highest")),
    }
    if device == "cuda":
        on_torch = {name: call for name, call in calls.items() if not name.startswith("jax")}
        benchmark.extra_info["device"] = {name: device_time(call) for name, call in on_torch.items()}
        benchmark.extra_info["device_name"] = torch.cuda.get_device_name()
    ours = next((name for name in calls if name.startswith("dtag_fast")), REFERENCE)
    benchmark(waited[ours])
    assert not wrong, wrong
