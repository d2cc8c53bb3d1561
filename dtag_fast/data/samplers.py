"""Random windows and transitions, gathered on the training device from flat tensors."""

from typing import NamedTuple

import numpy as np
import torch

from dtag_fast.data.returns import returns_to_go
from dtag_fast.data.store import TrajectoryStore

_FLOAT32_INTEGERS = 1 << 24  # timesteps ride in a float32 column, which counts exactly up to here


class Windows(NamedTuple):
    """A batch of B windows of K steps; padded places hold zeros and are False in `mask`.

    The three float tensors are column ranges of one gathered block: `.view(B * K, -1)` works,
    `.is_contiguous()` is False.

    Attributes:
        states: (B, K, S) float32, standardised with the sampler's mean and std.
        actions: (B, K, A) float32.
        returns_to_go: (B, K, 1) float32, return from this step to the end of the episode / return_scale.
        timesteps: (B, K) int64, position within the episode.
        mask: (B, K) bool, True on real steps.
    """

    states: torch.Tensor
    actions: torch.Tensor
    returns_to_go: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor


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


class WindowSampler:
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
        _choice("padding", padding, ("right", "left"))
        _choice("weighting", weighting, ("uniform", "length"))
        _choice("start", start, ("inside", "anywhere"))
        _positive_int("context_len", context_len)
        _positive_int("batch_size", batch_size)
        if not return_scale > 0:
            raise ValueError(f"return_scale: expected a number above 0, got {return_scale}")
        if (longest := store.episode_lengths.max()) >= _FLOAT32_INTEGERS:
            raise ValueError(
                f"store: expected episodes below {_FLOAT32_INTEGERS} steps, got one of {longest}"
            )
        self.context_len, self.batch_size = context_len, batch_size
        self.share = 0, 1  # (rank, processes): each draws for all of them and takes its own batch_size
        self.padding, self.weighting, self.start = padding, weighting, start
        self.device = torch.device(device)

        rewards = store.rewards.astype(np.float64) * reward_scale + reward_shift
        rtg = returns_to_go(rewards, store.offsets, discount) / return_scale
        states = store.observations[store.state_rows]
        if state_mean is not None:
            states -= _per_state("state_mean", state_mean, store.state_dim)
        if state_std is not None:
            states /= _per_state("state_std", state_std, store.state_dim)
        # (N + 1, S + A + 2): state, action, return-to-go and timestep of each step, gathered together, and a
        # row of zeros that every padded place of a window points to.
        lengths = store.episode_lengths
        self._widths = (store.state_dim, store.action_dim, 1, 1)
        table = np.zeros((store.num_steps + 1, sum(self._widths)), dtype=np.float32)
        table[:-1, : store.state_dim] = states
        table[:-1, store.state_dim : -2] = store.actions
        table[:-1, -2] = rtg
        table[:-1, -1] = np.arange(store.num_steps) - np.repeat(store.offsets[:-1], lengths)
        self._table = torch.from_numpy(table).to(self.device)

        self._zero_row = self._tensor(np.int64(store.num_steps))
        self._first_row = self._tensor(store.offsets[:-1])  # (E,)
        self._end_row = self._tensor(store.offsets[1:])  # (E,)
        starts = np.maximum(lengths - context_len, 0) + 1 if start == "inside" else lengths
        self._num_starts = self._tensor(starts.astype(np.float64))  # (E,)
        self._num_draws = store.num_steps if weighting == "length" else store.num_episodes
        if weighting == "length":  # a uniform step belongs to an episode with probability ~ its length
            self._episode_of_step = self._tensor(np.repeat(np.arange(store.num_episodes), lengths))  # (N,)
        self._positions = torch.arange(context_len, device=self.device)  # (K,)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def sample(self, generator: torch.Generator) -> Windows:
        """Draw a batch; the same generator state gives the same batch, bit for bit.

        Args:
            generator: lies on the sampler's device, or on the CPU (drawn there and copied).
        """
        return self.gather(self.draw(generator))

    def gather(self, drawn: dict[str, torch.Tensor]) -> Windows:
        """The batch of what `draw` has given; of several draws joined, the batches one after the other."""
        return self.windows(**drawn)

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """What `sample` would gather: episodes (B,) and starts (B,), as `windows` takes them."""
        mine, all_ = _shared(self.batch_size, self.share)
        size, where = (all_,), generator.device
        episodes = torch.randint(self._num_draws, size, generator=generator, device=where)[mine]
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=where)[mine]
        episodes, uniform = episodes.to(self.device), uniform.to(self.device)
        if self.weighting == "length":
            episodes = self._episode_of_step.index_select(0, episodes)
        return {
            "episodes": episodes,
            "starts": uniform.mul_(self._num_starts.index_select(0, episodes)).long(),
        }

    def windows(self, episodes: torch.Tensor, starts: torch.Tensor) -> Windows:
        """The windows of given episodes and first steps.

        Args:
            episodes: (B,) int64 episode indices.
            starts: (B,) int64 first step of each window, below the episode's length.
        """
        return self._gathered(*self._rows(episodes, starts))

    def _gathered(self, rows: torch.Tensor, mask: torch.Tensor) -> Windows:
        """The steps in `rows` (B, K)."""
        block = self._table.index_select(0, rows.view(-1)).view(*mask.shape, -1)  # (B, K, S + A + 2)
        states, actions, returns_to_go, timesteps = block.split_with_sizes(self._widths, dim=-1)
        return Windows(states, actions, returns_to_go, timesteps.squeeze(-1).long(), mask)

    def _rows(self, episodes: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the steps of windows lie in the table, (B, K), and the windows' mask (B, K)."""
        first = self._first_row.index_select(0, episodes) + starts  # (B,) row of the window's first step
        end = self._end_row.index_select(0, episodes)  # (B,) row after the episode's last step
        if self.padding == "left":
            padded = (first + self.context_len - end).clamp_(min=0)  # (B,)
            rows = (first - padded).unsqueeze(1) + self._positions  # (B, K)
            mask = rows >= first.unsqueeze(1)
        else:
            rows = first.unsqueeze(1) + self._positions
            mask = rows < end.unsqueeze(1)
        return torch.where(mask, rows, self._zero_row), mask


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
    _positive_int("n_step", n_step)
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
        _positive_int("batch_size", batch_size)
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
        mine, all_ = _shared(self.batch_size, self.share)
        rows = torch.randint(len(states), (all_,), generator=generator, device=generator.device)[mine]
        return {"rows": rows.to(states.device)}


def _shared(batch_size: int, share: tuple[int, int]) -> tuple[slice, int]:
    """Which rows of a batch drawn for all processes are this one's, and how many there are in all."""
    rank, world = share
    return slice(rank * batch_size, (rank + 1) * batch_size), world * batch_size


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")


def _positive_int(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected an integer above 0, got {value!r}")


def _per_state(name: str, value, state_dim: int) -> np.ndarray:
    array = np.asarray(value, dtype=np.float32)
    if array.shape != (state_dim,):
        raise ValueError(f"{name}: expected ({state_dim},) to match the states, got {array.shape}")
    return array
