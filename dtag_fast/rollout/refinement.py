"""The calls of `refine` inside a rollout: many Action Gradient settings in one batch."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast import Refiner
from dtag_fast.ops.refine.binding import Binding
from dtag_fast.rollout.batches import fill_up
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.rollout.transfers import Transfers


class Refined(NamedTuple):
    """actions (R, A) to execute; q_0, q_best (R,): Q of the policy's action and of the one to execute."""

    actions: np.ndarray
    q_0: np.ndarray
    q_best: np.ndarray


class Refinement:
    """Refines rows under different settings with one call for all that differ in steps and lr only.

    Args:
        critic: as `refine` takes it. bounds: (low, high) of the actions.
        settings: those that rows may ask for, by position.
        batch_invariant: make a row's bits independent of the others: fill batches up as `SequencePolicy`
            does, and take one kernel for all of their sizes, see `Refiner`.
    """

    def __init__(
        self,
        critic: nn.Module,
        bounds: tuple[Any, Any],
        settings: Sequence[AGSetting],
        device: torch.device | str = "cpu",
        batch_invariant: bool = False,
    ):
        self.device, self.batch_invariant = torch.device(device), batch_invariant
        self.transfers = Transfers(self.device)
        self._steps = np.array([s.steps for s in settings], np.int32)
        self._lr = np.array([s.lr for s in settings], np.float32)
        self._refiners: list[Refiner] = []
        self._group = np.zeros(len(settings), np.int64)  # setting -> refiner
        groups: list[dict[str, Any]] = []
        # The plain policy has no options that matter: it joins the first group there is.
        for index, options in _with_options(settings):
            if options not in groups:
                groups.append(options)
                options_here = options | {"bounds": bounds, "return_info": True}
                self._refiners.append(Refiner(critic, batch_invariant=batch_invariant, **options_here))
            self._group[index] = groups.index(options)

    def __call__(self, states: np.ndarray, actions: np.ndarray, settings: np.ndarray) -> Refined:
        """Refine `actions` (R, A) at raw `states` (R, S) under the settings of these positions (R,)."""
        result = Refined(actions.copy(), *np.zeros((2, len(actions)), np.float32))
        group = self._group[settings]
        for number, refiner in enumerate(self._refiners):
            rows = np.flatnonzero(group == number)
            if rows.size == 0:
                continue
            batch = fill_up(rows) if self.batch_invariant else rows
            steps, lr = self._steps[settings[batch]], self._lr[settings[batch]]
            refined, info = refiner.run(
                self._tensor(states[batch]),
                self._tensor(actions[batch]),
                steps=int(steps[0]) if (steps == steps[0]).all() else self._tensor(steps),
                lr=float(lr[0]) if (lr == lr[0]).all() else self._tensor(lr),
            )
            result.actions[rows] = self.transfers.to_host(refined[: rows.size])
            result.q_0[rows] = self.transfers.to_host(info.q_0[: rows.size])
            result.q_best[rows] = self.transfers.to_host(info.q_best[: rows.size])
        return result

    def prepare(self, state_dim: int, action_dim: int) -> None:
        """Lower the critic for every call of refine, which otherwise the first of each does."""
        for refiner in self._refiners:
            refiner.binding(state_dim, action_dim, self.device)

    def why_not_captured(self, state_dim: int, action_dim: int) -> str | None:
        """Why a call cannot be part of a CUDA graph, or None."""
        if len(self._refiners) > 1:
            return f"the settings need {len(self._refiners)} calls of refine, not one"
        choice = self.update(state_dim, action_dim).choice
        if choice.backend == "torch":
            return f"refine runs on the autograd reference: {choice.slow_reason}"
        return None

    def numbers(self, settings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """steps and lr (R,) of these settings."""
        return self._steps[settings], self._lr[settings]

    def update(self, state_dim: int, action_dim: int) -> Binding:
        """The critic's numbers as refine has prepared them, read again in place if they have changed."""
        return self._refiners[0].binding(state_dim, action_dim, self.device)

    def on_device(
        self, states: Tensor, actions: Tensor, steps: Tensor, lr: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The only call of refine on tensors of the device: refined actions (R, A), q_0, q_best (R,)."""
        refined, info = self._refiners[0].run(states, actions, steps=steps.int(), lr=lr)
        return refined, info.q_0, info.q_best

    def _tensor(self, array: np.ndarray) -> Tensor:
        return self.transfers.to_device(array)


def _with_options(settings: Sequence[AGSetting]) -> Iterable[tuple[int, dict[str, Any]]]:
    shared = next((s.options() for s in settings if not s.is_plain), AGSetting().options())
    for index, setting in enumerate(settings):
        yield index, shared if setting.is_plain else setting.options()
