"""A small dataset with short and long, terminated and timed-out episodes; lets tests import tiny_critics."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import TrainedCritic
from dtag_fast.data import Episode, TrajectoryStore
from dtag_fast.models import TwinCritic, ValueNet

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def store() -> TrajectoryStore:
    """State 4, action 2; the recorded action is a function of the state, the reward one of both."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 2))
    episodes = []
    for length, timed_out in ((30, False), (7, True), (2, False), (50, True)):
        states = rng.normal(size=(length + 1, 4))
        actions = np.tanh(states[:-1] @ weight)
        rewards = 1.0 - (actions**2).sum(axis=1) * length / 50
        last = np.arange(length) == length - 1
        episodes.append(Episode(states, actions, rewards, last & (not timed_out), last & timed_out))
    return TrajectoryStore.from_episodes(
        episodes, {"dataset_id": "toy/small-v0", "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}
    )


@pytest.fixture
def trained_critic() -> TrainedCritic:
    """Networks of the store's sizes, as an IQL run would leave them but for the training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TrainedCritic(TwinCritic(4, 2, hidden=(16,)), ValueNet(4, hidden=(16, 8)))
