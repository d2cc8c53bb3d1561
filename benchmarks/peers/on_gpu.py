"""Every way to run a problem on its device, by name; what cannot run here is left out with the reason."""

from collections.abc import Callable
from importlib import util

import dtag_fast
from dtag_fast.ops.refine import Explanation

from ..variants import Call, LeftOut, prepare_each
from . import compiled, cuda_graph, eager, handwritten
from .problem import Problem

REFERENCE = "gradient by hand"


def makers(problem: Problem, with_compile: bool, autotune: bool) -> dict[str, Callable[[], Call]]:
    """name -> what prepares that variant, in the order in which they must be prepared."""
    on_cuda = problem.states.device.type == "cuda"
    found: dict[str, Callable[[], Call]] = {
        REFERENCE: lambda: handwritten.prepare(problem),
        "eager autograd": lambda: eager.prepare(problem),
    }
    for precision in ("highest", "high", "medium"):
        found[f"dtag_fast {precision}"] = lambda precision=precision: ours(problem, precision)
    if on_cuda:
        found["gradient by hand, CUDA graph"] = lambda: cuda_graph.capture(handwritten.prepare(problem))
        found["eager autograd, CUDA graph"] = lambda: cuda_graph.capture(eager.prepare(problem))
    found["jax.jit"] = lambda: with_jax(problem, rolled=False)
    found["jax.jit, fori_loop"] = lambda: with_jax(problem, rolled=True)
    if with_compile:
        found["torch.compile"] = lambda: compiled.prepare(problem)
        if on_cuda:
            found["torch.compile, CUDA graph"] = lambda: cuda_graph.capture(
                compiled.prepare(problem, first=False)
            )
        if autotune:
            found["torch.compile max-autotune"] = lambda: compiled.prepare(
                problem, "max-autotune", first=False
            )
    return found


def ours(problem: Problem, precision: str) -> Call:
    chosen = explain(problem, precision)
    if chosen.backend == "torch":
        raise LeftOut(f"no kernel for it: {chosen}".replace("\n", "; "))
    if precision != "highest" and chosen.precision == explain(problem, "highest").precision:
        raise LeftOut(f"computes in {chosen.precision}, as with highest ({chosen.precision_reason})")
    refiner = dtag_fast.Refiner(problem.critic, steps=problem.steps, lr=problem.lr, precision=precision)
    return lambda: refiner(problem.states, problem.actions)


def precision_of(problem: Problem, name: str) -> str:
    """What a variant computes in: "fp32", "tf32", "bf16". The peers run in fp32."""
    if not name.startswith("dtag_fast "):
        return "fp32"
    return explain(problem, name.removeprefix("dtag_fast ")).precision


def explain(problem: Problem, precision: str) -> Explanation:
    return dtag_fast.explain(
        problem.critic, problem.states, problem.actions, steps=problem.steps, precision=precision
    )


def with_jax(problem: Problem, *, rolled: bool) -> Call:
    if not util.find_spec("jax"):
        raise LeftOut("jax is not installed")
    from . import jax_jit

    if reason := jax_jit.why_not(problem):
        raise LeftOut(reason)
    return jax_jit.prepare(problem, rolled=rolled)


def prepare_all(
    problem: Problem, *, with_compile: bool, autotune: bool, limit: float
) -> tuple[dict[str, Call], dict[str, str]]:
    """(name -> call, name -> why it is left out). Each is called once, within `limit` seconds in all."""
    return prepare_each(makers(problem, with_compile, autotune), limit)
