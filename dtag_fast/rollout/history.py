"""What a sequence policy remembers: the last K steps of N rollouts, in rings that are never reallocated."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Window(NamedTuple):
    """The last K steps of R rollouts, as `model.act` takes them.

    states (R, K, S), actions (R, K, A), returns_to_go (R, K, 1) float32; timesteps (R, K) int64 absolute;
    mask (R, K) bool, True on real steps. Padding holds zeros.
    """

    states: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    mask: Tensor


class History:
    """Rings of length K for N rollouts. Step t of a rollout lives in slot t mod K.

    Calls for a set of rows: `begin` (state and return of step t, its action is zero), `window`, then
    `set_returns` and `set_actions` with what the policy predicted and what was executed.

    Args:
        num_envs: N. context_len: K >= 1. state_dim, action_dim: S, A.
        padding: where a window shorter than K is filled up with zeros, "left" or "right" of its real steps.
        device: where the rings live.
    """

    def __init__(
        self,
        num_envs: int,
        context_len: int,
        state_dim: int,
        action_dim: int,
        padding: Literal["left", "right"],
        device: torch.device | str = "cpu",
    ):
        if padding not in ("left", "right"):
            raise ValueError(f'padding: expected "left" or "right", got {padding!r}')
        self.context_len, self.padding, self.device = context_len, padding, torch.device(device)
        self.lengths = np.zeros(num_envs, np.int64)  # steps begun so far, kept on the host
        self._states = torch.zeros(num_envs, context_len, state_dim, device=device)
        self._actions = torch.zeros(num_envs, context_len, action_dim, device=device)
        self._returns = torch.zeros(num_envs, context_len, 1, device=device)

    def reset(self, rows: np.ndarray) -> None:
        """Forget everything of `rows` (R,)."""
        index = self._on_device(rows)
        self.lengths[rows] = 0
        for ring in (self._states, self._actions, self._returns):
            ring[index] = 0.0

    def begin(self, rows: np.ndarray, states: Tensor, returns_to_go: Tensor) -> None:
        """Open step t of `rows` with states (R, S) and returns (R,); the slot's former action is cleared."""
        self.lengths[rows] += 1
        where = self._current(rows)
        self._states[where] = states
        self._returns[where] = returns_to_go[:, None]
        self._actions[where] = 0.0

    def set_returns(self, rows: np.ndarray, returns: Tensor) -> None:
        """Replace the current step's return by `returns` (R, 1): a predicted one stays in the history."""
        self._returns[self._current(rows)] = returns

    def set_actions(self, rows: np.ndarray, actions: Tensor) -> None:
        """Enter the executed actions (R, A) of the current step."""
        self._actions[self._current(rows)] = actions

    def previous_actions(self, rows: np.ndarray) -> Tensor:
        """(R, A) actions of the steps begun last; zeros before the first."""
        return self._actions[self._current(rows)]

    def steps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that is remembered, step t at place t mod K, zeros where no step has come to: states (N, K, S),
        actions (N, K, A), returns (N, K, 1), timesteps (N, K)."""
        k = self.context_len
        latest = self.lengths[:, None] - 1  # (N, 1)
        timesteps = latest - (latest - np.arange(k)) % k
        return self._states, self._actions, self._returns, self._on_device(np.maximum(timesteps, 0))

    def window(self, rows: np.ndarray) -> Window:
        """The last K steps of `rows` (R,), oldest first, the current step included."""
        k = self.context_len
        lengths = self.lengths[rows][:, None]  # (R, 1)
        offset = lengths - k if self.padding == "left" else np.maximum(lengths - k, 0)
        timesteps = offset + np.arange(k)  # (R, K); negative or >= length in the padding
        mask = (timesteps >= 0) & (timesteps < lengths)
        # Padding falls on slots that nothing has written since the reset: they hold zeros.
        flat = self._on_device((rows[:, None] * k + timesteps % k).reshape(-1))
        shape = (len(rows), k, -1)
        return Window(
            *(
                ring.view(-1, ring.shape[-1]).index_select(0, flat).view(shape)
                for ring in (self._states, self._actions, self._returns)
            ),
            timesteps=self._on_device(np.where(mask, timesteps, 0)),
            mask=self._on_device(mask),
        )

    def _current(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._on_device(rows), self._on_device((self.lengths[rows] - 1) % self.context_len)

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
