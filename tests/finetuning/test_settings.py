"""Settings of the online part: presets, schedules, bad values."""

import pytest

from dtag_fast.finetuning import OnlineConfig, online_preset
from dtag_fast.finetuning.settings import doubled
from dtag_fast.rollout import AGSetting


@pytest.mark.parametrize(
    "env_id, dataset_id, target, capacity, steps",
    [
        ("Hopper-v5", "local/hopper/medium-replay-v0", 7200.0, 1000, 0),
        ("Ant-v5", None, 12000.0, 1000, 0),
        ("PointMaze_UMaze-v3", "D4RL/pointmaze/umaze-v2", 60.0, 2500, 1000),
        ("PointMaze_Large-v3", "D4RL/pointmaze/large-v2", 60.0, 5000, 1000),
        ("AntMaze_Large_Play-v4", "antmaze/large-play", -500.0, 2000, 1000),
        ("AdroitHandPen-v1", "D4RL/pen/human-v2", 12000.0, 5000, 1000),
        ("Pendulum-v1", None, None, 1000, 0),
    ],
)
def test_presets(env_id, dataset_id, target, capacity, steps):
    """Table 9 of Yan et al. 2024."""
    config = online_preset({"env_id": env_id, "dataset_id": dataset_id})
    assert (config.target_return, config.buffer_capacity, config.steps_per_iteration) == (
        target,
        capacity,
        steps,
    )


def test_return_to_ask_for():
    plain, curriculum = OnlineConfig(), OnlineConfig(curriculum_decay=0.5)
    assert [plain.asked_return(100.0, 20.0, n) for n in (0, 7)] == [100.0, 100.0]
    assert [curriculum.asked_return(100.0, 20.0, n) for n in (0, 1, 2)] == [20.0, 60.0, 80.0]
    assert [doubled(t) for t in ([3600.0, 1800.0], [-200.0])] == [7200.0, 0.0]


def test_guided_steps():
    config = OnlineConfig(guide_steps=100, guide_decay=0.9)
    assert [config.guided_steps(n) for n in (0, 1, 2, 100)] == [100, 90, 81, 0]
    assert OnlineConfig().guided_steps(0) == 0


def test_action_gradient_on_the_way():
    assert OnlineConfig().ag is None
    assert OnlineConfig(explore_ag_steps=5, explore_ag_lr=0.1).ag == AGSetting(5, 0.1)


@pytest.mark.parametrize(
    "setting",
    [
        {"episodes_per_iteration": 0},
        {"updates_per_iteration": 0},
        {"buffer_capacity": 0},
        {"offline_episodes": -1},
        {"reward_delay": 0},
        {"guide_steps": -1},
        {"guide_decay": 1.5},
        {"curriculum_decay": 1.0},
        {"exploration": "loud"},
        {"exploration_noise": -0.1},
        {"explore_ag_lr": -1.0},
    ],
    ids=lambda s: next(iter(s)),
)
def test_settings_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name.removeprefix("explore_ag_")):
        OnlineConfig(**setting)
