"""What the names of D4RL's files say."""

import pytest

from dtag_fast.data.d4rl_tasks import task_of

ANT = "Ant_maze_{}-maze_noisy_multistart_{}_multigoal_{}_sparse{}"


@pytest.mark.parametrize(
    ("stem", "name", "limit", "env_id", "ref_max"),
    [
        ("hopper_medium-v2", "hopper-medium-v2", 1000, "Hopper-v4", 3234.3),
        ("hopper-medium-replay-v2", "hopper-medium-replay-v2", 1000, "Hopper-v4", 3234.3),
        ("halfcheetah_medium_expert-v2", "halfcheetah-medium-expert-v2", 1000, "HalfCheetah-v4", 12135.0),
        ("walker_mixed", "walker2d-medium-replay-v0", 1000, "Walker2d-v4", 4592.3),
        ("walker2d_full_replay-v2", "walker2d-full-replay-v2", 1000, "Walker2d-v4", 4592.3),
        ("ant_random", "ant-random-v0", 1000, "Ant-v4", 3879.7),
        ("maze2d-umaze-sparse-v1", "maze2d-umaze-v1", 300, "PointMaze_UMaze-v3", 161.86),
        ("maze2d-large-v1", "maze2d-large-v1", 800, "PointMaze_Large-v3", 273.99),
        ("maze2d-medium-dense-v1", "maze2d-medium-dense-v1", 600, "PointMaze_Medium-v3", 297.4552547777125),
        ("maze2d-open-sparse", "maze2d-open-v0", 150, "PointMaze_Open-v3", 20.66),
        (ANT.format("u", False, False, ""), "antmaze-umaze-v0", 700, None, 1.0),
        (ANT.format("u", True, True, "_fixed"), "antmaze-umaze-diverse-v2", 700, None, 1.0),
        (ANT.format("big", True, False, "_fixed"), "antmaze-medium-play-v2", 1000, None, 1.0),
        (ANT.format("hardest", True, True, "_fixed"), "antmaze-large-diverse-v2", 1000, None, 1.0),
        ("pen-v0_demos_clipped", "pen-human-v0", 100, "AdroitHandPen-v1", 3076.8331017826877),
        ("door-demos-v0-bc-combined", "door-cloned-v0", 200, "AdroitHandDoor-v1", 2880.5693087298737),
        ("hammer-expert-v1", "hammer-expert-v1", 200, "AdroitHandHammer-v1", 12794.134825156867),
        ("mini_kitchen_microwave_kettle_light_slider-v0", "kitchen-complete-v0", 280, None, 4.0),
        ("kitchen_microwave_kettle_bottomburner_light-v0", "kitchen-mixed-v0", 280, None, 4.0),
    ],
)
def test_names_of_the_download_table(stem, name, limit, env_id, ref_max):
    task = task_of(stem)
    assert (task.name, task.max_episode_steps, task.env_id) == (name, limit, env_id)
    assert task.reference.ref_max == ref_max
    assert bool(task.env_note) == (env_id is None)


@pytest.mark.parametrize(
    "stem", ["", "hopper", "my_hopper_medium-v2", "hopper_medium-v2 (1)", "maze2d-huge-v1", "data"]
)
def test_other_names_say_nothing(stem):
    assert task_of(stem) is None


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize(
    ("stem", "state_dim", "action_dim"),
    [
        *(("hopper_medium-v2", 11, 3), ("halfcheetah_medium-v2", 17, 6), ("walker2d_medium-v2", 17, 6)),
        *(("ant_medium-v2", 111, 8), ("pen-human-v1", 45, 24), ("door-human-v1", 39, 28)),
        *(("hammer-human-v1", 46, 26), ("relocate-human-v1", 39, 30)),
    ],
)
def test_environments_have_the_spaces_of_the_files(stem, state_dim, action_dim):
    """Sizes: D4RL's files."""
    from dtag_fast.rollout.environments import make_env

    if "human" in stem:
        pytest.importorskip("gymnasium_robotics")
    task = task_of(stem)
    env = make_env(task.env_id, task.env_spec)
    assert env.observation_space.shape == (state_dim,)
    assert env.action_space.shape == (action_dim,)
    assert (env.action_space.low.min(), env.action_space.high.max()) == (-1, 1)
    assert env.spec.max_episode_steps == task.max_episode_steps
    env.close()
