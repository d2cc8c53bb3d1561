"""An environment whose every number is known beforehand, and that tells what was done to it."""

import gymnasium
import numpy as np

ENV_ID = "DtagTest/Counting-v0"
STATE_DIM, ACTION_DIM = 3, 2


def episode_length(seed: int) -> int:
    """Steps of the episode that `reset(seed=seed)` starts: 1 to 9."""
    return 1 + seed * 7 % 9


def ends_by_time(seed: int) -> bool:
    """True when that episode is truncated, False when it terminates."""
    return seed % 3 == 0


class CountingEnv(gymnasium.Env):
    """State (t, a number that remembers all actions, seed mod 5); reward 1 + 10 t + sum of the action.

    `events` is shared by all instances: ("reset", seed) and ("step", seed, t, action, reward).
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
    events: list = []  # noqa: RUF012 - shared on purpose

    def __init__(self, dict_observations: bool = False, lasts: int | None = None):
        self.dict_observations, self.lasts = dict_observations, lasts
        self.seed, self.over = None, True

    def reset(self, *, seed=None, options=None):
        assert seed is not None, "an evaluation seeds every episode"
        super().reset(seed=seed)
        self.seed, self.t, self.memory, self.over = seed, 0, 0.1 * (seed % 4), False
        self.events.append(("reset", seed))
        return self._observe(), {}

    def step(self, action):
        assert not self.over, "a finished episode was stepped"
        action = np.asarray(action)
        assert action.shape == (ACTION_DIM,)
        reward = 1.0 + 10.0 * self.t + float(action.sum())
        self.events.append(("step", self.seed, self.t, action.copy(), reward))
        self.t += 1
        self.memory = 0.5 * self.memory + float(action.sum())
        self.over = self.t == (self.lasts or episode_length(self.seed))
        by_time = ends_by_time(self.seed)
        return self._observe(), reward, self.over and not by_time, self.over and by_time, {}

    def _observe(self):
        state = np.array([self.t, self.memory, self.seed % 5], np.float32)
        if not self.dict_observations:
            return state
        return {"goal": state[2:], "observation": state[:2], "unused": np.zeros(4)}


if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point=CountingEnv)
