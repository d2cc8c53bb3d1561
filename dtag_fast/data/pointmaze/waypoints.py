"""Waypoint controller for PointMaze: a shortest path over grid cells, followed by a PD law.

    force = clip(p_gain * (waypoint - position) - d_gain * velocity + noise, -1, 1)

The controller works on Python floats: with four numbers of state, array calls would cost more than physics.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from dtag_fast.data.pointmaze.mazes import Maze

Cell = tuple[int, int]


def neighbours(walls: np.ndarray, cell: Cell) -> list[Cell]:
    """Free cells that share a side with `cell`, in the order up, down, left, right."""
    rows, columns = walls.shape
    i, j = cell
    around = ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))
    return [(a, b) for a, b in around if 0 <= a < rows and 0 <= b < columns and not walls[a, b]]


def distances_to(walls: np.ndarray, goal: Cell) -> np.ndarray:
    """Steps from every cell to `goal` along free cells (breadth-first search).

    Args:
        walls: (rows, columns) bool.
        goal: (row, column) of a free cell.

    Returns:
        (rows, columns) int64; -1 where a wall stands or no way leads to the goal.

    Raises:
        ValueError: the goal is a wall.
    """
    if walls[goal]:
        raise ValueError(f"goal: cell {goal} is a wall; take a free cell")
    distance = np.full(walls.shape, -1, dtype=np.int64)
    distance[goal] = 0
    frontier = deque([goal])
    while frontier:
        cell = frontier.popleft()
        for near in neighbours(walls, cell):
            if distance[near] < 0:
                distance[near] = distance[cell] + 1
                frontier.append(near)
    return distance


def shortest_path(walls: np.ndarray, start: Cell, goal: Cell, rng: np.random.Generator) -> list[Cell]:
    """Cells of one shortest path from `start` to `goal`, both included; `rng` picks among equally short ones.

    Raises:
        ValueError: the goal is a wall, or no way leads from the start to it.
    """
    distance = distances_to(walls, goal)
    if distance[start] < 0:
        raise ValueError(f"start: no way leads from cell {start} to {goal}; take connected free cells")
    path = [start]
    while path[-1] != goal:
        here = path[-1]
        nearer = [cell for cell in neighbours(walls, here) if distance[cell] == distance[here] - 1]
        path.append(nearer[int(rng.integers(len(nearer)))] if len(nearer) > 1 else nearer[0])
    return path


@dataclass(frozen=True)
class ControllerConfig:
    """Gains and noises of the controller; the collector's data distribution is made of these."""

    p_gain: float = 10.0  # force per metre from the waypoint
    d_gain: float = 1.0  # force per metre per second
    action_noise: float = 0.5  # standard deviation of normal noise on the force (that of D4RL's noisy option)
    waypoint_jitter: float = 0.2  # metres, half width of uniform noise around a cell's centre
    reach: float = 0.1  # metres; nearer than this a waypoint counts as reached


class WaypointController:
    """Walks from goal to random goal without end; call `force` once per step.

    A new goal (a uniformly drawn free cell other than the one the ball is in) is taken when the last waypoint
    is reached, or after `patience` steps on one goal, so that a ball held up by a corner does not stay there.
    """

    def __init__(self, maze: Maze, config: ControllerConfig, rng: np.random.Generator):
        self.maze = maze
        self.config = config
        self.rng = rng
        self.patience = maze.max_episode_steps
        self.waypoints: deque[tuple[float, float]] = deque()
        self.steps_on_goal = 0

    def force(self, x: float, y: float, vx: float, vy: float) -> tuple[float, float]:
        """Noise-free force (before clipping) at position (x, y) in metres and velocity (vx, vy) in m/s."""
        if not self.waypoints or self.steps_on_goal >= self.patience:
            self._take_new_goal(x, y)
        self.steps_on_goal += 1
        wx, wy = self.waypoints[0]
        dx, dy = wx - x, wy - y
        if dx * dx + dy * dy < self.config.reach**2:
            self.waypoints.popleft()
        p, d = self.config.p_gain, self.config.d_gain
        return p * dx - d * vx, p * dy - d * vy

    def _take_new_goal(self, x: float, y: float) -> None:
        here = self.maze.cell((x, y))
        goals = [cell for cell in self.maze.free_cells if cell != here]
        goal = goals[int(self.rng.integers(len(goals)))]
        # The first cell of the path is left out: the segment from any point of a cell to a point of its
        # neighbour stays inside the two, so there is no need to walk back to the present cell's centre.
        path = shortest_path(self.maze.walls, here, goal, self.rng)[1:]
        jitter = self.config.waypoint_jitter
        points = np.array([self.maze.position(cell) for cell in path])
        points += self.rng.uniform(-jitter, jitter, size=points.shape)
        self.waypoints = deque((px, py) for px, py in points.tolist())
        self.steps_on_goal = 0
