"""The gradient written out in torch, the state folded into the first bias: no graph, no weight gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from .problem import Problem, TwinCritic

Weights = list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]


def weights(critic: TwinCritic, state_dim: int) -> Weights:
    """Per member: W1 of the state (H, S) and of the action (H, A), b1, W2 (H, H), b2, w3 (H,), b3 ()."""
    found = []
    for member in (critic.q1, critic.q2):
        w1, w2, w3 = (member[i].weight.detach() for i in (0, 2, 4))
        b1, b2, b3 = (member[i].bias.detach() for i in (0, 2, 4))
        found.append(
            (w1[:, :state_dim].contiguous(), w1[:, state_dim:].contiguous(), b1, w2, b2, w3[0], b3[0])
        )
    return found


def loop(members: Weights, states: Tensor, actions: Tensor, steps: int, lr: float) -> Tensor:
    folded = [torch.addmm(b1, states, w1s.T) for w1s, _, b1, *_ in members]  # (B, H) each
    action = actions.clamp(-1, 1)
    best, best_q = action, torch.full_like(action[:, 0], -torch.inf)
    for i in range(steps + 1):
        qs, gradients = [], []
        for z_state, (_, w1a, _, w2, b2, w3, b3) in zip(folded, members, strict=True):
            z1 = torch.addmm(z_state, action, w1a.T)
            z2 = torch.addmm(b2, z1.relu(), w2.T)
            qs.append(z2.relu() @ w3 + b3)
            if i < steps:
                d1 = ((z2 > 0) * w3) @ w2 * (z1 > 0)
                gradients.append(d1 @ w1a)
        q = torch.minimum(qs[0], qs[1])
        better = q > best_q
        best = torch.where(better[:, None], action, best)
        best_q = torch.where(better, q, best_q)
        if i < steps:
            gradient = torch.where((qs[0] <= qs[1])[:, None], gradients[0], gradients[1])
            action = (action + lr * gradient).clamp(-1, 1)
    return best


def prepare(problem: Problem) -> Callable[[], Tensor]:
    members = weights(problem.critic, problem.states.shape[1])

    @torch.inference_mode()
    def call() -> Tensor:
        return loop(members, problem.states, problem.actions, problem.steps, problem.lr)

    return call
