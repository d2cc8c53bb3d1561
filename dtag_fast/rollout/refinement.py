"""The calls of `refine` inside a rollout: many Action Gradient settings in one batch."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast import Prior, Refiner, Variant
from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.ops.refine.binding import Binding
from dtag_fast.ops.refine.kept_call import KeptCall
from dtag_fast.ops.refine.reference import prior_cost
from dtag_fast.rollout.batches import fill_up
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.rollout.transfers import Transfers


class Refined(NamedTuple):
    """actions (R, A) to execute; q_0, q_best (R,): Q of the policy's action and of the one to execute."""

    actions: np.ndarray
    q_0: np.ndarray
    q_best: np.ndarray


class Refinement:
    """Refines rows under different settings with one call of `refine`.

    Args:
        critic: as `refine` takes it. bounds: (low, high) of the actions.
        settings: those that rows may ask for, by position.
        batch_invariant: make a row's bits independent of the others: fill batches up as `SequencePolicy`
            does, and take one kernel for all of their sizes, see `Refiner`.
        precision: as `refine` takes it.
        behaviour: of the data, for settings that are regularised by it.

    Raises:
        ValueError: more different options among the settings than one call takes.
    """

    def __init__(
        self,
        critic: nn.Module,
        bounds: tuple[Any, Any],
        settings: Sequence[AGSetting],
        device: torch.device | str = "cpu",
        batch_invariant: bool = False,
        precision: str | None = None,
        behaviour: BehaviourModel | None = None,
    ):
        self.device, self.batch_invariant = torch.device(device), batch_invariant
        self.transfers = Transfers(self.device)
        self._steps = np.array([s.steps for s in settings], np.int32)
        self._starts = np.array([s.starts for s in settings])
        action_dim = 0 if behaviour is None else behaviour.sizes[1]  # none asks without one
        self._lr = np.array([s.step_size(action_dim) for s in settings], np.float32)
        self._variants, self._variant = _variants_of(settings, action_dim)
        weights = [s.behaviour.weight if s.behaviour else np.nan for s in settings]
        self._weight = np.array(weights, np.float32)  # NaN: not regularised
        self._behaviour = None if np.isnan(self._weight).all() else behaviour.to(self.device)
        self._refiner = Refiner(
            critic,
            variants=self._variants,
            bounds=bounds,
            batch_invariant=batch_invariant,
            return_info=True,
            precision=precision,
        )
        self._keeps = self.device.type == "cpu" and batch_invariant
        # Of each worker: `settings` as bytes, the `call` for them and their `weight`.
        self._kept = threading.local()

    def __call__(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        settings: np.ndarray,
        draws: np.ndarray | None = None,
    ) -> Refined:
        """Refine `actions` (R, A) at raw `states` (R, S) under the settings of these positions (R,).

        Args:
            draws: (D, A), what else to begin at: M - 1 actions of each row whose setting has M starts, in the
                order of the rows; None where no row has more than one.

        Returns:
            Of a row with several starts the end of the greatest Q, with a behaviour of the greatest F, the
            earliest on ties. What is not finite is never the greatest: without another the first end.
        """
        if draws is not None:
            return self._of_several_starts(states, actions, settings, draws)
        count = len(actions)
        if count == 0:
            return Refined(actions.copy(), *np.zeros((2, 0), np.float32))
        if self._keeps:
            return self._in_kept_memory(states, actions, settings)
        batch = fill_up(np.arange(count)) if self.batch_invariant else np.arange(count)
        refined, info = self._refiner.run(
            self._tensor(states[batch]),
            self._tensor(actions[batch]),
            **self._given(settings[batch]),
            **self._regularisation(self._tensor(states[batch]), self._tensor(self._weight[settings[batch]])),
        )
        return Refined(*(self.transfers.to_host(x[:count]) for x in (refined, info.q_0, info.q_best)))

    def _of_several_starts(
        self, states: np.ndarray, actions: np.ndarray, settings: np.ndarray, draws: np.ndarray
    ) -> Refined:
        """As a call: one call of refine, with a row for every start."""
        counts = self._starts[settings]
        owner = np.repeat(np.arange(len(actions)), counts)  # (E,) the row that a start belongs to
        first = np.cumsum(counts) - counts  # (R,) where the policy's own action stands
        starts = np.empty((len(owner), actions.shape[1]), np.float32)
        starts[first] = actions
        starts[np.delete(np.arange(len(owner)), first)] = draws
        states, settings = states[owner], settings[owner]
        ends = self(states, starts, settings)
        worth = self._worth(states, ends, settings)
        greatest = np.maximum.reduceat(worth, first)[owner]
        places = np.where(worth == greatest, np.arange(len(owner)), len(owner))
        best = np.minimum.reduceat(places, first)  # (R,) the earliest
        return Refined(ends.actions[best], ends.q_0[first], ends.q_best[best])

    def _worth(self, states: np.ndarray, ends: Refined, settings: np.ndarray) -> np.ndarray:
        """What ends are compared by, (E,): Q, F where there is a behaviour, -inf where it is not finite."""
        worth = ends.q_best.astype(np.float64)
        if self._behaviour is not None:
            count = len(worth)
            batch = fill_up(np.arange(count)) if self.batch_invariant else np.arange(count)
            weight = self._tensor(self._weight[settings[batch]])
            given = self._regularisation(self._tensor(states[batch]), weight)
            prior, reached = given["prior"], self._tensor(ends.actions[batch])
            cost = prior_cost(reached, prior.mean, prior.weight, given["scale"])
            worth -= self.transfers.to_host(cost[:count])
        return np.where(np.isfinite(worth), worth, -np.inf)

    def _in_kept_memory(self, states: np.ndarray, actions: np.ndarray, settings: np.ndarray) -> Refined:
        """As a call, where steps follow each other with the same settings: in memory of this thread's own."""
        kept, count, asked = self._kept, len(actions), settings.tobytes()
        if getattr(kept, "settings", None) != asked:
            batch = fill_up(np.arange(count))
            rows, width = len(batch), actions.shape[1]
            given = self._given(settings[batch])
            if self._behaviour is not None:
                given["scale"] = torch.ones(rows, width)
                given["prior"] = Prior(torch.zeros(rows, width), torch.zeros(rows))
            kept.call = KeptCall(self._refiner, rows, states.shape[1], width, **given)
            kept.settings, kept.weight = asked, self._tensor(self._weight[settings[batch]])
        call = kept.call
        for rows, given in ((call.states, states), (call.actions, actions)):
            rows[:count], rows[count:] = given, given[0]
        if self._behaviour is not None:
            found = self._regularisation(torch.from_numpy(call.states).float(), kept.weight)
            call.numbers["scale"][:] = found["scale"]
            call.numbers["prior_mean"][:] = found["prior"].mean
            call.numbers["prior_weight"][:] = found["prior"].weight
        call()
        return Refined(
            call.out[:count].astype(np.float32), call.q_0[:count].copy(), call.q_best[:count].copy()
        )

    def _given(self, settings: np.ndarray) -> dict[str, Any]:
        """What `refine` is given for rows under these settings (R,)."""
        steps, lr, variant, _ = self.numbers(settings)
        return {
            "steps": int(steps[0]) if (steps == steps[0]).all() else self._tensor(steps),
            "lr": float(lr[0]) if (lr == lr[0]).all() else self._tensor(lr[:, None]),
            # Of rows that are alike the host knows it, and they have the kernels of one variant.
            "variant": variant if (variant == variant[0]).all() else self._tensor(variant),
        }

    @torch.no_grad()
    def _regularisation(self, states: Tensor, weight: Tensor) -> dict[str, Any]:
        """scale and prior of `refine` at states (R, S), for weights (R,) of which some may be NaN."""
        if self._behaviour is None:
            return {}
        local, free = self._behaviour(states), weight.isnan()
        return {  # a scale of 1 and a weight of 0 change no bit of the others
            "scale": local.std.masked_fill(free[:, None], 1.0),
            "prior": Prior(local.mean, local.cost(weight).masked_fill(free, 0.0)),
        }

    def prepare(self, state_dim: int, action_dim: int) -> None:
        """Lower the critic for the call of refine, which otherwise the first does."""
        self._refiner.binding(state_dim, action_dim, self.device)

    def why_not_captured(self, state_dim: int, action_dim: int) -> str | None:
        """Why a call cannot be part of a CUDA graph, or None."""
        if (self._starts > 1).any():
            return "starts of Action Gradient are drawn on the host"
        choice = self.update(state_dim, action_dim).choice
        if choice.backend == "torch":
            return f"refine runs on the autograd reference: {choice.slow_reason}"
        return None

    def numbers(self, settings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """steps, lr, the position of the variant and the weight of the behaviour (R,) of these settings; the
        weight is NaN where there is none."""
        return self._steps[settings], self._lr[settings], self._variant[settings], self._weight[settings]

    def update(self, state_dim: int, action_dim: int) -> Binding:
        """The critic's numbers as refine has prepared them, read again in place if they have changed."""
        return self._refiner.binding(state_dim, action_dim, self.device)

    def on_device(
        self,
        states: Tensor,
        actions: Tensor,
        steps: Tensor,
        lr: Tensor,
        variant: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The call of refine on tensors of the device: refined actions (R, A), q_0, q_best (R,)."""
        several = len(self._variants) > 1
        refined, info = self._refiner.run(
            states,
            actions,
            steps=steps.int(),
            lr=lr[:, None],
            variant=variant.int() if several else None,
            **self._regularisation(states, weight),
        )
        return refined, info.q_0, info.q_best

    def _tensor(self, array: np.ndarray) -> Tensor:
        return self.transfers.to_device(array)


def _variants_of(settings: Sequence[AGSetting], action_dim: int) -> tuple[list[Variant], np.ndarray]:
    """The variants among the settings, and the position of each setting's (len(settings),).

    Where no step is made only the reduction matters, which Q of an action is told by: the plain policy joins
    a variant that has the same, and costs no other kernel.
    """
    own = [setting.variant(action_dim) for setting in settings]
    variants = list(dict.fromkeys(v for v, s in zip(own, settings, strict=True) if s.steps > 0))
    places = np.zeros(len(settings), np.int32)
    for index, (variant, setting) in enumerate(zip(own, settings, strict=True)):
        if setting.steps == 0:
            variant = next((v for v in variants if v.reduce == variant.reduce), variant)
        if variant not in variants:
            variants.append(variant)
        places[index] = variants.index(variant)
    return variants, places
