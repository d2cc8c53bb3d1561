"""PointMaze under D4RL's maze2d protocol: the table of mazes and a collector of waypoint-controller data."""

from dtag_fast.data.pointmaze.collect import Walk, collect, make_pointmaze
from dtag_fast.data.pointmaze.mazes import (
    GOAL_RADIUS,
    MAZES,
    Maze,
    env_spec,
    goal_reward,
    maze_of,
    sample_start,
)

__all__ = [
    "GOAL_RADIUS",
    "MAZES",
    "Maze",
    "Walk",
    "collect",
    "env_spec",
    "goal_reward",
    "make_pointmaze",
    "maze_of",
    "sample_start",
]
