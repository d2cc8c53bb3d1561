"""KeptCall: the same call of `refine` over and over, in memory that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .info import allocate

if TYPE_CHECKING:
    from .refiner import Refiner

HOST = torch.device("cpu")


class KeptCall:
    """A call of one size on the host, for loops that refine as many rows at every step: write `states` and
    `actions`, call, read `out`, `q_0` and `q_best`.

    Nothing is allocated, converted or checked then, but that the critic's weights are followed. Not for two
    threads at once. Rows of one of several variants keep the kernel of several.

    Args:
        refiner: for actions (B, A), with `bounds` that were given: none are looked at.
        numbers: as `Refiner.run` takes them; in place of the Refiner's own. Several of a kind are copied or
            kept; what follows is written into `numbers`.

    Attributes:
        states (B, S), actions (B, A), out (B, A): float32, or what the critic's reference computes in.
        q_0, q_best (B,): float32.
        numbers: those that are several, by the names and in the shapes of `Numbers.fitted`. What is written
            there is not checked.

    Raises:
        ValueError, TypeError: as `Refiner.run`, for the numbers.
    """

    def __init__(self, refiner: Refiner, batch: int, state_dim: int, action_dim: int, **numbers: Any) -> None:
        self._refiner = refiner
        dtype = refiner.binding(state_dim, action_dim, HOST).loop_dtype
        states, actions, out = (
            torch.zeros(batch, *shape, dtype=dtype)
            for shape in ((state_dim,), (1, action_dim), (action_dim,))
        )
        given = refiner.checked(batch, **numbers).fitted(batch, action_dim)._asdict()
        info = allocate(batch, 1, action_dim, given["steps"], trace=False, device=HOST)
        self.numbers = {
            name: value.numpy() for name, value in given.items() if isinstance(value, torch.Tensor)
        }
        self._tensors, self._named = (states, actions, out), {**given, "info": info}
        self.states, self.actions, self.out = states.numpy(), actions[:, 0].numpy(), out.numpy()
        self.q_0, self.q_best = info.q_0[:, 0].numpy(), info.q_best[:, 0].numpy()

    def __call__(self) -> None:
        """Refine what stands in `states` and `actions`."""
        binding = self._refiner.binding(self.states.shape[1], self.actions.shape[1], HOST)
        binding.executor.run(*self._tensors, **self._named)
