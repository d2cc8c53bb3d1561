"""What a backend is: the protocol between `api.py` and the loops that do the arithmetic.

Semantics every executor follows to the letter (reference.py is this text in code), per row and candidate:

    a_0 = clip(actions, low, high)                         (NaN stays NaN)
    for i in 0..steps:
        q_i, g_i = Q(s, a_i), dQ/da(s, a_i)                of the reduced ensemble
        u_i      = optimizer(shape(g_i * scale))           shape: "raw" | "unit" | ClipNorm
        a_{i+1}  = clip(ball(a_i + u_i * scale, a_0), low, high)

- scale: units of action per unit of the coordinate u in which the ascent takes place, a = a_0 + scale * u;
  1 where none is given. A dimension of scale 0 keeps its bits and has no part in any norm.
- With a prior, F(s, a) = Q(s, a) - weight * mean_k(z_k^2), z = (a - mean) / scale and 0 where scale is 0,
  has the place of Q: g_i * scale - 2 * weight * z / A is shaped, and what is said of a finite, greater or
  greatest q_i is said of F. A cost Q - F may be lost beside a large Q: F is greater when the difference of Q
  is above that of the costs. All that is reported, g_i too, is Q's. A weight of 0 is no prior.
- Reduction: the program's own `reduction`, else `options.reduce`. "min": q of the smallest member and that
  member's gradient, the first on ties, and the first NaN member when there is one (torch.min); "mean": both
  averaged over members; int: that member. "max" mirrors "min".
- unit: g / ||g||_2, a zero gradient stays zero. ClipNorm(c): g * min(1, c / ||g||_2). The norm must neither
  overflow nor underflow for finite g: take max |g| out of the root.
- ball: radius "inf": clip to [a_0 - r * scale, a_0 + r * scale]; "l2": d = a - a_0, a_0 + d * (r / ||u||)
  when ||u|| > r with u = d / scale, else a untouched.
- q_0 not finite: the row ends at a_0. g_i * scale not finite in any entry: the row ends at a_i.
  A row ends after its own `steps` too; at its last iterate no gradient is needed.
- select "best": the a_i of greatest finite q_i, the earliest on ties; a_0 when none is finite. "last": the
  a_i where the row ended. `q_best`/`best_index` are Q and index of the iterate returned, in both cases.
- Candidates: each of the M runs alone; the one of greatest finite q_best wins, the first on ties, candidate 0
  when none is finite.
- Traces hold a_i, q_i, g_i (raw, before `gradient`) for i up to where the row ended and NaN after; g at a
  row's last iterate is NaN unless the backend had it anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dtag_fast.ops.watch import Seen

from .program import CriticProgram


@dataclass
class InfoBuffers:
    """Where `run` writes details. B rows, M candidates, A dimensions, n = largest number of steps.

    q_0, q_best (B, M) float32; best_index (B, M) int32; best_candidate (B,) int32;
    trace_actions, trace_grad (n+1, B, M, A) float32, trace_q (n+1, B, M) float32, or None when not asked for.
    """

    q_0: Tensor
    q_best: Tensor
    best_index: Tensor
    best_candidate: Tensor
    trace_actions: Tensor | None = None
    trace_q: Tensor | None = None
    trace_grad: Tensor | None = None


class Executor(Protocol):
    """A critic program bound to one set of options.

    Built as `Executor(program, options, precision, steps=10, lr=0.03, scale=None, prior_mean=0.0,
    prior_weight=0.0)`: a CriticProgram, a RefineOptions and "fp32", "tf32" or "bf16". Safe to call from
    several threads at once. Beside the class, each backend module has `why_not(program, options, device,
    precision) -> str | None`: None when it can run that, else the reason that `explain` shows; backends.py
    names both.
    """

    name: str  # "cpu", "torch", ...

    def repack(self, program: CriticProgram) -> None:
        """Take the new numbers of a program of the same structure.

        A `run` in another thread finishes with the old numbers or starts with the new ones, never a mix.
        """

    def run(
        self,
        states: Tensor,
        actions: Tensor,
        out: Tensor,
        *,
        steps: int | Tensor,
        lr: float | Tensor,
        scale: float | Tensor | None = None,
        radius: Tensor | None = None,
        variant: Tensor | None = None,
        prior_mean: float | Tensor = 0.0,
        prior_weight: float | Tensor = 0.0,
        info: InfoBuffers | None,
    ) -> None:
        """Refine `actions` into `out`, never touching `states` or `actions`.

        states (B, S) float32 with stride(1) == 1 (rows may be strided); actions (B, M, A) float32 contiguous;
        out (B, A) float32 contiguous; steps int or int32 (B,); lr float or float32 (B, 1) | (1, A) | (B, A),
        contiguous; scale None or as lr; radius float32 (B,), limits of rows in place of the one in the
        options, or None; variant int32 (B,), whose of `options.variants` each row has, None where there are
        none. On a GPU nobody has looked whether there is such a one: the nearest is taken. prior_mean float
        or float32 (1, A) | (B, A), contiguous; prior_weight float or float32 (B,). All on the executor's
        device. B >= 1.
        """


class DescribingExecutor(Executor, Protocol):
    """Has several ways to run a call."""

    def describe_call(self, states: int, candidates: int, steps: int) -> tuple[str, list[str]]:
        """How a call of this size runs, in a few words, and why not by its other kernels."""


PreparedCall = Callable[[Any, Any, Any], Tensor | None]  # (states, actions, out)


class PreparingExecutor(Executor, Protocol):
    """Can also make the whole of a repeated call: one candidate, no info, its own numbers."""

    def prepare_call(
        self,
        states_shape: Sequence[int],
        actions_shape: Sequence[int],
        seen: Seen,
        within_one: bool,
        known: PreparedCall | None,
    ) -> PreparedCall | None:
        """call(states, actions, out): the refined actions, in `out` when that is not None; or None.

        It returns None, and has done nothing, unless all hold: states, actions and `out` are contiguous
        tensors (on the host also arrays) of these shapes, or of others that `known` was made for, on the
        executor's device, float32 (on the host states also float64); weights and modes are as `seen`, and
        no `repack` came in between; under `within_one`, no action on the host lies outside [-1, 1]; the
        current stream is the one of a `run` since the last repack, and not being captured.
        None in place of the call: this torch has no way to read tensors from compiled code, or another
        thread has just made the stream wait again.
        """
