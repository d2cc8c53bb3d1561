"""Action Gradient as it is usually written: autograd through the critic module, once per step."""

from collections.abc import Callable

import torch
from torch import Tensor

from .problem import Problem


def prepare(problem: Problem) -> Callable[[], Tensor]:
    def call() -> Tensor:
        action = problem.actions.clamp(-1, 1)
        best, best_q = action, None
        for i in range(problem.steps + 1):
            action = action.detach().requires_grad_(i < problem.steps)
            q = torch.minimum(*problem.critic(problem.states, action)).squeeze(-1)
            if best_q is None:
                best, best_q = action.detach(), q.detach()
            else:
                better = q.detach() > best_q
                best = torch.where(better[:, None], action.detach(), best)
                best_q = torch.where(better, q.detach(), best_q)
            if i < problem.steps:
                (gradient,) = torch.autograd.grad(q.sum(), action)
                action = (action + problem.lr * gradient).clamp(-1, 1)
        return best

    return call
