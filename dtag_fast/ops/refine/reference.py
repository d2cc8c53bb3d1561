"""Action Gradient in plain torch: the oracle of every backend, and the backend of last resort.

Any dtype, any device, any differentiable critic. The loop is the paper's (arXiv 2510.05285):

    a_{i+1} = project(a_i + update(dQ/da(s, a_i))),   result = the a_i of greatest Q(s, a_i)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .executor import InfoBuffers
from .options import SGD, Adam, ClipNorm, Radius, RefineOptions
from .program import Activation, CriticProgram, LayerNorm, Linear

Members = Callable[[Tensor, Tensor], Tensor]  # (N, S), (N, A) -> (E, N)


class Iterates(NamedTuple):
    """What the loop leaves: of each row the returned iterate, its Q and index, Q at the start, the trace."""

    actions: Tensor  # (N, A)
    q: Tensor  # (N,)
    index: Tensor  # (N,) int32
    q_0: Tensor  # (N,)
    trace_actions: Tensor | None  # (n+1, N, A)
    trace_q: Tensor | None  # (n+1, N)
    trace_grad: Tensor | None  # (n+1, N, A)


def action_gradient(
    members: Members,
    states: Tensor,
    actions: Tensor,
    options: RefineOptions,
    *,
    steps: int | Tensor,
    lr: float | Tensor,
    scale: float | Tensor | None = None,
    radius: Tensor | None = None,
    prior_mean: float | Tensor = 0.0,
    prior_weight: float | Tensor = 0.0,
    trace: bool = False,
) -> Iterates:
    """Run the loop in the dtype of `actions`.

    Args:
        members: (states (N, S), actions (N, A)) -> Q of every ensemble member (E, N), differentiable in
            actions.
        steps: int or (N,). lr: number or broadcastable to (N, A). scale: the same, or None for 1. radius:
            limits of rows (N,) in place of the options', or None. prior_mean: number or broadcastable to
            (N, A). prior_weight: number or (N,); 0 is no prior.

    Returns:
        Iterates, as executor.py defines them.
    """
    low, high = (_bound(bound, actions) for bound in (options.low, options.high))
    a_0 = a = actions.clamp(low, high) if low is not None else actions.clone()
    n = int(steps.max()) if isinstance(steps, Tensor) else steps
    update, state, ball = options.optimizer, None, options.radius
    limit = None if ball is None else ball.limit if radius is None else radius[:, None]
    prior = None if _is_zero(prior_weight) else (prior_mean, prior_weight, scale)
    cost = best_cost = 0.0  # Q - F
    running = torch.ones(len(a), dtype=torch.bool, device=a.device)  # rows that have an iterate i
    traces: list[tuple[Tensor, Tensor, Tensor]] = []

    for i in range(n + 1):
        q, g = value_and_gradient(members, states, a, options.reduce)
        if prior is not None:
            cost = prior_cost(a, *prior)
        if i == 0:
            q_0, best, best_cost = q, (a, q, torch.zeros_like(q, dtype=torch.int32)), cost
            startable = (q - cost).isfinite()
        higher = (q > best[1]) if prior is None else q - best[1] > cost - best_cost
        takes = running & ((q - cost).isfinite() & higher if options.select == "best" else i > 0)
        best = (
            torch.where(takes[:, None], a, best[0]),
            torch.where(takes, q, best[1]),
            torch.where(takes, i, best[2]),
        )
        if prior is not None:
            best_cost = torch.where(takes, cost, best_cost)
        if trace:
            traces.append(tuple(_keep(running, x) for x in (a, q, g)))
        g = g if scale is None else g * scale
        g = g if prior is None else g - prior_pull(a, *prior)
        running = running & startable & (i < steps) & g.isfinite().all(-1)
        delta, state = optimizer_step(update, shape_gradient(g, options.gradient), lr, state)
        a_next = project(along(a, delta, scale), a_0, ball, low, high, limit, scale)
        a = torch.where(running[:, None], a_next, a)

    stacked = [torch.stack(x) for x in zip(*traces, strict=True)] if trace else (None, None, None)
    return Iterates(best[0], best[1], best[2], q_0, *stacked)


def value_and_gradient(members: Members, states: Tensor, actions: Tensor, reduce: str | int):
    """Reduced Q (N,) and its action gradient (N, A)."""
    no_autocast = torch.autocast(
        actions.device.type, enabled=False
    )  # precision is not the surroundings' choice
    with torch.inference_mode(False), torch.enable_grad(), no_autocast:
        a = actions.detach().clone().requires_grad_()
        q = reduce_members(members(states.clone() if states.is_inference() else states, a), reduce)
        if not q.requires_grad:
            raise ValueError(
                "critic: its Q carries no gradient with respect to the actions; "
                "remove no_grad or detach from its forward pass"
            )
        (g,) = torch.autograd.grad(q.sum(), a, allow_unused=True)
    return q.detach().to(actions.dtype), torch.zeros_like(actions) if g is None else g


def reduce_members(q: Tensor, reduce: str | int) -> Tensor:
    """(E, N) -> (N,): smallest (first on ties), largest, mean, or one member."""
    if reduce == "min":
        return q.min(dim=0).values
    if reduce == "max":
        return q.max(dim=0).values
    return q.mean(dim=0) if reduce == "mean" else q[reduce]


def _norm(x: Tensor) -> Tensor:
    """Euclidean length (N, 1), safe from overflow and underflow."""
    largest = x.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)
    return scale * (x / scale).square().sum(-1, keepdim=True).sqrt()


def shape_gradient(g: Tensor, gradient: str | ClipNorm) -> Tensor:
    """Apply "raw", "unit" or ClipNorm to each row."""
    if gradient == "raw":
        return g
    norm = _norm(g)
    if gradient == "unit":
        return g / torch.where(norm > 0, norm, 1.0)
    return g * (gradient.limit / torch.where(norm > 0, norm, 1.0)).clamp(max=1.0)


def optimizer_step(optimizer, g: Tensor, lr: float | Tensor, state):
    """One ascent step: the change of `a` and the new state (None at the start), formulas of torch.optim."""
    if isinstance(optimizer, SGD):
        if optimizer.momentum == 0:
            return lr * g, None
        m = g if state is None else optimizer.momentum * state + g
        return lr * (g + optimizer.momentum * m if optimizer.nesterov else m), m
    if isinstance(optimizer, Adam):
        (b1, b2), (t, m, v) = optimizer.betas, state or (0, torch.zeros_like(g), torch.zeros_like(g))
        t, m, v = t + 1, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        return lr / (1 - b1**t) * m / (v.sqrt() / (1 - b2**t) ** 0.5 + optimizer.eps), (t, m, v)
    v = optimizer.alpha * (torch.zeros_like(g) if state is None else state) + (1 - optimizer.alpha) * g * g
    return lr * g / (v.sqrt() + optimizer.eps), v


def prior_cost(
    a: Tensor, mean: float | Tensor, weight: float | Tensor, scale: float | Tensor | None
) -> Tensor:
    """Q - F (N,) of actions (N, A): weight * (1/A) * sum_k ((a_k - mean_k) / scale_k)^2.

    Args:
        mean: number or broadcastable to (N, A). weight: number or (N,). scale: as mean, or None for 1; a
            dimension of scale 0 adds nothing.
    """
    weight = torch.as_tensor(weight, dtype=a.dtype, device=a.device)
    return torch.where(weight > 0, weight * _from_mean(a, mean, scale).square().mean(-1), 0.0)


def prior_pull(
    a: Tensor, mean: float | Tensor, weight: float | Tensor, scale: float | Tensor | None
) -> Tensor:
    """What it takes from dQ/du, (N, A): 2 * weight * ((a - mean) / scale) / A."""
    weight = torch.as_tensor(weight, dtype=a.dtype, device=a.device)[..., None]
    return torch.where(weight > 0, 2 * weight / a.shape[-1] * _from_mean(a, mean, scale), 0.0)


def _from_mean(a: Tensor, mean: float | Tensor, scale: float | Tensor | None) -> Tensor:
    if scale is None:
        return a - mean
    unit = torch.as_tensor(scale, dtype=a.dtype, device=a.device)
    return torch.where(unit == 0, 0.0, (a - mean) / unit)


def _is_zero(weight: float | Tensor) -> bool:
    return not isinstance(weight, Tensor) and weight == 0


def along(a: Tensor, delta: Tensor, scale: float | Tensor | None) -> Tensor:
    """a moved by `delta` in u, where a = a_0 + scale * u; a dimension of scale 0 keeps its bits."""
    if scale is None:
        return a + delta
    return torch.where(torch.as_tensor(scale, device=a.device) == 0, a, a + scale * delta)


def project(
    a: Tensor,
    a_0: Tensor,
    radius: Radius | None,
    low: Tensor | None,
    high: Tensor | None,
    limit: float | Tensor | None = None,
    scale: float | Tensor | None = None,
) -> Tensor:
    """Onto the ball around a_0, then into the box. a_0 is in the box, so both hold afterwards.

    The ball is one of u = (a - a_0) / scale; a dimension of scale 0 has no part in its norm.

    Args:
        limit: in place of the radius' own, a number or broadcastable to (N, 1).
        scale: a number or broadcastable to (N, A), None for 1.
    """
    if radius is not None:
        limit = radius.limit if limit is None else limit
        unit = None if scale is None else torch.as_tensor(scale, dtype=a.dtype, device=a.device)
    if radius is not None and radius.norm == "inf":
        reach = limit if unit is None else torch.where(unit == 0, 0.0, limit * unit)  # inf * 0 is NaN
        a = torch.minimum(torch.maximum(a, a_0 - reach), a_0 + reach)
    elif radius is not None:
        d = a - a_0
        norm = _norm(d if unit is None else torch.where(unit == 0, 0.0, d / unit))
        outside = norm > limit if unit is None else (norm > limit) & (unit != 0)
        a = torch.where(outside, a_0 + d * (limit / norm), a)
    return a if low is None else a.clamp(low, high)


def _bound(bound, like: Tensor) -> Tensor | None:
    return None if bound is None else torch.as_tensor(bound, dtype=like.dtype, device=like.device)


def _keep(rows: Tensor, x: Tensor) -> Tensor:
    return torch.where(rows if x.ndim == 1 else rows[:, None], x, torch.nan)


_FUNCTIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "softplus": F.softplus,
}


def evaluate_program(program: CriticProgram, states: Tensor, actions: Tensor) -> Tensor:
    """Q of every output of a program, (E, N), or (1, N) when it reduces itself, in its inputs' dtype."""
    inputs = torch.cat([states, actions], -1)

    def cast(t):
        return None if t is None else t.to(inputs.dtype)

    q = []
    for layers in program.members:
        x = inputs
        for layer in layers:
            if isinstance(layer, Linear):
                x = F.linear(x, cast(layer.weight), cast(layer.bias))
            elif isinstance(layer, LayerNorm):
                x = F.layer_norm(x, (layer.width,), cast(layer.weight), cast(layer.bias), layer.eps)
            elif isinstance(layer, Activation):
                x = _FUNCTIONS[layer.kind](x, *layer.params)
        q.append(x[:, 0])
    q = torch.stack(q)
    return q if program.reduction is None else reduce_members(q, program.reduction)[None]


def _each_variant(
    members: Members,
    states: Tensor,
    actions: Tensor,
    options: tuple[RefineOptions, ...],
    variant: Tensor | None,
    numbers: dict,
    trace: bool,
) -> Iterates:
    """Iterates of rows (N,) under the options that `variant` (N,) names, one loop for each of them."""
    if len(options) == 1:
        return action_gradient(members, states, actions, options[0], **numbers, trace=trace)
    steps, total = numbers["steps"], len(actions)
    n = int(steps.max()) if isinstance(steps, Tensor) else steps
    scalars = [torch.empty_like(actions[:, 0]) for _ in range(2)]
    traces = [None] * 3
    if trace:
        shapes = [actions.shape, (total,), actions.shape]
        traces = [actions.new_full((n + 1, *shape), torch.nan) for shape in shapes]
    index = torch.empty(total, dtype=torch.int32, device=actions.device)
    whole = Iterates(torch.empty_like(actions), scalars[0], index, scalars[1], *traces)
    nearest = variant.clamp(0, len(options) - 1)
    for position in nearest.unique().tolist():
        rows = torch.nonzero(nearest == position)[:, 0]
        own = {
            name: x[rows] if isinstance(x, Tensor) and len(x) == total else x for name, x in numbers.items()
        }
        found = action_gradient(members, states[rows], actions[rows], options[position], **own, trace=trace)
        for target, part in zip(whole[:4], found[:4], strict=True):
            target[rows] = part
        for target, part in zip(whole[4:], found[4:], strict=True):
            if trace:
                target[: len(part), rows] = part
    return whole


class TorchExecutor:
    """The "torch" backend: the loop above over a callable `members`, in the dtype the inputs come in."""

    name = "torch"

    def __init__(self, members: Members, options: RefineOptions) -> None:
        self.members = members
        self.options = options

    def run(
        self,
        states,
        actions,
        out,
        *,
        steps,
        lr,
        scale=None,
        radius=None,
        variant=None,
        prior_mean=0.0,
        prior_weight=0.0,
        info: InfoBuffers | None = None,
    ) -> None:
        batch, candidates, width = actions.shape

        def per_candidate(x):
            rowwise = isinstance(x, Tensor) and len(x) == batch
            return x.repeat_interleave(candidates, 0) if rowwise and candidates > 1 else x

        numbers = {"steps": steps, "lr": lr, "scale": scale, "radius": radius}
        numbers |= {"prior_mean": prior_mean, "prior_weight": prior_weight}
        numbers = {name: per_candidate(value) for name, value in numbers.items()}
        result = _each_variant(
            self.members,
            per_candidate(states),
            actions.reshape(-1, width),
            self.options.each(),
            per_candidate(variant),
            numbers,
            trace=info is not None and info.trace_q is not None,
        )
        q = result.q.view(batch, candidates)
        finite, compared = q.isfinite(), q
        if not _is_zero(prior_weight):
            prior = (numbers[name] for name in ("prior_mean", "prior_weight", "scale"))
            cost = prior_cost(result.actions, *prior).view(batch, candidates)
            finite = (q - cost).isfinite()
            # From the greatest Q on: a cost is not lost beside the difference.
            compared = q - torch.where(finite, q, -torch.inf).amax(1, keepdim=True) - cost
        winner = torch.where(finite, compared, -torch.inf).argmax(1)  # candidate 0 when none is finite
        rows = torch.arange(batch, device=winner.device)
        out.copy_(result.actions.view(batch, candidates, width)[rows, winner])
        if info is None:
            return
        info.q_0.copy_(result.q_0.view(batch, candidates))
        info.q_best.copy_(q)
        info.best_index.copy_(result.index.view(batch, candidates))
        info.best_candidate.copy_(winner)
        if info.trace_q is not None:
            info.trace_q.copy_(result.trace_q.view(info.trace_q.shape))
            info.trace_actions.copy_(result.trace_actions.view(info.trace_actions.shape))
            info.trace_grad.copy_(result.trace_grad.view(info.trace_grad.shape))
