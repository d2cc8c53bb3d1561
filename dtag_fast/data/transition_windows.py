"""Windows for values that are learned on every step: rewards, ends, and the window one step on."""

from typing import NamedTuple

import torch

from dtag_fast.data.window_table import Windows


class TransitionWindows(NamedTuple):
    """B windows of K steps, and for each step what a temporal-difference target needs.

    Attributes:
        windows: as a policy sees step j: states, actions and returns-to-go up to it.
        following: the windows one step on, as a policy sees what comes after step j: its place j holds step
            j + 1 of the episode. After an episode's last step that is its last observation, with a
            return-to-go of 0. The action of the last place is zeros: no output sees it. Its mask is True at
            every place j where that of `windows` is.
        rewards: (B, K) float32, of the critic, which may be scaled unlike those in the returns.
        terminations: (B, K) float32, 1 where the environment ended the episode; a time-out is 0.
    """

    windows: Windows
    following: Windows
    rewards: torch.Tensor
    terminations: torch.Tensor
