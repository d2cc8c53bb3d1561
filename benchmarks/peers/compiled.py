"""torch.compile of the hand-written gradient: all steps in one graph, for fixed shapes."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import handwritten
from .problem import Problem


def prepare(problem: Problem) -> Callable[[], Tensor]:
    members = handwritten.weights(problem.critic, problem.states.shape[1])
    torch.compiler.reset()
    loop = torch.compile(handwritten.loop, fullgraph=True, dynamic=False)

    def call() -> Tensor:
        return loop(members, problem.states, problem.actions, problem.steps, problem.lr)

    return call
