"""Windows with the reward of every step, for values that are learned from sequences."""

from typing import NamedTuple

import numpy as np
import torch

from dtag_fast.data.samplers import WindowSampler
from dtag_fast.data.store import TrajectoryStore
from dtag_fast.data.window_table import Windows


class RewardWindows(NamedTuple):
    """A batch of B windows of K steps, and what followed each step; zeros where `windows.mask` is False.

    Attributes:
        windows: what a sequence model takes.
        rewards: (B, K) float32, as they enter the returns but not divided by return_scale.
        terminations: (B, K) float32, 1 where the environment ended the episode; a time-out is 0.
    """

    windows: Windows
    rewards: torch.Tensor
    terminations: torch.Tensor


class RewardWindowSampler(WindowSampler):
    """A `WindowSampler` whose batches are `RewardWindows`; it draws the same windows from the same generator.

    Arguments as WindowSampler's.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        *args,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        **options,
    ):
        super().__init__(store, *args, reward_scale=reward_scale, reward_shift=reward_shift, **options)
        outcomes = np.zeros((store.num_steps + 1, 2), dtype=np.float32)  # the last row is that of padding
        outcomes[:-1, 0] = store.rewards.astype(np.float64) * reward_scale + reward_shift
        outcomes[:-1, 1] = store.terminations
        self._outcomes = torch.from_numpy(outcomes).to(self.device)

    def windows(self, episodes: torch.Tensor, starts: torch.Tensor) -> RewardWindows:
        """The windows of given episodes and first steps; arguments as WindowSampler's."""
        rows, mask = self._rows(episodes, starts)
        rewards, terminations = self._outcomes.index_select(0, rows.view(-1)).view(*mask.shape, 2).unbind(-1)
        return RewardWindows(self._gathered(rows, mask), rewards, terminations)
