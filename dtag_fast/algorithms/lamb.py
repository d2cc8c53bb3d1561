"""LAMB (You et al. 2020, arXiv 1904.00962) as Reinformer and Online Decision Transformer use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """Adam with decoupled weight decay and a step length per parameter tensor.

        g <- g * min(1, max_grad_norm / ||all g||)                      the optimizer's own global clip
        m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
        u  = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay * w
        w <- w - lr * (||w|| / ||u||) * u                               ratio 1 when either norm is 0

    The ratio is applied in groups with weight_decay != 0 only, as in the implementations in use. t is counted
    per group, in its entry "step".

    Args:
        params: parameters, or groups of them.
        lr: step length; a 0-dim tensor on the device of the parameters when it changes under capture.
        betas, eps: as in Adam. weight_decay: pull towards 0 inside u.
        max_grad_norm: global L2 norm above which gradients are scaled down, in place.
        capturable: count t on the device and never look at a number from the host, so that a CUDA graph of
            the step can be replayed; all parameters of a group then lie on one device.

    Attributes:
        stacked: whether the first axis of every parameter is that of seeds, of which each has norms of its
            own; set it before the first step.
    """

    stacked = False

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        max_grad_norm: float = 1.0,
        capturable: bool = False,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {betas}")
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm: expected a positive number, got {max_grad_norm}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"capturable": capturable, "step": 0})
        self.max_grad_norm = max_grad_norm

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As every optimizer's."""
        super().add_param_group(param_group)
        _place_count(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("capturable", False)
            # in older states every parameter counts for itself
            counts = [self.state[p].pop("step") for p in group["params"] if "step" in self.state.get(p, ())]
            group.setdefault("step", max(counts, default=0))
            _place_count(group)

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
            capturable = any(group["capturable"] for group in self.param_groups)
            clip_(grads, self.max_grad_norm, capturable, self.stacked)
        for group, params in zip(self.param_groups, groups, strict=True):
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict) -> None:
        for p in params:
            state = self.state[p]
            if not state:
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in params]
        grads = [p.grad for p in params]
        first = [state["exp_avg"] for state in states]
        second = [state["exp_avg_sq"] for state in states]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)

        # With r = sqrt(1 - b2^t), f = r / (1 - b1^t):  u = f (m / (sqrt(v) + r eps) + (weight_decay / f) w).
        # What is kept is u / f: numbers and tensors alike can do that, and a ratio of norms takes the f back.
        group["step"] += 1
        root = (1 - beta2 ** group["step"]) ** 0.5
        factor = root / (1 - beta1 ** group["step"])
        epsilon, decay = root * group["eps"], group["weight_decay"] / factor
        denominators = torch._foreach_sqrt(second)
        if group["capturable"]:
            epsilon, decay, factor = (x.to(params[0].dtype) for x in (epsilon, decay, factor))
            torch._foreach_add_(denominators, epsilon, alpha=1)  # without alpha, the host reads epsilon
        else:
            torch._foreach_add_(denominators, epsilon)
        updates = torch._foreach_mul(params, decay)
        torch._foreach_addcdiv_(updates, first, denominators)
        if group["weight_decay"] != 0:
            lengths = group["lr"] * trust_ratios(params, updates, factor, self.stacked)
            torch._foreach_mul_(updates, _for_each(updates, lengths))
        else:
            torch._foreach_mul_(updates, group["lr"] * factor)
        torch._foreach_sub_(params, updates)


def _place_count(group: dict[str, Any]) -> None:
    """Put t of a group where its capturable says; in float64, as 1 - beta^t loses digits."""
    step, device = int(group["step"]), group["params"][0].device
    group["step"] = torch.tensor(step, dtype=torch.float64, device=device) if group["capturable"] else step


def trust_ratios(
    params: list[Tensor], updates: list[Tensor], otherwise: float | Tensor = 1.0, stacked: bool = False
) -> Tensor:
    """||w|| / ||u|| for each of M pairs, `otherwise` where either norm is 0; (M,), or (M, N) of N seeds."""
    weight_norms, update_norms = _norms(params, stacked), _norms(updates, stacked)
    both = (weight_norms > 0) & (update_norms > 0)
    return torch.where(both, weight_norms / update_norms, otherwise)


def clip_(grads: list[Tensor], max_norm: float, capturable: bool = False, stacked: bool = False) -> Tensor:
    """Scale gradients in place so that their global L2 norm is at most max_norm; returns the norm before.

    Args:
        stacked: the first axis of every gradient is that of N seeds, each of which has its own norm: (N,).
    """
    norm = torch.linalg.vector_norm(_norms(grads, stacked), dim=0)
    # a comparison costs a pass over the gradients less, but on a GPU it would make the host wait
    if stacked:
        factors = (max_norm / norm).clamp(max=1.0).expand(len(grads), -1)
        torch._foreach_mul_(grads, _for_each(grads, factors))
    elif capturable or norm.device.type != "cpu" or norm > max_norm:
        torch._foreach_mul_(grads, (max_norm / norm).clamp(max=1.0))
    return norm


def _norms(tensors: list[Tensor], stacked: bool) -> Tensor:
    """L2 norms of M tensors, (M,), or of the parts of N seeds, (M, N)."""
    if stacked:
        return torch.stack([torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1) for x in tensors])
    return torch.stack(torch._foreach_norm(tensors))


def _for_each(tensors: list[Tensor], factors: Tensor) -> list[Tensor]:
    """Factors (M,) or (M, N) of M tensors (...) or (N, ...), so that they can be multiplied."""
    shaped = zip(tensors, factors.unbind(), strict=True)
    return [
        factor.view(*factor.shape, *[1] * (x.ndim - 1)) if factor.ndim else factor for x, factor in shaped
    ]
