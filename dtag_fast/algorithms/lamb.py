"""LAMB (You et al. 2020, arXiv 1904.00962) as Reinformer and Online Decision Transformer use it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """Adam with decoupled weight decay and a step length per parameter tensor.

        g <- g * min(1, max_grad_norm / ||all g||)                      the optimizer's own global clip
        m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
        u  = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay * w
        w <- w - lr * (||w|| / ||u||) * u                               ratio 1 when either norm is 0

    The ratio is applied in groups with weight_decay != 0 only, as in the implementations in use.

    Args:
        params: parameters, or groups of them.
        lr: step length. betas, eps: as in Adam. weight_decay: pull towards 0 inside u.
        max_grad_norm: global L2 norm above which gradients are scaled down, in place.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        max_grad_norm: float = 1.0,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {betas}")
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm: expected a positive number, got {max_grad_norm}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self, closure=None):
        """One update from the gradients in place; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        grads = [p.grad for params in groups for p in params]
        if grads:
            clip_(grads, self.max_grad_norm)
        for group, params in zip(self.param_groups, groups, strict=True):
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict) -> None:
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
        states = [self.state[p] for p in params]
        grads = [p.grad for p in params]
        first = [state["exp_avg"] for state in states]
        second = [state["exp_avg_sq"] for state in states]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)

        # with r = sqrt(c2):  (m / c1) / (sqrt(v / c2) + eps) = (r / c1) m / (sqrt(v) + r eps)
        roots = [(1 - beta2 ** state["step"]) ** 0.5 for state in states]
        factors = [r / (1 - beta1 ** state["step"]) for r, state in zip(roots, states, strict=True)]
        denominators = torch._foreach_sqrt(second)
        torch._foreach_add_(denominators, [r * group["eps"] for r in roots])
        updates = torch._foreach_mul(params, group["weight_decay"])
        torch._foreach_addcdiv_(updates, first, denominators, factors)
        if group["weight_decay"] != 0:
            torch._foreach_mul_(updates, trust_ratios(params, updates))
        torch._foreach_add_(params, updates, alpha=-group["lr"])


def trust_ratios(params: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """||w|| / ||u|| for each pair, 1 where either norm is 0; 0-dim tensors."""
    weight_norms = torch.stack(torch._foreach_norm(params))
    update_norms = torch.stack(torch._foreach_norm(updates))
    both = (weight_norms > 0) & (update_norms > 0)
    return list(torch.where(both, weight_norms / update_norms, torch.ones_like(weight_norms)).unbind())


def clip_(grads: list[Tensor], max_norm: float) -> Tensor:
    """Scale gradients in place so that their global L2 norm is at most max_norm; returns the norm before."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    # a comparison costs a pass over the gradients less, but on a GPU it would make the host wait
    if norm.device.type != "cpu" or norm > max_norm:
        torch._foreach_mul_(grads, (max_norm / norm).clamp(max=1.0))
    return norm
