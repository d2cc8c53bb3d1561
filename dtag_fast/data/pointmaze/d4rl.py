"""D4RL's maze2d in its own coordinates, on the physics of Gymnasium-Robotics' PointMaze.

Both move a ball of the same size, mass and damping by the same motors through the same walls (D4RL,
`pointmaze/maze_model.py`; Gymnasium-Robotics, `assets/point/point.xml`). D4RL's first axis runs down the rows
and its second along the columns. Its walls stand at (row + 1, column + 1) and its ball starts from 1.2, so a
ball at a cell's (row, column) is `OFFSET` beyond the cell's centre on both axes; PointMaze's origin is the
middle of the maze. With h rows and w columns

    d = (h / 2 - 1/2 - OFFSET - y,  x + w / 2 - 1/2 - OFFSET)

and velocities and forces turn alike, (-y, x).
"""

import numpy as np

from dtag_fast.data.pointmaze.mazes import MAZES, Maze

OFFSET = 0.2  # metres
WRAPPERS = {"sparse": "d4rl_maze2d", "dense": "d4rl_maze2d_dense"}  # in an env_spec, by D4RL's reward type

_OPEN = Maze(
    size="open",
    env_id="PointMaze_Open-v3",
    layout=("#######", "#.....#", "#..G..#", "#.....#", "#######"),
    max_episode_steps=150,
    ref_min_score=0.01,
    ref_max_score=20.66,
)
D4RL_MAZES = {**MAZES, "open": _OPEN}


def d4rl_maze_of(env_id: str) -> Maze:
    """The maze of an environment id ("PointMaze_UMaze-v3").

    Raises:
        ValueError: D4RL's maze2d has no maze of this layout.
    """
    for maze in D4RL_MAZES.values():
        if maze.env_id == env_id:
            return maze
    ids = ", ".join(maze.env_id for maze in D4RL_MAZES.values())
    raise ValueError(f"env_id: D4RL's maze2d is played in one of {ids}, got {env_id}")


def to_d4rl(maze: Maze, states: np.ndarray) -> np.ndarray:
    """PointMaze's states (..., 4) [x, y, vx, vy] as D4RL's observations (..., 4)."""
    x, y, vx, vy = np.moveaxis(np.asarray(states), -1, 0)
    rows, columns = maze.walls.shape
    first, second = rows / 2 - 0.5 - OFFSET - y, x + columns / 2 - 0.5 - OFFSET
    return np.stack([first, second, -vy, vx], axis=-1)


def from_d4rl(maze: Maze, observations: np.ndarray) -> np.ndarray:
    """D4RL's observations (..., 4) as PointMaze's states (..., 4) [x, y, vx, vy]."""
    first, second, v_first, v_second = np.moveaxis(np.asarray(observations), -1, 0)
    rows, columns = maze.walls.shape
    x, y = second - columns / 2 + 0.5 + OFFSET, rows / 2 - 0.5 - OFFSET - first
    return np.stack([x, y, v_second, -v_first], axis=-1)


def force_from_d4rl(actions: np.ndarray) -> np.ndarray:
    """D4RL's actions (..., 2) as PointMaze's (..., 2)."""
    return np.stack([actions[..., 1], -actions[..., 0]], axis=-1)
