"""An environment that fails, or takes its process along: MORTAL_ENV names a file that says how."""

import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np

ENV_ID = "mortal_env:DtagTest/Mortal-v0"  # gymnasium imports the module by that name


class MortalEnv(gymnasium.Env):
    """Three steps of reward 1; before the episode of seed 2 it kills the process if the file is there.

    The file holds "once" or "always"; "once" deletes it first. With "slow" in it every step takes 0.02 s,
    with "raises" the second step of seed 2 raises, with "interrupts" every reset sends SIGINT to the process.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gymnasium.spaces.Box(-3.0, 3.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t, file = seed, 0, Path(os.environ.get("MORTAL_ENV", "/nonexistent"))
        self.order = file.read_text() if file.exists() else ""
        if self.order == "interrupts":
            os.kill(os.getpid(), signal.SIGINT)
        if seed == 2 and self.order in ("once", "always"):
            if self.order == "once":
                file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(4, seed, np.float32), {}

    def step(self, action):
        if self.order == "slow":
            time.sleep(0.02)
        self.t += 1
        if self.order == "raises" and self.seed == 2 and self.t == 2:
            raise RuntimeError("the simulator gave up")
        return np.full(4, self.t, np.float32), 1.0, self.t == 3, False, {}


if "DtagTest/Mortal-v0" not in gymnasium.registry:
    gymnasium.register("DtagTest/Mortal-v0", entry_point=MortalEnv)
