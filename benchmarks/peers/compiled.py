"""torch.compile of the hand-written gradient: all steps in one graph, for fixed shapes."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import handwritten
from .problem import Problem


def prepare(problem: Problem, mode: str = "default", *, first: bool = True) -> Callable[[], Tensor]:
    """Compiled in one of torch.compile's modes.

    Args:
        first: forget what was compiled before; set for the first of several forms that are to live together.
    """
    members = handwritten.weights(problem.critic, problem.states.shape[1])
    if first:
        torch.compiler.reset()
    loop = torch.compile(handwritten.loop, fullgraph=True, dynamic=False, mode=mode)

    def call() -> Tensor:
        if mode == "max-autotune":  # replays CUDA graphs of its own; the result before may be overwritten
            torch.compiler.cudagraph_mark_step_begin()
        return loop(members, problem.states, problem.actions, problem.steps, problem.lr)

    return call
