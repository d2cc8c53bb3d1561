"""A small environment whose numbers are known, and which fails where it is told to."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

WIDTH, LENGTH = 3, 7  # of the observations and the episodes


class Plain(gymnasium.Env):
    """Counts its steps in every entry of the observation and ends after LENGTH; may fail.

    It keeps one array for its observations and clips actions in place, as some environments do.

    Args:
        actions, observations: its spaces.
        fails: what it does in step 3: "raise", "quit", "nan", "huge", "reward", "width", "old".
        fails_at: in place of 3; 0 is the reset.
        samples: whether it draws from its action space itself.
    """

    played = 0  # steps of all of them

    def __init__(self, actions=None, observations=None, fails=None, fails_at=3, samples=False):
        self.action_space = actions or Box(-1, 1, (2,))
        self.observation_space = observations or Box(-np.inf, np.inf, (WIDTH,))
        self.fails, self.fails_at, self.samples, self.t = fails, fails_at, samples, 0
        self.array = np.zeros(WIDTH, np.float64 if fails == "huge" else np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        if self.samples:
            self.action_space.sample()
        Plain.played += 1
        if isinstance(action, np.ndarray):
            action[:] = 0.0
        reward = np.inf if self._fails("reward") else float(self.t)
        step = self._observe(), reward, self.t == LENGTH, False, {}
        return step[:4] if self._fails("old") else step

    def _fails(self, kind):
        return self.fails == kind and self.t == self.fails_at

    def _observe(self):
        if self._fails("raise"):
            raise RuntimeError("told to\nfail")
        if self._fails("quit"):
            raise SystemExit(3)
        self.array[:] = self.t
        self.array[1] = {"nan": np.nan, "huge": 1e39}.get(self.fails, 0) if self.t == self.fails_at else 0
        if isinstance(self.observation_space, Dict):
            return self.observation_space.sample() | {
                "observation": self.array,
                "goal": {"x": self.array[:1]},
            }
        return self.array[:1] if self._fails("width") else self.array
