"""Collects PointMaze data with the waypoint controller and writes it as a Minari dataset."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from dtag_fast.data.minari_reader import ENV_SPEC_KEY, OBSERVATION_KEYS_KEY
from dtag_fast.data.new_dataset import RECIPE_KEY, made_before, new_dataset, write_about, write_episodes
from dtag_fast.data.pointmaze.mazes import Maze, env_spec, goal_reward, maze_of, sample_start
from dtag_fast.data.pointmaze.physics import PointMazePhysics, make_gym_env
from dtag_fast.data.pointmaze.waypoints import ControllerConfig, WaypointController

PROGRESS_EVERY = 2000  # steps between two calls of the progress callback


@dataclass(frozen=True)
class Walk:
    """One endless walk of N steps, uncut.

    states (N + 1, 4) float64 [x, y, vx, vy], actions (N, 2) float32, rewards (N,) float64.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


def collect(
    maze: Maze,
    steps: int,
    seed: int,
    *,
    config: ControllerConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Walk:
    """Walk `steps` steps from goal to random goal and label the rewards for the maze's evaluation goal.

    D4RL's maze2d protocol: the ball is placed once (`sample_start`) and then never reset, and the goals it
    walks to have no part in the rewards. The reward of step t is that of the state it ends in, as `env.step`
    returns it (D4RL's files label the state it starts from, one row earlier).

    Args:
        maze: which maze.
        steps: number of steps N, at least 1.
        seed: same seed, same bits.
        config: gains and noises of the controller.
        progress: called with (steps done, steps in all) now and then and at the end.

    Raises:
        ValueError: steps is below 1.
        ImportError: gymnasium-robotics is not installed.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}; give the number of steps to collect")
    config = config or ControllerConfig()
    rng = np.random.default_rng(seed)
    env = make_gym_env(maze)
    try:
        physics = PointMazePhysics(env.unwrapped.model)
        controller = WaypointController(maze, config, rng)
        states = np.empty((steps + 1, 4))
        actions = np.empty((steps, 2), dtype=np.float32)
        state = physics.reset(*sample_start(maze, rng))
        states[0] = state
        for first in range(0, steps, PROGRESS_EVERY):
            last = min(first + PROGRESS_EVERY, steps)
            noise = (config.action_noise * rng.standard_normal((last - first, 2))).tolist()
            for t, (nx, ny) in enumerate(noise, start=first):
                fx, fy = controller.force(*state)
                # Stepping with the rounded action lets the record be replayed to the same states.
                action = actions[t]
                action[0] = min(max(fx + nx, -1.0), 1.0)
                action[1] = min(max(fy + ny, -1.0), 1.0)
                state = physics.step(action)
                states[t + 1] = state
            if progress is not None:
                progress(last, steps)
    finally:
        env.close()
    return Walk(states, actions, goal_reward(states[1:, :2], maze.goal))


def make_pointmaze(
    size: str,
    steps: int,
    seed: int,
    dataset_id: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Collect a PointMaze dataset and write it under the Minari root (MINARI_DATASETS_PATH).

    The walk is cut into episodes of the maze's time limit (300, 600 or 800 steps; the last may be shorter),
    each ending in a truncation, none in a termination. Observations keep PointMaze's dictionary, with the
    evaluation goal as "desired_goal". The metadata holds, beside Minari's own fields and D4RL's reference
    scores: "dtag_observation_keys" (the fixed goal carries no information, so ["observation"]),
    "dtag_env_spec" (the evaluation environment) and "dtag_recipe" (what made the data).

    Args:
        size: "umaze", "medium" or "large".
        steps: number of steps, at least 1.
        seed: same seed, same arrays.
        dataset_id: Minari id; None means "pointmaze/<size>-<steps>-s<seed>-v0".
        progress: called with (steps done, steps in all) now and then and at the end.

    Returns:
        The dataset's id. A dataset of that id and the same recipe is left as it stands.

    Raises:
        ValueError: unknown size, steps below 1, a malformed id, or another dataset has this id already.
        ImportError: gymnasium-robotics is not installed.
    """
    maze = maze_of(size)
    dataset_id = dataset_id or f"pointmaze/{maze.size}-{steps}-s{seed}-v0"
    config = ControllerConfig()
    recipe = {"maze": maze.size, "steps": steps, "seed": seed, "controller": asdict(config)}
    if not made_before(dataset_id, recipe):
        walk = collect(maze, steps, seed, config=config, progress=progress)
        _write(maze, walk, dataset_id, recipe)
    return dataset_id


def _write(maze: Maze, walk: Walk, dataset_id: str, recipe: dict) -> None:
    """Write the walk's episodes as a dataset."""
    env = make_gym_env(maze)
    try:
        with new_dataset(dataset_id) as folder:
            spaces = env.observation_space, env.action_space
            write_episodes(folder, *spaces, env.spec, _episodes(maze, walk))
            about = {
                "eval_env_spec": env.spec.to_json(),
                "algorithm_name": "waypoint controller (grid search, PD, action noise)",
                "description": f"PointMaze {maze.size}, D4RL maze2d protocol: rewards for one fixed goal.",
                "ref_min_score": maze.ref_min_score,
                "ref_max_score": maze.ref_max_score,
                "requirements": ["gymnasium-robotics>=1.4"],
                OBSERVATION_KEYS_KEY: ["observation"],
                ENV_SPEC_KEY: env_spec(maze),
                RECIPE_KEY: recipe,
            }
            write_about(folder, dataset_id, about)
    finally:
        env.close()


def _episodes(maze: Maze, walk: Walk) -> Iterator:
    """Minari's buffers of the walk, cut at the maze's time limit."""
    from minari.data_collector import EpisodeBuffer

    for first in range(0, len(walk.actions), maze.max_episode_steps):
        last = min(first + maze.max_episode_steps, len(walk.actions))
        states = walk.states[first : last + 1]  # (T + 1, 4): the next episode starts where this one ends
        ends = np.zeros(last - first, dtype=bool)
        ends[-1] = True
        yield EpisodeBuffer(
            observations={
                "observation": states,
                "achieved_goal": states[:, :2],
                "desired_goal": np.broadcast_to(maze.goal, (len(states), 2)),
            },
            actions=walk.actions[first:last],
            rewards=walk.rewards[first:last],
            terminations=np.zeros(last - first, dtype=bool),
            truncations=ends,
        )
