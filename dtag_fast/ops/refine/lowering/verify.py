"""The last word on a lowering: the program must agree with the module, in Q and in dQ/da, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..critic import CriticCall, as_members
from ..program import CriticProgram
from ..reference import evaluate_program
from .trace import Leaves, NotLowerable, outputs_of

ROWS = (1, 12)  # other batch sizes than the trace saw
TIGHT, LOOSE = 1e-8, 1e-4  # relative, for float64 and for modules that insist on another dtype


def verify(
    modules: Sequence[nn.Module],
    leaves: Leaves,
    how: CriticCall,
    build: Callable[[Sequence[Tensor], torch.dtype], CriticProgram],
    captured: Sequence[Tensor],
    dims: tuple[int, int],
) -> None:
    """Compare on random inputs with a seed of its own.

    Raises:
        NotLowerable: they differ; the message says by how much.
    """
    wide = [t.double() if t.is_floating_point() else t for t in leaves.tensors()]
    wide_captured = [t.double() if t.is_floating_point() else t for t in captured]
    program = build([*wide, *wide_captured], torch.float64)
    generator = torch.Generator().manual_seed(0)
    for rows in ROWS:
        states = torch.randn(rows, dims[0], dtype=torch.float64, generator=generator)
        actions = torch.rand(rows, dims[1], dtype=torch.float64, generator=generator) * 2 - 1
        states, actions = (x.to(how.device) if how.device is not None else x for x in (states, actions))
        ours = value_and_slope(lambda s, a: evaluate_program(program, s, a), states, actions)
        theirs, tolerance = _module(modules, leaves, wide, how, states, actions)
        if difference(ours, theirs) > tolerance:  # float64 in, float32 inside: compare as the module computes
            theirs, tolerance = _module(modules, leaves, leaves.tensors(), how, states, actions)
        worst = difference(ours, theirs)
        if not worst <= tolerance:
            raise NotLowerable(
                f"the traced program differs from the module (relative difference {worst:.1e})"
            )


def _module(modules, leaves, values, how, states, actions):
    """Q and slope of the module, and how closely they can be compared."""
    dtype = next((t.dtype for t in values if t.is_floating_point()), states.dtype)

    def members(s, a):
        outputs = outputs_of(modules, leaves, values, how, s.to(dtype), a.to(dtype))
        return torch.cat([as_members(out, axes) for out, axes in zip(outputs, how.axes, strict=True)])

    tolerance = TIGHT if dtype is torch.float64 else LOOSE
    try:
        return value_and_slope(members, states, actions), tolerance
    except RuntimeError:  # tensors of its own in another dtype
        if values is leaves.tensors() or dtype is not torch.float64:
            raise
        return _module(modules, leaves, leaves.tensors(), how, states, actions)


def value_and_slope(members, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Q (E, N) and, member by member, dQ/da (E, N, A)."""
    with torch.inference_mode(False), torch.enable_grad():
        a = actions.clone().requires_grad_()
        q = members(states.clone(), a)
        slopes = []
        for row in q:
            grad = (
                torch.autograd.grad(row.sum(), a, retain_graph=True, allow_unused=True)[0]
                if q.requires_grad
                else None
            )
            slopes.append(torch.zeros_like(a) if grad is None else grad)
    return q.detach().double(), torch.stack(slopes).double()


def difference(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    """The largest difference of Q or slope, relative to the largest entry of each."""
    if ours[0].shape != theirs[0].shape:
        return float("inf")
    worst = 0.0
    for x, y in zip(ours, theirs, strict=True):
        worst = max(worst, float(((x - y).abs().max() / (y.abs().max() + 1e-30)).nan_to_num(torch.inf)))
    return worst
