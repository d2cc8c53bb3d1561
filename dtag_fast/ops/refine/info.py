"""RefineInfo: what `return_info` adds, and its way from the backends' buffers to the user's type."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .executor import InfoBuffers


@dataclass(frozen=True, eq=False)
class RefineInfo:
    """Details of one call. Arrays are of the kind of `actions` (torch or NumPy); q is float32.

    q_0: Q(s, a_0), (B,). q_best: Q of the returned action, (B,). best_index: which iterate was returned,
    (B,) int64 (with select="last" the one where the row ended). With a prior, which decides what is returned,
    all that is here is still Q without it and its gradient, so that q_best may be below q_0.

    With return_info="trace", n = largest number of steps, and NaN after a row's own end:
    trace_actions: a_i (n+1, B, A). trace_q: q_i (n+1, B). trace_grad: raw dQ/da at a_i, (n+1, B, A), where
    the backend computed it.

    With candidates, actions (B, M, A): the three first are those of the winner, `best_candidate` (B,) int64
    its number, `candidate_q_0`, `candidate_q_best`, `candidate_best_index` (B, M) those of every candidate,
    and the traces have an axis M after B.

    For a single state the axis B is absent everywhere.
    """

    q_0: Any
    q_best: Any
    best_index: Any
    trace_actions: Any = None
    trace_q: Any = None
    trace_grad: Any = None
    best_candidate: Any = None
    candidate_q_0: Any = None
    candidate_q_best: Any = None
    candidate_best_index: Any = None


def allocate(
    batch: int, candidates: int, width: int, steps: int | Tensor, trace: bool, device
) -> InfoBuffers:
    """Empty buffers for `Executor.run`."""

    def floats(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    def ints(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    buffers = InfoBuffers(
        q_0=floats(batch, candidates),
        q_best=floats(batch, candidates),
        best_index=ints(batch, candidates),
        best_candidate=ints(batch),
    )
    if trace:
        n = (int(steps.max()) if steps.numel() else 0) if isinstance(steps, Tensor) else steps
        buffers.trace_actions = floats(n + 1, batch, candidates, width)
        buffers.trace_q = floats(n + 1, batch, candidates)
        buffers.trace_grad = floats(n + 1, batch, candidates, width)
    return buffers


def to_info(buffers: InfoBuffers, *, multi: bool, single: bool, numpy: bool) -> RefineInfo:
    """The user's view of filled buffers."""
    index = buffers.best_index.long()
    values = {"q_0": buffers.q_0, "q_best": buffers.q_best, "best_index": index}  # (B, M)
    if index.shape[1] == 1:
        values = {name: value[:, 0] for name, value in values.items()}
    else:
        winner = buffers.best_candidate.long()
        rows = torch.arange(len(winner), device=winner.device)
        values = {name: value[rows, winner] for name, value in values.items()}
    for name in ("trace_actions", "trace_q", "trace_grad"):
        trace = getattr(buffers, name)
        if trace is not None:
            trace = trace if multi else trace[:, :, 0]
            values[name] = trace[:, 0] if single else trace
    if multi:
        values |= {
            "best_candidate": buffers.best_candidate.long(),
            "candidate_q_0": buffers.q_0,
            "candidate_q_best": buffers.q_best,
            "candidate_best_index": index,
        }
    for name in () if not single else ("q_0", "q_best", "best_index"):
        values[name] = values[name][0]
    if numpy:
        values = {name: value.numpy() for name, value in values.items()}
    assert values.keys() <= {f.name for f in fields(RefineInfo)}
    return RefineInfo(**values)
