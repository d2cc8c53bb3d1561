"""InvertedPendulum-v5 that fails where it is told to; importable in other processes as "faulty_env:" + ID."""

import os
import signal
import sys
import time
from collections.abc import Sequence

import gymnasium
import numpy as np

ID = "DtagTest/Faulty-v0"
ENV_ID = f"faulty_env:{ID}"
WAITING_ID = "DtagTest/Waiting-v0"  # never fails, takes its time
HANGING_ID = "DtagTest/Hanging-v0"  # hangs in the third step of seed 1
STATE_DIM, ACTION_DIM, MAX_STEPS = 4, 1, 12
# (seed, step, kind) of the environment without arguments; step 0 is the reset
FAULTS = ((1, 3, "raise"), (4, 0, "nan"))


class BrokenError(Exception):
    """What an environment of kind "raise" raises; two lines, as some do."""


class FaultyEnv(gymnasium.Wrapper):
    """Fails in step `step` of the episode of `seed`, for each (seed, step, kind) in `faults`.

    kind: "raise", "nan" (in the observation), "reward" (infinite), "quit" (SystemExit), "exit" (the process,
    with code 7), "kill" (the process kills itself), "hang" (for ever). One that failed refuses everything but
    `close`, which raises then. (-1, 0, kind) fails when it is built. `waits`, `reset_waits`: seconds that a
    step and a reset wait for something else.
    """

    def __init__(
        self, faults: Sequence[tuple[int, int, str]] = FAULTS, waits: float = 0.0, reset_waits: float = 0.0
    ):
        super().__init__(gymnasium.make("InvertedPendulum-v5", disable_env_checker=True))
        self.kinds = {(seed, step): kind for seed, step, kind in faults}
        self.waits, self.reset_waits, self.broken = waits, reset_waits, False
        self.seed, self.t = -1, 0
        self._maybe_fail(np.zeros(STATE_DIM), 0.0)

    def reset(self, *, seed=None, options=None):
        assert not self.broken, "a broken environment was used again"
        self.seed, self.t = seed, 0
        time.sleep(self.reset_waits)
        observation, info = self.env.reset(seed=seed)
        return self._maybe_fail(observation, 0.0)[0], info

    def step(self, action):
        assert not self.broken, "a broken environment was used again"
        self.t += 1
        time.sleep(self.waits)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return *self._maybe_fail(observation, reward), terminated, truncated, info

    def close(self):
        super().close()
        if self.broken:
            raise OSError("a broken environment does not close well")

    def _maybe_fail(self, observation, reward):
        kind = self.kinds.get((self.seed, self.t))
        self.broken = kind is not None
        if kind == "raise":
            raise BrokenError(f"told to fail\nat step {self.t}")
        if kind == "quit":
            sys.exit(3)
        while kind == "hang":
            time.sleep(1)
        if kind == "exit":
            os._exit(7)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "nan":
            observation = observation.copy()
            observation[2] = np.nan
        return observation, np.inf if kind == "reward" else reward


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=FaultyEnv, max_episode_steps=MAX_STEPS)
    gymnasium.register(HANGING_ID, entry_point=FaultyEnv, kwargs={"faults": ((1, 3, "hang"),)})
    gymnasium.register(WAITING_ID, entry_point=FaultyEnv, kwargs={"faults": (), "waits": 0.02})
