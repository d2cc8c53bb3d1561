"""Windows of episodes whose steps are the rows of one table on the training device."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch

from dtag_fast.data.returns import returns_to_go

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


class WindowTable(ABC):
    """Draws windows and gathers them; who inherits fills the table and says which rows an episode has.

    Args:
        dims: (S, A), widths of states and actions.
        others: as WindowSampler's.

    Raises:
        ValueError: an argument out of its range.
    """

    # Of E episodes, in the order in which they are numbered:
    _table: torch.Tensor  # (R, W >= S + A + 2): state, action, return-to-go, timestep of a step, and more
    _zero_row: torch.Tensor  # () int64, a row of zeros, to which every padded place of a window points
    _first_row: torch.Tensor  # (E,) int64
    _end_row: torch.Tensor  # (E,) int64, the row after the last step
    _num_starts: torch.Tensor  # (E,) steps a window may begin with
    _num_draws: int  # episodes, or steps where episodes are weighted by their lengths

    def __init__(
        self,
        dims: tuple[int, int],
        context_len: int,
        batch_size: int,
        *,
        padding: str,
        weighting: str,
        start: str,
        return_scale: float,
        reward_scale: float,
        reward_shift: float,
        state_mean: np.ndarray | None,
        state_std: np.ndarray | None,
        device: str | torch.device,
    ):
        _choice("padding", padding, ("right", "left"))
        _choice("weighting", weighting, ("uniform", "length"))
        _choice("start", start, ("inside", "anywhere"))
        positive_int("context_len", context_len)
        positive_int("batch_size", batch_size)
        if not return_scale > 0:
            raise ValueError(f"return_scale: expected a number above 0, got {return_scale}")
        self.context_len, self.batch_size = context_len, batch_size
        self.share = 0, 1  # (rank, processes): each draws for all of them and takes its own batch_size
        self.padding, self.weighting, self.start = padding, weighting, start
        self.device = torch.device(device)
        self._state_mean = _per_state("state_mean", state_mean, dims[0])
        self._state_std = _per_state("state_std", state_std, dims[0])
        self._return_scale, self._reward_scale, self._reward_shift = return_scale, reward_scale, reward_shift
        self._widths = (*dims, 1, 1)
        self._positions = torch.arange(context_len, device=self.device)  # (K,)

    def _fill(
        self,
        table: np.ndarray,
        states: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        offsets: np.ndarray,
        discount: float = 1.0,
    ) -> None:
        """Write the steps of episodes.

        Args:
            table: (N, >= S + A + 2) float32 rows; columns after the first S + A + 2 are left alone.
            states: (N, S) float32, are overwritten.
            actions: (N, A). rewards: (N,), transformed by `_rewards`.
            offsets: (E + 1,) first step of each episode, and N.
        """
        state_dim, action_dim = self._widths[:2]
        if self._state_mean is not None:
            states -= self._state_mean
        if self._state_std is not None:
            states /= self._state_std
        both = state_dim + action_dim
        table[:, :state_dim] = states
        table[:, state_dim:both] = actions
        table[:, both] = returns_to_go(rewards, offsets, discount) / self._return_scale
        table[:, both + 1] = np.arange(len(table)) - np.repeat(offsets[:-1], np.diff(offsets))

    def _rewards(self, rewards: np.ndarray) -> np.ndarray:
        """(N,) float64, as they enter the returns before those are divided."""
        return rewards.astype(np.float64) * self._reward_scale + self._reward_shift

    def _starts(self, lengths: np.ndarray) -> np.ndarray:
        """How many steps of episodes of these lengths a window may begin with."""
        return np.maximum(lengths - self.context_len, 0) + 1 if self.start == "inside" else lengths

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def sample(self, generator: torch.Generator):
        """Draw a batch; the same generator state gives the same batch, bit for bit.

        Args:
            generator: lies on the sampler's device, or on the CPU (drawn there and copied).
        """
        return self.gather(self.draw(generator))

    def gather(self, drawn: dict[str, torch.Tensor]):
        """The batch of what `draw` has given; of several draws joined, the batches one after the other."""
        return self.windows(**drawn)

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """What `sample` would gather: episodes (B,) and starts (B,), as `windows` takes them."""
        mine, all_ = shared(self.batch_size, self.share)
        size, where = (all_,), generator.device
        episodes = torch.randint(self._num_draws, size, generator=generator, device=where)[mine]
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=where)[mine]
        episodes, uniform = episodes.to(self.device), uniform.to(self.device)
        if self.weighting == "length":  # a uniform step is of an episode with probability ~ its length
            episodes = self._episodes_of(episodes)
        return {
            "episodes": episodes,
            "starts": uniform.mul_(self._num_starts.index_select(0, episodes)).long(),
        }

    @abstractmethod
    def _episodes_of(self, steps: torch.Tensor) -> torch.Tensor:
        """(B,) episodes of steps (B,) that are numbered through all episodes."""

    def windows(self, episodes: torch.Tensor, starts: torch.Tensor):
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
        place, first, end = self._spans(episodes, starts)
        rows = place + self._positions  # (B, K)
        mask = rows >= first if self.padding == "left" else rows < end
        return torch.where(mask, rows, self._zero_row), mask

    def _spans(self, episodes: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows of windows, (B, 1) each: of place 0 if it were no padding, of the first step, and the one
        after the episode's last step."""
        first = self._first_row.index_select(0, episodes) + starts  # (B,)
        end = self._end_row.index_select(0, episodes)  # (B,)
        place = first
        if self.padding == "left":
            place = first - (first + self.context_len - end).clamp_(min=0)
        return place.unsqueeze(1), first.unsqueeze(1), end.unsqueeze(1)


def check_length(name: str, longest: int) -> None:
    """Refuse episodes whose timesteps float32 does not count."""
    if longest >= _FLOAT32_INTEGERS:
        raise ValueError(f"{name}: expected episodes below {_FLOAT32_INTEGERS} steps, got one of {longest}")


def shared(batch_size: int, share: tuple[int, int]) -> tuple[slice, int]:
    """Which rows of a batch drawn for all processes are this one's, and how many there are in all."""
    rank, world = share
    return slice(rank * batch_size, (rank + 1) * batch_size), world * batch_size


def positive_int(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected an integer above 0, got {value!r}")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")


def _per_state(name: str, value, state_dim: int) -> np.ndarray | None:
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float32)
    if array.shape != (state_dim,):
        raise ValueError(f"{name}: expected ({state_dim},) to match the states, got {array.shape}")
    return array
