"""Environments: stepping without automatic resets, the maze2d protocol, MuJoCo's habits."""

import sys

import numpy as np
import pytest

from dtag_fast.data import env_ids
from dtag_fast.data.pointmaze import GOAL_RADIUS, MAZES, env_spec
from dtag_fast.rollout.environments import Environments, make_env
from dtag_fast.rollout.evaluation import evaluate
from dtag_fast.rollout.reference import play_episode


def test_a_finished_slot_is_not_stepped_and_not_reset_by_itself(new_env, counting):
    with Environments(new_env, 2, counting.STATE_DIM) as environments:
        environments.reset([0], [9])  # one step long, truncated
        environments.reset([1], [1])  # eight steps long
        environments.step(np.array([0, 1]), np.zeros((2, 2), "f4"))
        assert environments.truncated.tolist() == [True, False]
        with pytest.raises(RuntimeError, match="rows: the episode of slot 0 is over"):
            environments.step(np.array([0, 1]), np.zeros((2, 2), "f4"))
        last_seen = environments.observations[0].copy()
        environments.step(np.array([1]), np.ones((1, 2), "f4"))
        assert (environments.observations[0] == last_seen).all()
        assert environments.observations[1] == pytest.approx([2.0, 0.5 * 0.5 * 0.1 + 2.0, 1.0])
        assert environments.rewards.tolist() == [1.0, 1.0 + 10.0 + 2.0]
        environments.reset([0], [10])
        assert not environments.truncated[0] and environments.observations[0].tolist()[0] == 0.0
    resets = [event[1] for event in counting.CountingEnv.events if event[0] == "reset"]
    assert resets == [9, 1, 10]


def test_unknown_environments_and_wrappers_are_named():
    import gymnasium

    with pytest.raises(gymnasium.error.UnregisteredEnv, match=r"env_id: .*Nothing.*'module:Nothing-v0'"):
        make_env("Nothing-v0")
    with pytest.raises(gymnasium.error.UnregisteredEnv, match="absent_module, which cannot be imported"):
        make_env("absent_module:Nothing-v0")
    with pytest.raises(ValueError, match="env_spec: wrapper 'maze3d' is unknown; this version has maze2d"):
        make_env("Hopper-v5", {"id": "Hopper-v5", "wrapper": "maze3d"})


def test_a_recorded_spec_decides_kwargs_and_time_limit():
    recorded = make_env("HalfCheetah-v5").spec.to_json()
    import json

    spec = json.loads(recorded) | {"kwargs": {"ctrl_cost_weight": 0.7}, "max_episode_steps": 7}
    env = make_env("HalfCheetah-v5", spec)
    assert env.unwrapped._ctrl_cost_weight == 0.7 and env.spec.max_episode_steps == 7
    other = make_env("Hopper-v5", spec, max_episode_steps=5)  # another environment: its own registration
    assert other.spec.id == "Hopper-v5" and other.spec.max_episode_steps == 5


@pytest.mark.parametrize(
    ("asked", "recorded"),
    [
        ("own_cart:Own/Cart-v0", "Own/Cart-v0"),  # as versions before wrote it
        ("Own/Cart-v0", "own_cart:Own/Cart-v0"),
    ],
)
def test_one_of_two_ids_may_lack_the_module(asked, recorded, tmp_path, monkeypatch):
    import gymnasium

    (tmp_path / "own_cart.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Own/Cart-v0', CartPoleEnv)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"id": recorded, "kwargs": {"sutton_barto_reward": True}, "max_episode_steps": 5}
    try:
        with make_env(asked, spec) as env:
            assert env.unwrapped._sutton_barto_reward and env.spec.max_episode_steps == 5
    finally:
        sys.modules.pop("own_cart", None)
        gymnasium.registry.pop("Own/Cart-v0", None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hopper-v5", "Hopper-v5", True),
        ("a:Own/Hopper-v5", "Own/Hopper-v5", True),
        ("a:Hopper-v5", "b:Hopper-v5", False),  # each may register its own
        ("a:Hopper-v5", "a:Hopper-v4", False),
        ("Hopper-v5", None, False),
        (None, None, True),
    ],
)
def test_when_two_ids_name_one_environment(one, other, same):
    assert env_ids.is_same(one, other) is env_ids.is_same(other, one) is same


def test_construction_of_half_cheetahs_is_quiet(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        make_env("HalfCheetah-v5")
    assert "settotalmass" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []  # MuJoCo wrote no log


def test_other_mujoco_warnings_are_passed_on():
    import mujoco

    from dtag_fast.data.gymnasium_env import mujoco_noise_removed

    before = mujoco.get_mju_user_warning()
    with pytest.warns(RuntimeWarning, match="MuJoCo: something else"), mujoco_noise_removed():
        mujoco.get_mju_user_warning()("something else")
    assert mujoco.get_mju_user_warning() is before


@pytest.mark.parametrize("size", list(MAZES))
def test_maze2d_has_one_goal_no_end_and_starts_that_depend_on_the_seed(size):
    pytest.importorskip("gymnasium_robotics")
    maze = MAZES[size]
    spec = env_spec(maze)
    env, other = make_env(spec["id"], spec), make_env(spec["id"], spec)
    starts = []
    for seed in (3, 4, 3):
        observation, _ = env.reset(seed=seed)
        other.reset(seed=99)
        assert (observation["desired_goal"] == maze.goal).all()
        assert maze.cell(observation["observation"][:2]) in maze.free_cells
        assert (other.reset(seed=seed)[0]["observation"] == observation["observation"]).all()
        starts.append(observation["observation"].tolist())
    assert starts[0] == starts[2] != starts[1]
    steps, near = 0, 0
    over = False
    env.reset(seed=3)
    # Put the point on the goal: every step there earns 1 and nothing ends.
    env.unwrapped.point_env.set_state(maze.goal, np.zeros(2))
    while not over:
        observation, reward, terminated, truncated, _ = env.step(np.array([1.0, 1.0]))
        distance = np.linalg.norm(observation["achieved_goal"] - maze.goal)
        assert reward == float(distance <= GOAL_RADIUS) and not terminated
        steps, near, over = steps + 1, near + int(reward), truncated
    assert steps == maze.max_episode_steps and near > 5


@pytest.mark.parametrize("kind", ["dt", "reinformer"])
def test_hopper_equals_the_literal_loop_at_first(make_policy, kind):
    """Physics amplifies the last bits later on; lengths and the first steps must agree."""
    policy = make_policy(kind, context_len=4, state_dim=11, action_dim=3, env_id="Hopper-v5")
    (s,) = evaluate(policy, episodes=3, seed=5).settings
    target = s.target_return
    for seed, length, wanted in zip(s.seeds, s.lengths, s.returns, strict=True):
        trace = play_episode(policy.model, make_env("Hopper-v5"), seed, target)
        assert abs(len(trace.rewards) - length) <= 1
        assert trace.episode_return == pytest.approx(wanted, rel=1e-2)


def test_a_reused_environment_equals_a_fresh_one(make_policy):
    policy = make_policy("dt", context_len=4, state_dim=11, action_dim=3, env_id="Hopper-v5")
    reused = evaluate(policy, episodes=3, max_envs=1, workers=1).settings[0]
    fresh = evaluate(policy, episodes=3, max_envs=3, workers=1).settings[0]
    assert reused.lengths == fresh.lengths
    assert reused.returns == pytest.approx(fresh.returns, rel=1e-4)
