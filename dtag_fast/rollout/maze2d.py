"""D4RL's maze2d tasks around Gymnasium-Robotics' PointMaze: one goal, any start, no end."""

from functools import partial
from typing import Literal

import gymnasium
import numpy as np

from dtag_fast.data.pointmaze import GOAL_RADIUS, d4rl, goal_reward, maze_of, sample_start
from dtag_fast.data.pointmaze.mazes import START_POSITION_NOISE, START_VELOCITY_NOISE


class Maze2d(gymnasium.Wrapper):
    """The protocol in PointMaze's coordinates, for data of `dtag data make`: reward 1 at the goal, else 0.

    A start depends on the seed alone (`sample_start` with a generator of that seed); without a seed it
    continues the last generator.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.maze = maze_of(env.spec.id)
        self._rng = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        _, info = self.env.reset(seed=seed, options=options)
        base = self.unwrapped
        base.goal = self.maze.goal.copy()
        base.update_target_site_pos()
        position, velocity = sample_start(self.maze, self._rng)
        base.point_env.set_state(position, velocity)
        observation = base._get_obs(np.concatenate([position, velocity]))
        info["success"] = bool(goal_reward(position, self.maze.goal))
        return observation, info

    def step(self, action):
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = float(goal_reward(observation["achieved_goal"], self.maze.goal))
        info["success"] = bool(reward)
        return observation, reward, terminated, truncated, info


class D4rlMaze2d(gymnasium.Wrapper):
    """D4RL's own task, for its files: observations (4,), actions (2,), goal and starts in D4RL's coordinates.

    A start is a random free cell's (row, column), the goal's included, with uniform noise on both and normal
    noise on the velocity. It depends on the seed alone; without a seed it continues the last generator.

    Args:
        env: PointMaze, by its Gymnasium id.
        reward_type: of a step that ends at distance r from the goal, "sparse": 1 if r <= 0.5, else 0;
            "dense": exp(-r).
    """

    def __init__(self, env: gymnasium.Env, reward_type: Literal["sparse", "dense"] = "sparse"):
        super().__init__(env)
        self.maze, self.reward_type = d4rl.d4rl_maze_of(env.spec.id), reward_type
        self.goal = np.array(self.maze.goal_cell, float)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self._rng = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        _, info = self.env.reset(seed=seed, options=options)
        cell = self.maze.free_cells[int(self._rng.integers(len(self.maze.free_cells)))]
        position = cell + self._rng.uniform(-START_POSITION_NOISE, START_POSITION_NOISE, size=2)
        observation = np.concatenate([position, START_VELOCITY_NOISE * self._rng.standard_normal(2)])
        state = d4rl.from_d4rl(self.maze, observation)
        base = self.unwrapped
        base.goal = d4rl.from_d4rl(self.maze, np.append(self.goal, [0.0, 0.0]))[:2]
        base.update_target_site_pos()
        base.point_env.set_state(state[:2], state[2:])
        info["success"] = bool(self._distance(observation) <= GOAL_RADIUS)
        return observation, info

    def step(self, action):
        found, _, terminated, truncated, info = self.env.step(d4rl.force_from_d4rl(np.asarray(action)))
        observation = d4rl.to_d4rl(self.maze, found["observation"])
        distance = self._distance(observation)
        info["success"] = bool(distance <= GOAL_RADIUS)
        reward = float(np.exp(-distance)) if self.reward_type == "dense" else float(info["success"])
        return observation, reward, terminated, truncated, info

    def _distance(self, observation: np.ndarray) -> float:
        return float(np.linalg.norm(observation[:2] - self.goal))


# By the name that an env_spec has for it.
WRAPPERS = {"maze2d": Maze2d} | {
    name: partial(D4rlMaze2d, reward_type=kind) for kind, name in d4rl.WRAPPERS.items()
}
