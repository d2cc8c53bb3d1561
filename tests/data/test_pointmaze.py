"""PointMaze collector: the maze2d protocol, the planner, the physics and the dataset that comes out."""

import itertools

import minari
import numpy as np
import pytest

from dtag_fast.data.pointmaze import (
    MAZES,
    collect,
    env_spec,
    goal_reward,
    make_pointmaze,
    maze_of,
    sample_start,
)
from dtag_fast.data.pointmaze.physics import PointMazePhysics, make_gym_env
from dtag_fast.data.pointmaze.waypoints import distances_to, shortest_path

SIZES = list(MAZES)


@pytest.fixture
def minari_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


# The table


@pytest.mark.parametrize("size", SIZES)
def test_table_is_that_of_the_environment(size):
    maze = MAZES[size]
    env = make_gym_env(maze)
    inner = env.unwrapped
    assert np.array_equal(maze.walls, np.array(inner.maze.maze_map) == 1)
    for cell in maze.free_cells:
        assert np.array_equal(maze.position(cell), inner.maze.cell_rowcol_to_xy(np.array(cell)))
        assert (
            maze.cell(maze.position(cell)) == cell == tuple(inner.maze.cell_xy_to_rowcol(maze.position(cell)))
        )
    assert env.spec.max_episode_steps == maze.max_episode_steps == env_spec(maze)["max_episode_steps"]
    env.close()


def test_goal_cells_are_those_of_d4rl():
    assert {size: maze.goal_cell for size, maze in MAZES.items()} == {
        "umaze": (1, 1),
        "medium": (6, 6),
        "large": (7, 9),
    }


def test_reward_is_one_up_to_half_a_metre_and_zero_beyond():
    goal = MAZES["umaze"].goal
    offsets = np.array(
        [[0.0, 0.0], [0.5, 0.0], [0.0, -0.5], [0.3, 0.4], [0.501, 0.0], [0.4, 0.4], [2.0, 0.0]]
    )
    assert goal_reward(goal + offsets, goal).tolist() == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("size", SIZES)
def test_starts_cover_every_free_cell_and_stay_inside_it(size):
    maze, rng = MAZES[size], np.random.default_rng(0)
    starts = [sample_start(maze, rng) for _ in range(40 * len(maze.free_cells))]
    cells = [maze.cell(position) for position, _ in starts]
    assert set(cells) == set(maze.free_cells)
    offsets = [position - maze.position(cell) for (position, _), cell in zip(starts, cells, strict=True)]
    assert np.abs(offsets).max() <= 0.1
    assert np.std([velocity for _, velocity in starts]) == pytest.approx(0.1, rel=0.15)


def test_unknown_maze_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'ultra'.*umaze.*medium.*large"):
        maze_of("ultra")


# The planner


@pytest.mark.parametrize("size", SIZES)
def test_paths_are_shortest_connected_and_never_in_a_wall(size):
    walls, rng = MAZES[size].walls, np.random.default_rng(1)
    free = MAZES[size].free_cells
    # Floyd-Warshall, an independent way to the same distances.
    far = 10_000
    exact = np.full((len(free), len(free)), far)
    for a, b in itertools.product(range(len(free)), repeat=2):
        exact[a, b] = min(exact[a, b], abs(free[a][0] - free[b][0]) + abs(free[a][1] - free[b][1]))
    exact[exact > 1] = far
    for k in range(len(free)):
        exact = np.minimum(exact, exact[:, k, None] + exact[None, k, :])
    for (a, start), (b, goal) in itertools.product(enumerate(free), repeat=2):
        path = shortest_path(walls, start, goal, rng)
        assert path[0] == start and path[-1] == goal and len(path) - 1 == exact[a, b]
        assert not any(walls[cell] for cell in path)
        assert all(abs(i - k) + abs(j - m) == 1 for (i, j), (k, m) in itertools.pairwise(path))


def test_equally_short_paths_are_all_taken():
    walls = np.zeros((3, 3), dtype=bool)
    rng = np.random.default_rng(0)
    assert len({tuple(shortest_path(walls, (0, 0), (2, 2), rng)) for _ in range(200)}) == 6


def test_planner_refuses_walls_and_unconnected_cells():
    walls = np.array([[False, True, False]])
    assert distances_to(walls, (0, 0)).tolist() == [[0, -1, -1]]
    with pytest.raises(ValueError, match="is a wall"):
        distances_to(walls, (0, 1))
    with pytest.raises(ValueError, match="no way leads"):
        shortest_path(walls, (0, 2), (0, 0), np.random.default_rng(0))


# The physics


@pytest.mark.parametrize("size", SIZES)
def test_stepping_without_the_environment_gives_its_bits(size):
    """Random forces with long pushes, so that walls are hit and the speed limit is reached."""
    env = make_gym_env(MAZES[size])
    inner = env.unwrapped
    rng = np.random.default_rng(2)
    pushes = np.repeat(rng.uniform(-1, 1, (50, 2)), 60, axis=0)
    forces = np.clip(pushes + 0.5 * rng.standard_normal(pushes.shape), -1, 1).astype(np.float32)
    start, _ = inner.reset(seed=0)
    physics = PointMazePhysics(inner.model)
    state = physics.reset(start["observation"][:2], start["observation"][2:])
    assert state == start["observation"].tolist()
    fastest, seen = 0.0, set()
    for force in forces:
        observation = inner.step(force)[0]["observation"]
        assert physics.step(force) == observation.tolist()
        fastest = max(fastest, np.abs(observation[2:]).max())
        seen.add(MAZES[size].cell(observation[:2]))
    assert fastest > 5.0 and len(seen) > 1
    env.close()


def test_ball_never_leaves_the_free_cells_and_visits_them_all():
    maze = MAZES["medium"]
    walk = collect(maze, 15_000, seed=3)
    cells = {maze.cell(position) for position in walk.states[:, :2]}
    assert cells == set(maze.free_cells)


# The collector


def test_same_seed_same_bits_other_seed_other_data():
    maze = MAZES["umaze"]
    a, b, c = collect(maze, 2500, seed=7), collect(maze, 2500, seed=7), collect(maze, 2500, seed=8)
    for name in ("states", "actions", "rewards"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(a.actions, c.actions)


def test_recorded_actions_replay_to_recorded_states_and_labels():
    maze = MAZES["umaze"]
    walk = collect(maze, 3000, seed=5)
    env = make_gym_env(maze)
    physics = PointMazePhysics(env.unwrapped.model)
    physics.reset(walk.states[0, :2], walk.states[0, 2:])
    replayed = np.array([physics.step(action) for action in walk.actions])
    env.close()
    assert np.array_equal(replayed, walk.states[1:])
    distance = np.hypot(*(replayed[:, :2] - maze.goal).T)
    assert np.array_equal(walk.rewards, np.where(distance <= 0.5, 1.0, 0.0))
    assert 0 < walk.rewards.sum() < len(walk.rewards)
    assert np.abs(walk.actions).max() <= 1.0


def test_progress_counts_up_to_the_total():
    calls = []
    collect(MAZES["umaze"], 4500, seed=0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2000, 4500), (4000, 4500), (4500, 4500)]


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        collect(MAZES["umaze"], 0, seed=0)


# The dataset


@pytest.mark.parametrize("size", ["umaze", "medium"])
def test_minari_reads_back_the_walk(size, minari_root):
    maze, steps = MAZES[size], 2000
    walk = collect(maze, steps, seed=11)
    dataset = minari.load_dataset(make_pointmaze(size, steps, seed=11))
    limit = maze.max_episode_steps
    assert dataset.total_episodes == -(-steps // limit)
    for k, episode in enumerate(dataset.iterate_episodes()):
        part = slice(k * limit, min((k + 1) * limit, steps))
        assert np.array_equal(episode.observations["observation"], walk.states[part.start : part.stop + 1])
        assert np.array_equal(
            episode.observations["achieved_goal"], walk.states[part.start : part.stop + 1, :2]
        )
        assert (episode.observations["desired_goal"] == maze.goal).all()
        assert np.array_equal(episode.actions, walk.actions[part])
        assert np.array_equal(episode.rewards, walk.rewards[part])
        assert not episode.terminations.any()
        assert episode.truncations.tolist() == [False] * (part.stop - part.start - 1) + [True]
    metadata = dataset.storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (maze.ref_min_score, maze.ref_max_score)
    assert metadata["dtag_env_spec"] == env_spec(maze)
    assert metadata["dtag_observation_keys"] == ["observation"]
    assert dataset.env_spec.id == maze.env_id and dataset.env_spec.max_episode_steps == limit


def test_second_call_reuses_the_same_recipe_and_refuses_another(minari_root):
    dataset_id = make_pointmaze("umaze", 400, seed=0, dataset_id="maze/mine-v0")
    data = minari_root / "maze" / "mine-v0" / "data" / "main_data.hdf5"
    before = data.stat().st_mtime_ns
    assert make_pointmaze("umaze", 400, seed=0, dataset_id=dataset_id) == dataset_id
    assert data.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"'maze/mine-v0' exists already .* minari delete maze/mine-v0"):
        make_pointmaze("umaze", 400, seed=1, dataset_id=dataset_id)
    assert data.stat().st_mtime_ns == before
    assert minari.list_local_datasets().keys() == {"maze/mine-v0"}


def test_a_failed_write_leaves_nothing_behind(minari_root, monkeypatch):
    def full_disk(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", full_disk)
    with pytest.raises(OSError, match="no space left"):
        make_pointmaze("umaze", 400, seed=0, dataset_id="maze/mine-v0")
    monkeypatch.undo()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(minari_root))
    assert not list((minari_root / "maze").glob("mine*"))
    assert make_pointmaze("umaze", 400, seed=0, dataset_id="maze/mine-v0") in minari.list_local_datasets()


def test_a_relative_root_works(tmp_path, monkeypatch):
    """Minari itself fails to write under a relative root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "below/sets")
    dataset_id = make_pointmaze("umaze", 400, seed=0)
    assert (tmp_path / "below/sets" / dataset_id / "data/main_data.hdf5").exists()
    assert minari.load_dataset(dataset_id).total_steps == 400
