"""D4RL's maze2d: its ball in its walls, its starts, goal and rewards, as its files have them."""

import numpy as np
import pytest

from dtag_fast.data.d4rl_tasks import task_of
from dtag_fast.data.pointmaze import d4rl
from dtag_fast.rollout import evaluate
from dtag_fast.rollout.environments import make_env

pytest.importorskip("gymnasium_robotics")
SIZES = list(d4rl.D4RL_MAZES)
VERSION = {"open": 0}  # of the others 1


def make(size, dense=False):
    task = task_of(f"maze2d-{size}{'-dense' if dense else ''}-v{VERSION.get(size, 1)}")
    return make_env(task.env_id, task.env_spec)


def d4rl_model(maze):
    """D4RL's model: pointmaze/maze_model.py, its numbers."""
    import mujoco

    walls = "".join(
        f'<geom type="box" conaffinity="1" pos="{r + 1} {c + 1} 0" size="0.5 0.5 0.2"/>'
        for r, c in np.argwhere(maze.walls)
    )
    ball, motor = "<joint type='slide' axis='{}' name='{}'/>", "<motor joint='{}' ctrlrange='-1 1' {}/>"
    more = "ctrllimited='true' gear='100'"
    model = mujoco.MjModel.from_xml_string(
        f"""<mujoco>
        <compiler inertiafromgeom="true"/>
        <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
        <default>
          <joint damping="1" limited="false"/>
          <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
        </default>
        <worldbody>
          <geom type="plane" size="40 40 0.25" pos="0 0 -0.1" contype="1" conaffinity="0"/>
          <body pos="1.2 1.2 0">
            <geom type="sphere" size="0.1" contype="1"/>
            {ball.format("1 0 0", "a")}{ball.format("0 1 0", "b")}
          </body>
          {walls}
        </worldbody>
        <actuator>{motor.format("a", more)}{motor.format("b", more)}</actuator>
        </mujoco>"""
    )
    return mujoco, model, mujoco.MjData(model)


@pytest.mark.parametrize("size", SIZES)
def test_the_ball_moves_as_in_d4rls_own_model(size):
    """Forces that last, so that it runs into walls; velocities are clipped before a step, as D4RL does."""
    env, rng = make(size), np.random.default_rng(5)
    mujoco, model, data = d4rl_model(d4rl.D4RL_MAZES[size])
    contacts = 0
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = observation[:2], observation[2:]
        mujoco.mj_forward(model, data)
        for step in range(100):
            if step % 10 == 0:
                action = rng.uniform(-1.3, 1.3, 2).astype("f4")  # D4RL clips actions
            data.qvel[:] = np.clip(data.qvel, -5, 5)
            data.ctrl[:] = np.clip(action, -1, 1)
            mujoco.mj_step(model, data)
            contacts += sum(max(c.geom1, c.geom2) > 1 for c in data.contact[: data.ncon])  # 0: floor, 1: ball
            observation = env.step(action)[0]
            assert np.allclose(observation, np.concatenate([data.qpos, data.qvel]), atol=1e-9, rtol=0)
    assert contacts > 20
    env.close()


@pytest.mark.parametrize("size", SIZES)
def test_layouts_are_those_of_the_environments(size):
    env, maze = make(size), d4rl.D4RL_MAZES[size]
    assert np.array_equal(maze.walls, np.array(env.unwrapped.maze.maze_map) == 1)
    env.close()


@pytest.mark.parametrize(("dense", "size"), [(False, "umaze"), (True, "medium"), (False, "open")])
def test_starts_goal_reward_and_limit(dense, size):
    env, maze = make(size, dense), d4rl.D4RL_MAZES[size]
    goal = np.array(maze.goal_cell, float)
    starts = np.array([env.reset(seed=seed)[0] for seed in range(400)])
    assert env.observation_space.shape == starts.shape[1:] == (4,)
    cells = np.round(starts[:, :2])
    assert {tuple(cell) for cell in cells.astype(int).tolist()} == set(maze.free_cells)
    assert np.abs(starts[:, :2] - cells).max() <= 0.1
    assert starts[:, 2:].std() == pytest.approx(0.1, rel=0.15)
    assert (env.reset(seed=7)[0] == starts[7]).all()
    at_goal = d4rl.from_d4rl(maze, np.append(goal, [0.0, 0.0]))
    env.unwrapped.point_env.set_state(at_goal[:2], at_goal[2:])
    steps, over = 0, False
    while not over:
        action = np.array([1.0, 0.3]) if steps < 60 else np.zeros(2)
        observation, reward, terminated, over, info = env.step(action)
        distance = np.linalg.norm(observation[:2] - goal)
        assert reward == pytest.approx(np.exp(-distance) if dense else float(distance <= 0.5))
        assert info["success"] == (distance <= 0.5) and not terminated
        steps += 1
    assert steps == task_of(f"maze2d-{size}-v{VERSION.get(size, 1)}").max_episode_steps
    env.close()


def test_coordinates_turn_there_and_back():
    rng, maze = np.random.default_rng(0), d4rl.D4RL_MAZES["large"]
    states = rng.normal(size=(50, 4))
    assert np.allclose(d4rl.from_d4rl(maze, d4rl.to_d4rl(maze, states)), states, atol=1e-12)
    with pytest.raises(ValueError, match=r"D4RL's maze2d is played in one of PointMaze_UMaze-v3, .* got Hop"):
        d4rl.d4rl_maze_of("Hopper-v4")


@pytest.mark.parametrize("imported", [False, True])
def test_a_file_is_evaluated_in_its_own_task_and_the_output_says_how_it_differs(
    make_policy, tmp_path, monkeypatch, imported
):
    """A file of D4RL's layout, walked in the environment; rewards label the state a step starts from."""
    import h5py

    from dtag_fast.data import load_dataset
    from dtag_fast.data.importing import import_files

    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env, rng = make("umaze"), np.random.default_rng(0)
    rows = {name: [] for name in ("observations", "actions", "rewards")}
    observation, _ = env.reset(seed=1)
    for _ in range(120):
        action = rng.uniform(-1, 1, 2).astype("f4")
        rows["observations"].append(observation)
        rows["actions"].append(action)
        rows["rewards"].append(float(np.linalg.norm(observation[:2] - 1.0) <= 0.5))
        observation = env.step(action)[0]
    env.close()
    with h5py.File(tmp_path / "maze2d-umaze-sparse-v1.hdf5", "w") as file:
        for name, values in rows.items():
            file[name] = np.array(values, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(120, bool), np.arange(120) % 40 == 39
    source = tmp_path / "maze2d-umaze-sparse-v1.hdf5"
    if imported:
        import_files([source], "d4rl/maze2d-umaze-v1")
        source = "d4rl/maze2d-umaze-v1"
    metadata = load_dataset(source).metadata
    named = ("env_id", "env_spec", "max_episode_steps", "ref_min_score", "ref_max_score", "ref_source")
    about = {name: metadata[name] for name in named} | {"dataset_id": metadata["dataset_id"]}
    policy = make_policy("bc", state_dim=4, action_dim=2, **about)
    result = evaluate(policy, episodes=2, workers=1)
    (setting,) = result.settings
    assert setting.lengths == [300, 300] and result.env_id == "PointMaze_UMaze-v3"
    assert (setting.normalized.ref_min, setting.normalized.ref_max) == (23.85, 161.86)
    assert setting.normalized.source == "d4rl: maze2d-umaze-v1"
    assert setting.normalized.note.startswith("D4RL's maze2d ran on MuJoCo 2; here its ball, walls, goal and")
    assert result.versions["mujoco"] and result.versions["gymnasium-robotics"]
