"""Acting step by step for many rollouts, without computing again what earlier steps have computed.

The original Decision Transformer runs its last K steps at every step of an episode. Of that, what depends on
one token alone never changes: the tokens and their projections in the first block (timesteps are absolute,
where they are embedded at all). While an episode is younger than K steps nothing falls out of its window, so
the keys and values of every block stay as they are too and only the new tokens are computed. From then on the
later blocks are computed anew: their keys and values still held what has fallen out of the window.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.compiled_step import step_config, step_weights, with_deviations
from dtag_fast.models.past import Kept, put_rows
from dtag_fast.models.sequence import SequenceModel
from dtag_fast.ops import decode
from dtag_fast.ops.attention import Mask, Padding
from dtag_fast.ops.watch import Watch, slots_of

STEP = 3  # tokens of a step
Precision = Literal["fp32", "bf16"]


class Decoder:
    """Equal, within rounding, to `model.act` on the window of each rollout.

    Step t of a rollout has its tokens in the slots 3 (t mod K) and following of rings. On a CPU `act` makes a
    step of rollouts of any age in one call of `ops.decode`; with PyTorch's operators or the GPU's kernels,
    `decode` is for rollouts younger than K steps, `slide` for all. The three may take turns.

    Args:
        model: a SequenceModel in eval mode; the rings lie on its device.
        num_rollouts: N.
        deviations: `act` gives the outputs of both heads of an OnlineDecisionTransformer, (R, 2A): means and
            log deviations, before tanh; `decode` and `slide` give actions all the same.
        precision: of `act`: "fp32"; or "bf16" as `ops.decode.CompiledSteps` has it, which equals the model
            within the rounding of bf16.

    Raises:
        ValueError: bf16 where steps are not compiled.
    """

    def __init__(
        self,
        model: SequenceModel,
        num_rollouts: int,
        precision: Precision = "fp32",
        deviations: bool = False,
    ):
        self.model, self.blocks, self.precision = model, list(model.transformer.blocks), precision
        self._deviations = deviations
        c, weight = model.config, model.embed_state.weight
        self.context_len = c.context_len
        shape, heads = (num_rollouts, STEP * c.context_len), (c.n_head, c.d_model // c.n_head)
        self._tokens = weight.new_zeros(*shape, c.d_model)  # (N, 3K, D)
        self._projected = weight.new_zeros(*shape, 3, *heads)  # by the first block
        self._kept = [weight.new_zeros(*shape, 2, *heads) for _ in self.blocks[1:]]
        # Small tensors that every step needs, and the masks of full windows, made once.
        self._everyone = torch.arange(num_rollouts, device=weight.device)
        self._places = torch.arange(STEP * c.context_len, device=weight.device)
        self._ahead = torch.arange(-1, STEP - 1, device=weight.device)
        known = 2 if model.predicts_returns else 3  # new tokens that nothing has to be predicted for
        self._last_known = self._places[known - 1 : known]
        end = STEP * c.context_len - (3 if model.predicts_returns else 2)
        self._last_of_full = self._places[end : end + 1]
        self._behind_full = self._places[end + 1 : end + 2]
        self._full = Padding()
        self._watch = Watch(list(slots_of([model]).values()))
        self._watch.accept(self._watch.snapshot())
        self._compiled: decode.CompiledSteps | None = None
        reason = self.why_not_compiled()
        if reason is None:
            rings = decode.Rings(self._tokens, self._projected, self._kept)
            self._compiled = decode.CompiledSteps(*self._network(), rings, precision=precision)
        elif precision != "fp32":
            raise ValueError(
                f"precision: {precision} steps are those of the compiled module, which cannot make them "
                f"here: {reason}; leave precision out"
            )

    def why_not_compiled(self) -> str | None:
        """Why `act` is not to be had, or None."""
        if self.model.attention is not None:
            return f"attention={self.model.attention!r} was asked for"
        if len({norm.eps for norm in self.model.modules() if isinstance(norm, nn.LayerNorm)}) > 1:
            return "its LayerNorms differ in eps"
        return decode.why_not([*self.model.parameters(), *self.model.buffers()])

    @property
    def compiled(self) -> bool:
        """Whether `act` is to be had."""
        return self._compiled is not None and self.model.attention is None

    def explain(self) -> str:
        """How steps are made, and why, in one line."""
        if self.compiled:
            return f"steps: one call of the compiled module ({self._compiled.isa}, {self.precision})"
        return (
            f"steps: operator by operator ({self.why_not_compiled() or 'attention was set when it was made'})"
        )

    def reset(self, rows: Tensor) -> None:
        """Forget rollouts (R,). What is left behind is hidden from a new episode, unless it is not finite."""
        for ring in (self._tokens, self._projected, *self._kept):
            ring[rows] = 0.0

    def stale(self) -> bool:
        """Whether the model's numbers have changed since the rings were filled: `refill` them."""
        return self._watch.changed()

    @torch.inference_mode()
    def refill(self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> None:
        """Fill the rings of all rollouts from what happened.

        Args:
            states (N, K, S) standardised, actions (N, K, A), returns_to_go (N, K, 1) scaled, timesteps
            (N, K): step t at place t mod K; places that no step has come to hold anything finite.
        """
        self._watch.accept(self._watch.snapshot())
        self._tokens[:] = self.model.embed(states, actions, returns_to_go, timesteps, omit=0)
        self._projected[:] = self.blocks[0].project(self._tokens)
        kept: list[Tensor] = []
        self.model.transformer(self._tokens, Padding(), keep=kept, projected=self._projected)
        for ring, fresh in zip(self._kept, kept[1:], strict=True):
            ring[:] = fresh
        if self._compiled is not None:
            self._compiled.repack(self._network()[1])

    def _network(self) -> tuple[decode.StepConfig, dict[str, Tensor]]:
        """As the compiled module takes it."""
        network = step_config(self.model), step_weights(self.model)
        return with_deviations(*network, self.model.log_std_head) if self._deviations else network

    def act(
        self,
        rows: Tensor | None,
        timesteps: Tensor,
        previous_actions: Tensor,
        states: Tensor,
        returns_to_go: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Act in rollouts of any age, where `compiled` says so; arguments and result as for `decode`. A
        rollout's bits do not depend on the others."""
        if self._deviations:
            previous_actions = F.pad(previous_actions, (0, previous_actions.shape[1]))
        found, predicted = self._compiled.step(rows, timesteps, previous_actions, states, returns_to_go)
        return self.model.action_of(found) if self.model.config.discrete else found, predicted

    def decode(
        self,
        rows: Tensor | None,
        timesteps: Tensor,
        previous_actions: Tensor,
        states: Tensor,
        returns_to_go: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Act in rollouts younger than K steps.

        Args:
            rows: (R,) rollouts; None for all N, in order. timesteps: (R,) int64, t of the present step.
            previous_actions: (R, A) executed at t - 1; anything finite where t = 0.
            states: (R, S) standardised. returns_to_go: (R, 1) scaled; None where the model predicts them.
        Returns:
            (R, A) actions, (R, 1) predicted scaled returns or None.
        """
        slots = self._slots(timesteps)
        new = self._new_tokens(timesteps, previous_actions, states, returns_to_go)
        n = new.shape[1]
        hidden = self._extend(new, _Rings(self, rows, slots[:, :n]), self._last_known)
        if not self.model.predicts_returns:
            return self._action(hidden), None
        predicted = self.model.return_head(hidden[:, 0])
        token = self.model.return_token(predicted, timesteps)
        return self._action(self._extend(token, _Rings(self, rows, slots[:, n:]), None)), predicted

    def slide(
        self,
        rows: Tensor | None,
        timesteps: Tensor,
        previous_actions: Tensor,
        states: Tensor,
        returns_to_go: Tensor | None,
        *,
        all_full: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Act in rollouts of any age, over the whole window; arguments and result as for `decode`.

        Args:
            all_full: every t is at least K - 1, which saves a little.
        """
        slots = self._slots(timesteps)
        new = self._new_tokens(timesteps, previous_actions, states, returns_to_go)
        n = new.shape[1]
        self._write(new, rows, slots[:, :n])
        if all_full and self._order_does_not_matter():
            return self._slide_in_place(rows, slots), None
        k, predicts = self.context_len, self.model.predicts_returns
        # The tokens up to the last known one; behind it a place for the return that is to be predicted.
        size = STEP * k - 1 - int(predicts and all_full)
        first = (timesteps - (k - 1)).clamp(min=0)  # (R,) step at the window's start
        at = (STEP * first[:, None] + self._places[:size]) % (STEP * k)  # (R, size)
        tokens, projected = (_gather(ring, self._index(rows), at) for ring in (self._tokens, self._projected))

        if all_full:
            queries, behind, padding = self._last_of_full, self._behind_full, self._full
        else:  # (R, 1) place of the last known token
            queries = STEP * timesteps.clamp(max=k - 1)[:, None] + (0 if predicts else 1)
            behind, padding = queries + 1, Padding()
        kept: list[Tensor] | None = [] if predicts else None
        transformer = self.model.transformer
        hidden = transformer(tokens, padding, queries, keep=kept, projected=projected)
        if not predicts:
            return self._action(hidden), None
        predicted = self.model.return_head(hidden[:, 0])
        token = self.model.return_token(predicted, timesteps)
        made = self._write(token, rows, slots[:, n:])
        past = Kept(kept, behind, append=all_full)
        return self._action(transformer.extend(token, past, padding, projected=made)), predicted

    def _order_does_not_matter(self) -> bool:
        """Whether attention takes a mask of any form: PyTorch's does, the kernels take windows in order. With
        a return to follow, two places more than the window has would be computed."""
        on_cpu, attention = self._places.device.type == "cpu", self.model.attention
        return on_cpu and attention in (None, "sdpa") and not self.model.predicts_returns

    def _slide_in_place(self, rows: Tensor | None, slots: Tensor) -> Tensor:
        """Actions over full windows as they lie in the rings, which saves putting them into order."""
        tokens, projected = (
            ring if rows is None else ring.index_select(0, rows) for ring in (self._tokens, self._projected)
        )
        last = slots[:, -1:]  # (R, 1) the last known token; what follows it in the ring is the oldest's step
        age = (self._places - last - 2) % len(self._places)  # (R, 3K) places of the window's tokens in time
        hidden = self.model.transformer(tokens, RingOrder(age), last, projected=projected)
        return self._action(hidden)

    def _slots(self, timesteps: Tensor) -> Tensor:
        """(R, 3) places of the tokens that a step adds: the action before it, then its own two. Step 0 has no
        action before it; what stands for one goes to the last slot, which no step before K looks at."""
        return (STEP * timesteps[:, None] + self._ahead) % (STEP * self.context_len)

    def _new_tokens(self, timesteps, previous_actions, states, returns_to_go) -> Tensor:
        """(R, 2 or 3, D), those known before anything is predicted."""
        model = self.model
        parts = [model.embed_action(previous_actions), model.embed_state(states)]
        times = [(timesteps - 1).clamp(min=0), timesteps]
        if not model.predicts_returns:
            parts.insert(1, model.embed_return(returns_to_go))
            times.append(timesteps)
        x = torch.stack(parts, dim=1) + model.embed_timestep(torch.stack(times, dim=1))
        return model.embed_norm(x)

    def _write(self, tokens: Tensor, rows: Tensor | None, slots: Tensor) -> Tensor:
        """Put tokens (R, n, D) and their first projections into the rings; returns the projections."""
        projected = self.blocks[0].project(tokens)
        put_rows(self._tokens, slots, tokens, self._index(rows))
        put_rows(self._projected, slots, projected, self._index(rows))
        return projected

    def _index(self, rows: Tensor | None) -> Tensor:
        return self._everyone if rows is None else rows

    def _extend(self, tokens: Tensor, past: _Rings, last: Tensor | None) -> Tensor:
        projected = self._write(tokens, past.rows, past.at)
        return self.model.transformer.extend(tokens, past, Padding(), last, projected)

    def _action(self, hidden: Tensor) -> Tensor:
        return self.model.action_of(self.model.action_head(hidden[:, -1]))


class RingOrder(Padding):
    """For PyTorch's attention: tokens that do not lie in the order of their times.

    Args:
        times: (B, S) place of each token in time; a query sees the tokens up to itself.
    """

    by_mask_alone = True

    def __init__(self, times: Tensor):
        super().__init__()
        self._times = times
        self._whole: Mask | None = None  # of all queries, shared by the blocks

    def mask(self, tokens: int, queries: Tensor | None, like: Tensor) -> Mask:
        if queries is not None:
            return self._of(self._times.gather(1, queries), like)
        if self._whole is None:
            self._whole = self._of(self._times, like)
        return self._whole

    def _of(self, times: Tensor, like: Tensor) -> Mask:
        """Of queries at these times (B, Q)."""
        later = self._times[:, None] > times[..., None]  # (B, Q, S)
        bias = torch.zeros(later.shape, dtype=like.dtype, device=like.device)
        return Mask(bias.masked_fill_(later, -torch.inf)[:, None], None)


class _Rings:
    """The keys and values in a decoder's rings, as a transformer's `Past`."""

    def __init__(self, decoder: Decoder, rows: Tensor | None, at: Tensor):
        self.rows, self.at = rows, at
        self._index = decoder._index(rows)
        self._rings = [decoder._projected[:, :, 1:], *decoder._kept]

    def put(self, block: int, new: Tensor) -> Tensor:
        ring = self._rings[block]
        if block > 0:  # those of the first are there already
            put_rows(ring, self.at, new, self._index)
        return ring if self.rows is None else ring.index_select(0, self.rows)


def _gather(ring: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
    """ring (N, 3K, ...)[rows, slots], (R, S, ...)"""
    flat = (rows[:, None] * ring.shape[1] + slots).flatten()
    return ring.flatten(0, 1).index_select(0, flat).unflatten(0, slots.shape)
