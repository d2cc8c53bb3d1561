"""The maze2d protocol in one table: layouts, the evaluation goal, starts, reward, limits, reference scores.

D4RL's maze2d tasks (Fu et al., 2020) on the physics of Gymnasium-Robotics' PointMaze: one fixed goal,
reward 1 for every step that ends within `GOAL_RADIUS` of it and 0 otherwise, no termination, a time limit of
300, 600 or 800 steps. The data collector labels rewards with the functions below and the evaluation
environment returns them, so the two can not drift apart.

Coordinates are those of Gymnasium-Robotics: cell (row i, column j) has its centre at
x = j + 0.5 - columns / 2, y = rows / 2 - i - 0.5 (metres). D4RL writes a cell as (row, column) too, so its
goal cells carry over as they are. Here goals and starts lie in the middle of their cells, in D4RL 0.2 m
beyond it on both axes (`d4rl.py`, which is its task as it was).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# D4RL's radius, which its reference scores were measured with. (Gymnasium-Robotics 1.4 rewards within 0.45.)
GOAL_RADIUS = 0.5
# D4RL's starts: the centre of a random free cell (the goal's included), with noise on position and velocity.
START_POSITION_NOISE = 0.1  # metres, half width
START_VELOCITY_NOISE = 0.1  # metres per second, standard deviation


@dataclass(frozen=True)
class Maze:
    """One maze of the protocol.

    Args:
        size: "umaze", "medium" or "large".
        env_id: Gymnasium-Robotics id of the environment that has this layout.
        layout: rows of text, "#" wall, "." free, "G" the evaluation goal (free as well).
        max_episode_steps: time limit of an episode, in steps of 0.01 s.
        ref_min_score: D4RL's return of a random policy in this task (d4rl/infos.py, maze2d-*-v1).
        ref_max_score: D4RL's return of its reference policy.
    """

    size: str
    env_id: str
    layout: tuple[str, ...]
    max_episode_steps: int
    ref_min_score: float
    ref_max_score: float

    @cached_property
    def walls(self) -> np.ndarray:
        """(rows, columns) bool, True where a wall stands."""
        return np.array([[tile == "#" for tile in row] for row in self.layout])

    @cached_property
    def free_cells(self) -> tuple[tuple[int, int], ...]:
        """All cells without a wall as (row, column), in reading order."""
        return tuple((int(i), int(j)) for i, j in np.argwhere(~self.walls))

    @cached_property
    def goal_cell(self) -> tuple[int, int]:
        """(row, column) of the evaluation goal."""
        ((i, j),) = ((i, row.index("G")) for i, row in enumerate(self.layout) if "G" in row)
        return i, j

    @cached_property
    def goal(self) -> np.ndarray:
        """(2,) position of the evaluation goal, in metres."""
        return self.position(self.goal_cell)

    def position(self, cell: tuple[int, int]) -> np.ndarray:
        """(2,) centre (x, y) of a cell, in metres."""
        rows, columns = self.walls.shape
        return np.array([cell[1] + 0.5 - columns / 2, rows / 2 - cell[0] - 0.5])

    def cell(self, position) -> tuple[int, int]:
        """(row, column) of the cell that holds the point (x, y)."""
        rows, columns = self.walls.shape
        return int(np.floor(rows / 2 - position[1])), int(np.floor(position[0] + columns / 2))


MAZES = {
    maze.size: maze
    for maze in (
        Maze(
            size="umaze",
            env_id="PointMaze_UMaze-v3",
            layout=("#####", "#G..#", "###.#", "#...#", "#####"),
            max_episode_steps=300,
            ref_min_score=23.85,
            ref_max_score=161.86,
        ),
        Maze(
            size="medium",
            env_id="PointMaze_Medium-v3",
            layout=(
                "########",
                "#..##..#",
                "#..#...#",
                "##...###",
                "#..#...#",
                "#.#..#.#",
                "#...#.G#",
                "########",
            ),
            max_episode_steps=600,
            ref_min_score=13.13,
            ref_max_score=277.39,
        ),
        Maze(
            size="large",
            env_id="PointMaze_Large-v3",
            layout=(
                "############",
                "#....#.....#",
                "#.##.#.#.#.#",
                "#......#...#",
                "#.####.###.#",
                "#..#.#.....#",
                "##.#.#.#.###",
                "#..#...#.G.#",
                "############",
            ),
            max_episode_steps=800,
            ref_min_score=6.7,
            ref_max_score=273.99,
        ),
    )
}


def maze_of(name: str) -> Maze:
    """The maze of a size ("umaze", "medium", "large") or of an environment id ("PointMaze_UMaze-v3").

    Raises:
        ValueError: no maze of the table has this name.
    """
    for maze in MAZES.values():
        if name in (maze.size, maze.env_id):
            return maze
    names = ", ".join(f"{maze.size} ({maze.env_id})" for maze in MAZES.values())
    raise ValueError(f"maze: {name!r} is not a maze of the maze2d protocol; take one of {names}")


def goal_reward(positions: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Reward of steps that end at `positions`: 1 within GOAL_RADIUS of the goal, else 0.

    Args:
        positions: (..., 2) positions after the step, in metres.
        goal: (2,) goal position.

    Returns:
        (...,) float64 of 0 and 1.
    """
    distance = np.linalg.norm(np.asarray(positions) - goal, axis=-1)
    return (distance <= GOAL_RADIUS).astype(np.float64)


def sample_start(maze: Maze, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A start of an episode: the position (2,) in metres and the velocity (2,) in metres per second.

    Three draws of `rng` in this order: the free cell, the position noise, the velocity noise.
    """
    cell = maze.free_cells[int(rng.integers(len(maze.free_cells)))]
    position = maze.position(cell) + rng.uniform(-START_POSITION_NOISE, START_POSITION_NOISE, size=2)
    return position, START_VELOCITY_NOISE * rng.standard_normal(2)


def env_spec(maze: Maze) -> dict:
    """What a dataset's metadata holds under "env_spec", enough to build the evaluation environment again.

    "wrapper": "maze2d" stands for this module's goal, starts and reward around the environment.
    """
    return {
        "id": maze.env_id,
        "kwargs": {"continuing_task": True, "reset_target": False},
        "max_episode_steps": maze.max_episode_steps,
        "wrapper": "maze2d",
    }
