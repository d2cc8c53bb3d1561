"""What a sequence policy remembers: the last K steps of N rollouts, in rings on the host."""

from typing import Literal, NamedTuple

import numpy as np


class Window(NamedTuple):
    """The last K steps of R rollouts.

    states (R, K, S) raw, actions (R, K, A), returns_to_go (R, K, 1) float32; timesteps (R, K) int64 absolute;
    mask (R, K) bool, True on real steps. Padding holds zeros.
    """

    states: np.ndarray
    actions: np.ndarray
    returns_to_go: np.ndarray
    timesteps: np.ndarray
    mask: np.ndarray


class History:
    """Rings of length K for N rollouts. Step t of a rollout lives in slot t mod K.

    Calls for a set of rows: `begin` (state and return of step t, its action is zero), `window`, then
    `set_returns` and `set_actions` with what the policy predicted and what was executed.

    Args:
        num_envs: N. context_len: K >= 1. state_dim, action_dim: S, A.
        padding: where a window shorter than K is filled up with zeros, "left" or "right" of its real steps.
    """

    def __init__(
        self,
        num_envs: int,
        context_len: int,
        state_dim: int,
        action_dim: int,
        padding: Literal["left", "right"],
    ):
        if padding not in ("left", "right"):
            raise ValueError(f'padding: expected "left" or "right", got {padding!r}')
        self.context_len, self.padding = context_len, padding
        self.lengths = np.zeros(num_envs, np.int64)  # steps begun so far
        self._states = np.zeros((num_envs, context_len, state_dim), np.float32)
        self._actions = np.zeros((num_envs, context_len, action_dim), np.float32)
        self._returns = np.zeros((num_envs, context_len, 1), np.float32)

    def reset(self, rows: np.ndarray) -> None:
        """Forget everything of `rows` (R,)."""
        self.lengths[rows] = 0
        for ring in (self._states, self._actions, self._returns):
            ring[rows] = 0.0

    def begin(self, rows: np.ndarray, states: np.ndarray, returns_to_go: np.ndarray) -> None:
        """Open step t of `rows` with states (R, S) and returns (R,); the slot's former action is cleared."""
        self.lengths[rows] += 1
        where = self._current(rows)
        self._states[where] = states
        self._returns[where] = returns_to_go[:, None]
        self._actions[where] = 0.0

    def set_returns(self, rows: np.ndarray, returns: np.ndarray) -> None:
        """Replace the current step's return by `returns` (R, 1): a predicted one stays in the history."""
        self._returns[self._current(rows)] = returns

    def set_actions(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Enter the executed actions (R, A) of the current step."""
        self._actions[self._current(rows)] = actions

    def previous_actions(self, rows: np.ndarray) -> np.ndarray:
        """(R, A) actions of the steps begun last; zeros before the first."""
        return self._actions[self._current(rows)]

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All that is remembered, step t at place t mod K, zeros where no step has come to: states (N, K, S),
        actions (N, K, A), returns (N, K, 1), timesteps (N, K)."""
        k = self.context_len
        latest = self.lengths[:, None] - 1  # (N, 1)
        timesteps = latest - (latest - np.arange(k)) % k
        return self._states, self._actions, self._returns, np.maximum(timesteps, 0)

    def window(self, rows: np.ndarray, steps: int | None = None) -> Window:
        """The last K steps of `rows` (R,), or `steps` of them; oldest first, the current one included."""
        k = self.context_len if steps is None else steps
        lengths = self.lengths[rows][:, None]  # (R, 1)
        offset = lengths - k if self.padding == "left" else np.maximum(lengths - k, 0)
        timesteps = offset + np.arange(k)  # (R, K); negative or >= length in the padding
        mask = (timesteps >= 0) & (timesteps < lengths)
        # Padding falls on slots that nothing has written since the reset: they hold zeros.
        at = rows[:, None], timesteps % self.context_len
        rings = (self._states, self._actions, self._returns)
        return Window(*(ring[at] for ring in rings), timesteps=np.where(mask, timesteps, 0), mask=mask)

    def _current(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows, (self.lengths[rows] - 1) % self.context_len
