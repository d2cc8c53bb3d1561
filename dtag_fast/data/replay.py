"""The replay buffer of online fine-tuning: whole episodes, first in, first out, and windows of them.

Online Decision Transformer (Zheng et al. 2022, arXiv 2202.05607) keeps the episodes of highest return of the
offline data and overwrites them, the lowest first, by those it collects. Returns-to-go are what an episode
really earned from a step on (hindsight), whatever return it was asked for. TD3+ODT (Yan et al. 2024, arXiv
2410.24108) trains a critic on the same windows, see `TransitionWindows`.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from dtag_fast.data.episode_tensors import episodes_from_tensors, episodes_to_tensors
from dtag_fast.data.row_queue import RowQueue
from dtag_fast.data.store import Episode, TrajectoryStore
from dtag_fast.data.transition_windows import TransitionWindows
from dtag_fast.data.validation import check_episode
from dtag_fast.data.window_table import Windows, WindowTable, check_length, positive_int


class _Kept(NamedTuple):
    length: int
    episode_return: float  # of the rewards as stored
    episode: Episode | None  # None where the dataset can give it back


class ReplayBuffer(WindowTable):
    """Whole episodes on the training device, of which windows are drawn as by `WindowSampler`.

    Draws depend on the episodes, their order and the generator alone. A batch is `Windows`, or
    `TransitionWindows` if `following`; its windows are bit for bit those that a `WindowSampler` with the same
    arguments draws from a store of these episodes, oldest first. Adding an episode costs about as much as
    copying it. What is drawn or captured in a CUDA graph holds until the next `add`: gather or record again
    after it.

    Args:
        capacity: most episodes at once, at least 1; the oldest goes when another comes. None: no limit.
        context_len, batch_size, padding, weighting, start, return_scale, reward_scale, reward_shift,
            state_mean, state_std, device: as WindowSampler's.
        state_dim, action_dim: S and A.
        following: batches are `TransitionWindows`.
        critic_reward_scale: rewards of TransitionWindows are (reward * reward_scale + reward_shift) *
            critic_reward_scale.
        paper_timeouts: the last step of every episode counts as a termination in TransitionWindows, as in the
            published code of ODT and TD3+ODT; values near a time limit are then too low.

    Attributes:
        added: episodes ever added.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        capacity: int | None,
        context_len: int,
        batch_size: int,
        *,
        state_dim: int,
        action_dim: int,
        following: bool = False,
        padding: str = "left",
        weighting: str = "length",
        start: str = "anywhere",
        return_scale: float = 1.0,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        critic_reward_scale: float = 1.0,
        paper_timeouts: bool = False,
        state_mean: np.ndarray | None = None,
        state_std: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ):
        if capacity is not None:
            positive_int("capacity", capacity)
        positive_int("state_dim", state_dim)
        positive_int("action_dim", action_dim)
        super().__init__(
            (state_dim, action_dim),
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
        self.capacity, self.following = capacity, following
        self._dims = state_dim, action_dim
        self._critic_reward_scale, self._paper_timeouts = critic_reward_scale, paper_timeouts
        if following:  # reward and termination; and an episode has a row more, of its last observation
            self._widths = (*self._widths, 1, 1)
            self._ahead = torch.arange(2, device=self.device).view(2, 1, 1)  # windows, and the following ones
            self._positions = self._positions + self._ahead  # (2, 1, K)
        self._zero_row = self._tensor(np.int64(0))
        self._steps = RowQueue((sum(self._widths),), torch.float32, self.device)
        # By episode: its rows in the table; steps a window may begin with; steps ever added up to its end.
        self._places = RowQueue((2,), torch.int64, self.device)
        self._counts = RowQueue((), torch.float64, self.device)
        self._ends = RowQueue((), torch.int64, self.device)
        self._kept: deque[_Kept] = deque()
        self.added = 0
        self._steps_added = self._steps_dropped = 0
        self._offline = 0, 0  # episodes and steps ever added when `mark_offline` was called
        self._index()

    @property
    def num_episodes(self) -> int:
        return len(self._kept)

    @property
    def num_steps(self) -> int:
        return self._steps_added - self._steps_dropped

    @property
    def episode_returns(self) -> np.ndarray:
        """(E,) float64 sum of the rewards of each episode as they were given, oldest episode first."""
        return np.array([kept.episode_return for kept in self._kept], dtype=np.float64)

    def add(self, episode: Episode) -> None:
        """Append an episode; the oldest goes if there are `capacity` already.

        Args:
            episode: as TrajectoryStore.from_episodes takes; read-only arrays are kept, others copied.

        Raises:
            ValueError: names the array that is empty, not finite or of another shape; nothing has changed.
        """
        self._append(self._checked(episode, f"replay buffer: episode {self.added}"))

    def add_all(self, episodes: Iterable[Episode]) -> None:
        """`add` one after the other."""
        for episode in episodes:
            self.add(episode)

    def _checked(self, episode: Episode, where: str) -> Episode:
        checked = Episode(*check_episode(episode, where, self._dims))
        check_length(where, len(checked.actions))
        return Episode(*map(_unchanging, checked))

    def _append(self, episode: Episode) -> None:
        rows, length = torch.from_numpy(self._rows_of(episode)), len(episode.actions)
        moved = self._steps.append(rows)
        if moved:
            self._places.rows.sub_(moved)
        first = self._steps.end - len(rows)
        self._steps_added += length
        self._places.append(torch.tensor([[first, first + length]]))
        self._counts.append(torch.from_numpy(self._starts(np.array([length])).astype(np.float64)))
        self._ends.append(torch.tensor([self._steps_added]))
        episode_return = np.add.reduceat(episode.rewards, [0], dtype=np.float64)[0]  # rounded as a store's
        self._kept.append(_Kept(length, float(episode_return), episode))
        self.added += 1
        if self.capacity is not None and self.num_episodes > self.capacity:
            self._drop_oldest()
        self._index()

    def _drop_oldest(self) -> None:
        length = self._kept.popleft().length
        self._steps.drop(length + self.following)
        for queue in (self._places, self._counts, self._ends):
            queue.drop(1)
        self._steps_dropped += length

    def _index(self) -> None:
        """Let draws and windows see what the queues hold now."""
        self._table = self._steps.tensor
        self._first_row, self._end_row = self._places.rows.unbind(1)
        self._num_starts, self._end_step = self._counts.rows, self._ends.rows
        self._num_draws = self.num_steps if self.weighting == "length" else self.num_episodes

    def _rows_of(self, episode: Episode) -> np.ndarray:
        """(T, W) rows of the table; if following (T + 1, W), with the last observation and zeros."""
        length = len(episode.actions)
        rows = np.zeros((length + self.following, sum(self._widths)), dtype=np.float32)
        actions = np.zeros((len(rows), self._dims[1]), dtype=np.float32)
        actions[:length] = episode.actions
        rewards = np.zeros(len(rows))
        rewards[:length] = self._rewards(episode.rewards)
        states = episode.observations[: len(rows)].copy()
        self._fill(rows, states, actions, rewards, np.array([0, len(rows)]))
        if self.following:
            rows[:, -2] = rewards * self._critic_reward_scale
            rows[:length, -1] = episode.terminations
            if self._paper_timeouts:
                rows[length - 1, -1] = 1
        return rows

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """As WindowSampler's; episode 0 is the oldest.

        Raises:
            ValueError: there is no episode.
        """
        if not self._kept:
            raise ValueError("replay buffer: there is no episode to draw from; add one first")
        return super().draw(generator)

    def _episodes_of(self, steps: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(self._end_step, steps + self._steps_dropped, right=True)

    def windows(self, episodes: torch.Tensor, starts: torch.Tensor) -> Windows | TransitionWindows:
        """The windows of given episodes, 0 the oldest, and first steps; arguments as WindowSampler's."""
        if not self.following:
            return super().windows(episodes, starts)
        place, first, end = self._spans(episodes, starts)
        rows = place + self._positions  # (2, B, K)
        mask = rows >= first if self.padding == "left" else rows < end + self._ahead
        rows = torch.where(mask, rows, self._zero_row)
        block = self._table.index_select(0, rows.view(-1)).view(*mask.shape, -1)  # (2, B, K, S + A + 4)
        states, actions, returns_to_go, timesteps, rewards, ends = block.split_with_sizes(
            self._widths, dim=-1
        )
        actions[1, :, -1].zero_()
        columns = states, actions, returns_to_go, timesteps.squeeze(-1).long(), mask
        windows, following = (Windows(*(column[i] for column in columns)) for i in range(2))
        return TransitionWindows(windows, following, rewards[0].squeeze(-1), ends[0].squeeze(-1))

    def mark_offline(self) -> None:
        """What is here now comes from a dataset and is not saved: whoever loads adds it again first."""
        self._offline = self.added, self._steps_added
        self._kept = deque(kept._replace(episode=None) for kept in self._kept)

    def state_dict(self) -> dict[str, Any]:
        """Counts, and the episodes that `mark_offline` has not covered: host tensors in a store's layout."""
        episodes = [kept.episode for kept in self._kept if kept.episode is not None]
        return self._fixed() | {"added": self.added, "episodes": episodes_to_tensors(episodes, self._dims)}

    def _fixed(self) -> dict[str, int | None]:
        """What a state and the buffer that takes it have in common."""
        episodes, steps = self._offline
        return {"capacity": self.capacity, "offline_episodes": episodes, "offline_steps": steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the saved buffer was: with the same draws, and the same episodes going next.

        Args:
            state: of a buffer of the same arguments. This one holds what that one held when it was marked
                offline and is marked too, or is empty if that never was.

        Raises:
            ValueError: the state does not belong to this buffer, or is damaged; nothing has changed.
        """
        for name, own in self._fixed().items():
            if (saved := state.get(name, "nothing")) != own:
                raise ValueError(
                    f"replay buffer: expected a state with {name} = {own}, got {saved}; make the "
                    "buffer with the same settings and fill it from the same dataset"
                )
        if self.added != self._offline[0]:
            raise ValueError(
                f"replay buffer: a state goes into the {self._offline[0]} episodes of the dataset alone, got "
                f"{self.added - self._offline[0]} more; load it before adding others"
            )
        where = "replay buffer: its state"
        episodes = [
            self._checked(episode, f"{where}: episode {number}")
            for number, episode in enumerate(episodes_from_tensors(state["episodes"], where))
        ]
        since = state["added"] - self.added
        kept = since if self.capacity is None else min(since, self.capacity)
        if len(episodes) != kept:
            raise ValueError(
                f"replay buffer: expected a state with {kept} of {since} episodes added to the dataset's, "
                f"got {len(episodes)}; the state is damaged"
            )
        for episode in episodes:
            self._append(episode)
        self.added = state["added"]


def _unchanging(array: np.ndarray) -> np.ndarray:
    return array.copy() if array.flags.writeable else array


def top_episodes(store: TrajectoryStore, count: int | None) -> np.ndarray:
    """The episodes of highest return, the lowest of them first: in a buffer it is then the first to go.

    Args:
        store: the trajectories.
        count: how many, at least 1; all where there are fewer, or if None.

    Returns:
        (n,) int64 indices, ascending in return; of equal returns the later episodes are chosen and lie later.

    Raises:
        ValueError: count below 1.
    """
    if count is not None:
        positive_int("count", count)
    order = np.argsort(store.episode_returns, kind="stable")
    return order if count is None else order[-count:]
