"""Every family of environments that the papers use is played to its end by a small policy."""

import json
import re

import gymnasium
import pytest

from dtag_fast.data import reference_of, robotics
from dtag_fast.data.spaces import observation_paths, parse_space
from dtag_fast.rollout import AGSetting, evaluate

STEPS = 6
GYMNASIUM = {"HalfCheetah": (17, 6), "Hopper": (11, 3), "Walker2d": (17, 6)}
MUJOCO = [
    *((f"{body}-{version}", *sizes) for body, sizes in GYMNASIUM.items() for version in ("v4", "v5")),
    ("Ant-v4", 27, 8),
    ("Ant-v5", 105, 8),
]
MAZES = [
    *((f"PointMaze_{size}-v3", 6, 2) for size in ("UMaze", "Open", "Medium", "Large")),
    *((f"AntMaze_{size}-v5", 107, 8) for size in ("UMaze", "Open", "Medium", "Large")),
    ("AntMaze_UMaze-v4", 29, 8),
]
HANDS = [("Door", 39, 28), ("Hammer", 46, 26), ("Pen", 45, 24), ("Relocate", 39, 30)]
ROBOTICS = [
    *MAZES,
    *((f"AdroitHand{hand}-v1", *sizes) for hand, *sizes in HANDS),
    ("FrankaKitchen-v1", 76, 9),
]
# The table of reference scores that goes with an id, and what it says of the id's version.
TABLES = {
    "HalfCheetah-v": ("halfcheetah", ""),
    "Hopper-v": ("hopper", ""),
    "Walker2d-v4": ("walker2d", ""),
    "Walker2d-v5": ("walker2d", "v5 changed foot friction and reward"),
    "Ant-v4": ("ant", ""),
    "Ant-v5": ("ant", "v5 changed observation and reward"),
    "AdroitHandPen": ("pen", "D4RL's pen episodes have 100 steps"),
    "AdroitHandDoor": ("door", ""),
    "AdroitHandHammer": ("hammer", ""),
    "AdroitHandRelocate": ("relocate", ""),
}


def keys_of(env_id):
    """The entries of its observations that become the state, as a Minari dataset of it says."""
    serialize = pytest.importorskip("minari.serialization").serialize_space
    robotics.register_for(env_id, "env_id")
    env = gymnasium.make(env_id, disable_env_checker=True)
    robotics.remove_model_file(env)
    space = parse_space(serialize(env.observation_space))
    env.close()
    return observation_paths(space, None, env_id)


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize(("env_id", "state_dim", "action_dim"), [*MUJOCO, *ROBOTICS])
def test_a_few_steps_in_each(env_id, state_dim, action_dim, make_policy, make_critic):
    if (env_id, state_dim, action_dim) in ROBOTICS:
        pytest.importorskip("gymnasium_robotics")
    sizes = {"state_dim": state_dim, "action_dim": action_dim, "observation_keys": keys_of(env_id)}
    spec = {"id": env_id, "kwargs": {}, "max_episode_steps": STEPS}
    policy = make_policy("dt", env_id=env_id, env_spec=spec, **sizes)
    settings = [AGSetting(), AGSetting(2), AGSetting(2, lr=0.1)]
    result = evaluate(policy, critic=make_critic(**sizes), settings=settings, episodes=2, workers=1)
    assert result.failures == [] and result.env_id == env_id
    assert {"mujoco", "gymnasium"} <= result.versions.keys()
    plain, *refined = result.settings
    for setting in refined:
        assert plain.lengths == setting.lengths == [STEPS, STEPS] or any(plain.terminated)
        assert setting.paired.episodes == 2
    name, note = next((found for start, found in TABLES.items() if env_id.startswith(start)), (None, ""))
    assert plain.normalized is None
    if name is None:  # their datasets carry the references
        assert result.not_normalized.startswith("neither the dataset nor")
    else:
        assert f"of {name} are returns within" in result.not_normalized
        reference = reference_of(env_id)
        assert reference.source == f"d4rl: {name}" and bool(note) == bool(reference.note)
        assert re.search(note, reference.note)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["env_id"] == env_id


@pytest.mark.parametrize("env_id", ["FetchReach-v4", "HandManipulateBlock-v1"])
def test_other_robots_start_too(env_id, make_policy):
    """They read joints as FrankaKitchen does, see `robotics.register`."""
    pytest.importorskip("gymnasium_robotics")
    keys, env = keys_of(env_id), gymnasium.make(env_id)
    state_dim = sum(env.observation_space[key].shape[0] for key in keys)
    sizes = {"state_dim": state_dim, "action_dim": env.action_space.shape[0], "observation_keys": keys}
    env.close()
    spec = {"id": env_id, "kwargs": {}, "max_episode_steps": STEPS}
    (setting,) = evaluate(make_policy("bc", env_id=env_id, env_spec=spec, **sizes), episodes=1).settings
    assert setting.lengths == [STEPS]
