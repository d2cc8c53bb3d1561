"""PointMaze's MuJoCo model stepped without the environment around it: 4 times the steps per second.

The states are the environment's to the last bit.

`PointMazeEnv.step` clips the velocity to +-5 m/s through `set_state` (a whole forward pass), advances one
`mj_step`, computes contact forces for the viewer and builds a dictionary. The next state depends on the
velocity clip and `mj_step` alone, so only these are left here.
"""

import numpy as np

from dtag_fast.data import robotics
from dtag_fast.data.pointmaze.mazes import Maze, env_spec

MAX_SPEED = 5.0  # metres per second and axis, PointEnv's limit


def make_gym_env(maze: Maze):
    """The Gymnasium-Robotics environment of a maze (random goals, the maze2d protocol not yet around it).

    Raises:
        ImportError: gymnasium-robotics is not installed.
    """
    import gymnasium

    if not robotics.is_installed():
        raise ImportError(f"PointMaze {robotics.MISSING}")
    robotics.register()
    spec = env_spec(maze)
    env = gymnasium.make(spec["id"], max_episode_steps=spec["max_episode_steps"], **spec["kwargs"])
    robotics.remove_model_file(env)
    return env


class PointMazePhysics:
    """The ball's dynamics: `reset` to a state, `step` with a force.

    Args:
        model: the `mujoco.MjModel` of a PointMaze environment (`env.unwrapped.model`).
    """

    def __init__(self, model):
        import mujoco

        self._mujoco = mujoco
        self._step = mujoco.mj_step
        self.model = model
        self.data = mujoco.MjData(model)

    def reset(self, position: np.ndarray, velocity: np.ndarray) -> list[float]:
        """Put the ball at `position` (2,) metres with `velocity` (2,) m/s; returns [x, y, vx, vy]."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = position
        self.data.qvel[:] = velocity
        self._mujoco.mj_forward(self.model, self.data)
        return self.state()

    def state(self) -> list[float]:
        """[x, y, vx, vy] in metres and metres per second."""
        return self.data.qpos.tolist() + self.data.qvel.tolist()

    def step(self, force: np.ndarray) -> list[float]:
        """Advance 0.01 s under `force` (2,) in [-1, 1]; returns the state [x, y, vx, vy] after it."""
        data = self.data
        vx, vy = data.qvel.tolist()
        if not (-MAX_SPEED <= vx <= MAX_SPEED and -MAX_SPEED <= vy <= MAX_SPEED):
            np.clip(data.qvel, -MAX_SPEED, MAX_SPEED, out=data.qvel)
        data.ctrl[:] = force
        self._step(self.model, data)
        return data.qpos.tolist() + data.qvel.tolist()
