"""Random windows and transitions, gathered on the training device from flat tensors."""

from typing import NamedTuple

import numpy as np
import torch

from dtag_fast.data.store import TrajectoryStore
from dtag_fast.data.window_table import WindowTable, check_length, positive_int, shared


class Transitions(NamedTuple):
    """N transitions, all float32. Those of a sampler are column ranges of one block, as those of `Windows`.

    Attributes:
        states: (N, S), as stored (not standardised).
        actions: (N, A).
        rewards: (N, 1).
        next_states: (N, S).
        terminations: (N, 1), 1 where the environment ended the episode; a time-out is 0.
        discounts: (N, 1), what the value of next_states counts in the target before terminations:
            discount^k, k the steps between states and next_states.
    """

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor
    terminations: torch.Tensor
    discounts: torch.Tensor


class WindowSampler(WindowTable):
    """Draws windows for sequence models.

    Reinformer and min-decision-transformer: padding="right", weighting="uniform", start="inside". The
    original Decision Transformer and ODT: padding="left", weighting="length", start="anywhere" (their
    published padding of actions, -10, only ever stands behind the mask; here it is 0).

    Args:
        store: the trajectories.
        context_len: K >= 1, steps per window.
        batch_size: B >= 1.
        padding: side of the padding of windows with fewer than K steps, "right" or "left".
        weighting: probability of an episode, "uniform" or in proportion to its "length".
        start: first step of a window; "inside": uniform in 0 .. max(length - K, 0), "anywhere": uniform in
            0 .. length - 1, the window then ends where the episode does.
        return_scale: returns-to-go are divided by it.
        reward_scale, reward_shift: rewards enter the returns as reward * reward_scale + reward_shift.
        discount: of the returns-to-go, 1 in all published Decision Transformers.
        state_mean, state_std: (S,) numbers; states become (state - mean) / std. None: left as stored.
        device: where the tensors lie and the batches are made.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        context_len: int,
        batch_size: int,
        *,
        padding: str = "right",
        weighting: str = "uniform",
        start: str = "inside",
        return_scale: float = 1.0,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        discount: float = 1.0,
        state_mean: np.ndarray | None = None,
        state_std: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ):
        super().__init__(
            (store.state_dim, store.action_dim),
            context_len,
            batch_size,
            padding=padding,
            weighting=weighting,
            start=start,
            return_scale=return_scale,
            reward_scale=reward_scale,
            reward_shift=reward_shift,
            state_mean=state_mean,
            state_std=state_std,
            device=device,
        )
        lengths = store.episode_lengths
        check_length("store", lengths.max())
        table = np.zeros((store.num_steps + 1, sum(self._widths)), dtype=np.float32)
        states = store.observations[store.state_rows]
        rewards = self._rewards(store.rewards)
        self._fill(table[:-1], states, store.actions, rewards, store.offsets, discount)
        self._table = torch.from_numpy(table).to(self.device)
        self._zero_row = self._tensor(np.int64(store.num_steps))
        self._first_row = self._tensor(store.offsets[:-1])
        self._end_row = self._tensor(store.offsets[1:])
        self._num_starts = self._tensor(self._starts(lengths).astype(np.float64))
        self._num_draws = store.num_steps if weighting == "length" else store.num_episodes
        if weighting == "length":
            self._episode_of_step = self._tensor(np.repeat(np.arange(store.num_episodes), lengths))  # (N,)

    def _episodes_of(self, steps: torch.Tensor) -> torch.Tensor:
        return self._episode_of_step.index_select(0, steps)


def transitions(
    store: TrajectoryStore,
    device: str | torch.device = "cpu",
    *,
    reward_scale: float = 1.0,
    reward_shift: float = 0.0,
    n_step: int = 1,
    discount: float = 1.0,
) -> Transitions:
    """All N transitions of a store as float32 tensors on `device`; rewards become r * reward_scale +
    reward_shift.

    Step t looks k = min(n_step, steps left in its episode) steps ahead:

        rewards = sum over j < k of discount^j r_{t+j},   next_states = s_{t+k},   discounts = discount^k

    and terminations tells whether step t + k - 1 terminated, so that a target is rewards + discounts *
    (1 - terminations) * V(next_states). The last step of an episode keeps its true next state, whether it
    terminated or was cut; one that was cut is bootstrapped from it.

    Raises:
        ValueError: n_step below 1, or discount outside [0, 1].
    """
    positive_int("n_step", n_step)
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount: expected a number in [0, 1], got {discount}")
    rows = store.state_rows
    lookahead = np.minimum(n_step, _steps_left(store))  # (N,) k of each step
    scaled = store.rewards.astype(np.float64) * reward_scale + reward_shift
    rewards = scaled.copy()
    for j in range(1, lookahead.max()):
        reaching = np.flatnonzero(lookahead > j)
        rewards[reaching] += discount**j * scaled[reaching + j]
    columns = (rewards, store.terminations[np.arange(store.num_steps) + lookahead - 1], discount**lookahead)
    rewards, terminations, discounts = (column[:, None].astype(np.float32) for column in columns)
    states, next_states = store.observations[rows], store.observations[rows + lookahead]
    arrays = (states, np.array(store.actions), rewards, next_states, terminations, discounts)
    return Transitions(*(torch.from_numpy(array).to(device) for array in arrays))


def _steps_left(store: TrajectoryStore) -> np.ndarray:
    """(N,) steps from each one to the end of its episode, itself included; any flag is an end."""
    last = store.terminations | store.truncations
    last[store.offsets[1:] - 1] = True
    ends = np.flatnonzero(last) + 1
    return np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(store.num_steps)


class TransitionSampler:
    """Draws transitions uniformly, with replacement.

    Args:
        transitions: the whole dataset, see `transitions`.
        batch_size: B >= 1.
    """

    def __init__(self, transitions: Transitions, batch_size: int):
        positive_int("batch_size", batch_size)
        # Side by side in one table, (N, 2S + A + 3), so that a batch is gathered at once.
        self._widths = [column.shape[1] for column in transitions]
        self._table = torch.cat(transitions, dim=1)
        self.transitions = Transitions(*self._table.split_with_sizes(self._widths, dim=1))
        self.batch_size = batch_size
        self.share = 0, 1  # as WindowSampler's

    def sample(self, generator: torch.Generator) -> Transitions:
        """A batch of B transitions; the same generator state gives the same batch."""
        return self.gather(self.draw(generator))

    def gather(self, drawn: dict[str, torch.Tensor]) -> Transitions:
        """As WindowSampler's."""
        batch = self._table.index_select(0, drawn["rows"])
        return Transitions(*batch.split_with_sizes(self._widths, dim=1))

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """What `sample` would gather: rows (B,) of the transitions."""
        states = self.transitions.states
        mine, all_ = shared(self.batch_size, self.share)
        rows = torch.randint(len(states), (all_,), generator=generator, device=generator.device)[mine]
        return {"rows": rows.to(states.device)}
