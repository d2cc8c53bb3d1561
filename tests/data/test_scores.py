"""Normalised scores: D4RL's table, the dataset's own references first, never a guess."""

import numpy as np
import pytest

from dtag_fast.data import normalized_score, reference_of, why_no_score
from dtag_fast.data.d4rl_limits import limits_of
from dtag_fast.data.d4rl_tasks import task_of
from dtag_fast.data.scores import D4RL_REFERENCES


@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("Hopper-v4", "hopper"),
        ("my.envs:Hopper-v4", "hopper"),
        ("HalfCheetah-v5", "halfcheetah"),
        ("Walker2d-v2", "walker2d"),
        ("Ant-v4", "ant"),
        ("AdroitHandDoor-v1", "door"),
        ("AdroitHandPen-v1", "pen"),
        ("hopper-medium-v2", "hopper"),
        ("halfcheetah-medium-expert-v2", "halfcheetah"),
        ("hammer-cloned-v1", "hammer"),
        ("kitchen-partial-v0", "kitchen"),
        ("antmaze-large-diverse-v2", "antmaze"),
        ("antmaze-umaze-v0", "antmaze"),
        ("maze2d-umaze-v1", "maze2d-umaze-v1"),
        ("maze2d-large-v0", "maze2d-large-v0"),
        ("maze2d-medium-dense-v1", "maze2d-medium-dense-v1"),
        ("mujoco/walker2d/simple-v0", "walker2d"),
        ("D4RL/relocate/human-v2", "relocate"),
    ],
)
def test_names_with_d4rl_references(task, family):
    low, high = D4RL_REFERENCES[family]
    result = normalized_score([low, high, (low + high) / 2], task)
    np.testing.assert_allclose(result.score, [0.0, 100.0, 50.0], atol=1e-12)
    assert (result.ref_min, result.ref_max, result.source) == (low, high, f"d4rl: {family}")


@pytest.mark.parametrize(
    "task",
    [
        "PointMaze_UMaze-v3",  # another reward and goal than D4RL's maze2d unless wrapped
        "AntMaze_UMaze-v5",
        "FrankaKitchen-v1",
        "AdroitHandDoorSparse-v1",
        "Humanoid-v4",
        "Pendulum-v1",
        "local/hopper/medium-v0",  # the name alone does not say which environment
        "my-Hopper-v4",
        "Hopper-v4:Pendulum-v1",
        "maze2d-open-v1",
        "",
    ],
)
def test_no_reference_is_none_and_not_a_guess(task):
    assert reference_of(task) is None
    assert normalized_score(1.0, task) is None


def test_published_example():
    """hopper-medium-expert of a TD3 paper: a return of 3234.3 is 100."""
    assert normalized_score(3234.3, "Hopper-v3").score == pytest.approx(100.0)
    assert normalized_score(1500.0, "Hopper-v3").score == pytest.approx(100 * 1520.272305 / 3254.572305)
    assert isinstance(normalized_score(1.0, "Hopper-v3").score, float)


def test_dataset_references_go_first_and_are_named():
    metadata = {"env_id": "Hopper-v5", "ref_min_score": 0.0, "ref_max_score": 10.0, "ref_source": "dataset"}
    assert normalized_score(5.0, metadata).score == 50.0
    assert normalized_score(5.0, metadata).source == "dataset"
    assert reference_of(metadata, "d4rl").source == "d4rl: hopper"
    assert reference_of({**metadata, "ref_max_score": None}).source == "d4rl: hopper"
    assert reference_of({**metadata, "ref_max_score": None}, "dataset") is None
    assert reference_of("Hopper-v5", "dataset") is None
    with pytest.raises(ValueError, match="source: expected 'dataset', 'd4rl' or None, got 'minari'"):
        reference_of(metadata, "minari")


def test_a_wrapper_makes_another_task_of_the_environment():
    metadata = {"env_id": "Hopper-v5", "env_spec": {"id": "Hopper-v5", "wrapper": "slippery"}}
    assert reference_of(metadata) is None
    assert reference_of({**metadata, "dataset_id": "hopper-medium-v2"}).source == "d4rl: hopper"


@pytest.mark.parametrize(
    ("task", "word"),
    [("Walker2d-v5", "friction"), ("AdroitHandPen-v1", "100 steps"), ("Ant-v5", "v4"), ("Hopper-v5", "")],
)
def test_known_differences_from_d4rl_are_noted(task, word):
    note = normalized_score(0.0, task).note
    assert (word in note) if word else note == ""


# Time limits


@pytest.mark.parametrize(
    ("env_id", "limit", "refused"),
    [
        ("Hopper-v5", 1000, False),
        ("Hopper-v5", None, False),  # not recorded: the registered one
        ("Hopper-v5", 100, True),
        ("my.envs:Hopper-v5", 2000, True),
        ("AdroitHandDoor-v1", 200, False),
        ("AdroitHandDoor-v1", 1000, True),
        ("AdroitHandPen-v1", 100, False),
        ("AdroitHandPen-v1", 200, False),
        ("AdroitHandPen-v1", 300, True),
    ],
)
@pytest.mark.parametrize("where", ["metadata", "env_spec"])
def test_d4rls_references_hold_under_its_time_limits(env_id, limit, refused, where):
    about = {"max_episode_steps": limit}
    task = {"env_id": env_id} | (about if where == "metadata" else {"env_spec": {"id": env_id} | about})
    assert (reference_of(task) is None) == (normalized_score(0.0, task) is None) == refused
    assert (f"an episode here has up to {limit}" in why_no_score(task)) == refused


def test_a_time_limit_that_is_passed_goes_before_the_recorded_one():
    spec = {"id": "Hopper-v5", "max_episode_steps": 1000, "kwargs": {"max_episode_steps": 50}}
    assert why_no_score({"env_id": "Hopper-v5", "env_spec": spec}).endswith("has up to 50")
    spec["kwargs"] = {"max_episode_steps": 1000}
    assert reference_of({"env_id": "Hopper-v5", "env_spec": spec}).source == "d4rl: hopper"


def test_the_note_on_the_pens_steps_goes_with_its_steps():
    pen = {"env_id": "AdroitHandPen-v1"}
    assert "100 steps" in reference_of(pen | {"max_episode_steps": 200}).note
    assert reference_of(pen | {"max_episode_steps": 100}).note == ""


def test_a_datasets_own_references_hold_for_its_time_limit():
    own = {"env_id": "Hopper-v5", "max_episode_steps": 50, "ref_min_score": 0.0, "ref_max_score": 10.0}
    assert normalized_score(5.0, own).score == 50.0
    assert reference_of(own, "d4rl") is None
    copied = own | {"ref_source": "d4rl: hopper"}  # of a version that did not look at the limit
    assert reference_of(copied) is None
    assert why_no_score(copied) == (
        "D4RL's references of hopper are returns within 1000 steps, an episode here has up to 50"
    )


# Arguments and wrappers

_NORMALIZED = {"name": "NormalizeReward", "entry_point": "gymnasium.wrappers.stateful_reward:NormalizeReward"}
_COUNTED = {"name": "RecordEpisodeStatistics", "entry_point": "gymnasium.wrappers.common:RecordEpisode..."}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "why_not"),
    [
        ("Hopper-v5", {}, ""),
        ("Hopper-v5", {"render_mode": "rgb_array", "camera_id": 0, "width": 64}, ""),
        ("Hopper-v5", {"exclude_current_positions_from_observation": False}, ""),
        (
            "Hopper-v5",
            {"forward_reward_weight": 9.0, "frame_skip": 8},
            "forward_reward_weight=9.0, frame_skip=8",
        ),
        ("Hopper-v5", {"healthy_z_range": [0.2, 1.0]}, "healthy_z_range"),
        ("HalfCheetah-v4", {"ctrl_cost_weight": 0.7, "render_mode": None}, "ctrl_cost_weight=0.7"),
        ("Walker2d-v5", {"xml_file": "mine.xml"}, "xml_file=mine.xml"),
        ("Ant-v4", {"use_contact_forces": True}, ""),  # as D4RL's
        ("Ant-v5", {"include_cfrc_ext_in_observation": False}, ""),
        ("Ant-v5", {"contact_cost_weight": 0.0}, "contact_cost_weight=0.0"),
        ("AdroitHandDoor-v1", {"reward_type": "dense"}, ""),
        ("AdroitHandDoor-v1", {"reward_type": "sparse"}, "reward_type=sparse"),
    ],
)
def test_d4rls_references_hold_for_its_rewards_and_physics(env_id, kwargs, why_not):
    task = {"env_id": env_id, "env_spec": {"id": env_id, "kwargs": kwargs}}
    assert (reference_of(task) is None) == bool(why_not)
    assert why_no_score(task).endswith(f"the environment here is made with {why_not}" if why_not else "")
    assert bool(why_no_score(task)) == bool(why_not)


@pytest.mark.parametrize(
    ("wrapper", "why_not"),
    [
        (_COUNTED, ""),
        (_NORMALIZED, "the wrapper NormalizeReward"),
        (_COUNTED | {"entry_point": "mine:RecordEpisodeStatistics"}, "the wrapper RecordEpisodeStatistics"),
    ],
)
def test_wrappers_that_a_dataset_records_count_too(wrapper, why_not):
    task = {"env_id": "Hopper-v5", "env_spec": {"id": "Hopper-v5", "additional_wrappers": [wrapper]}}
    assert why_no_score(task).endswith(why_not) and (reference_of(task) is None) == bool(why_not)


def test_references_copied_from_d4rl_need_its_rewards_and_a_datasets_own_do_not():
    spec = {"id": "Hopper-v5", "kwargs": {"healthy_reward": 0.0}}
    own = {"env_id": "Hopper-v5", "env_spec": spec, "ref_min_score": 0.0, "ref_max_score": 10.0}
    assert normalized_score(5.0, own).score == 50.0
    assert why_no_score(own | {"ref_source": "d4rl: hopper"}).endswith("made with healthy_reward=0.0")


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "my.envs:Hopper-Heavy-v0"])
def test_the_name_of_the_data_tells_nothing_of_another_environment(env_id):
    """As of a run that was fine-tuned elsewhere."""
    for dataset_id in ("mujoco/hopper/medium-v0", "hopper-medium-v2"):
        task = {"env_id": env_id, "dataset_id": dataset_id}
        assert reference_of(task) is None
        assert why_no_score(task).startswith("neither the dataset nor D4RL's table has references")
        assert reference_of(task | {"env_id": None}).source == "d4rl: hopper"


def test_a_task_without_references_says_so():
    for task in ("Pendulum-v1", {"env_id": "Pendulum-v1", "max_episode_steps": 7}, {}):
        assert why_no_score(task).startswith("neither the dataset nor D4RL's table has references")
    assert why_no_score("Hopper-v5") == ""


@pytest.mark.parametrize("family", D4RL_REFERENCES)
def test_every_reference_has_a_time_limit(family):
    assert limits_of(family)


@pytest.mark.parametrize(
    "name",
    [
        *("hopper-medium-v2", "ant-random-v0", "pen-human-v1", "door-cloned-v1", "kitchen-mixed-v0"),
        *("antmaze-umaze-v2", "antmaze-large-play-v0", "maze2d-open-v0", "maze2d-open-dense-v0"),
        *("maze2d-umaze-v1", "maze2d-medium-dense-v1", "maze2d-large-v0"),
    ],
)
def test_d4rls_own_tasks_have_scores(name):
    task = task_of(name)
    about = {"dataset_id": name, "env_id": task.env_id, "env_spec": task.env_spec}
    assert reference_of(about | {"max_episode_steps": task.max_episode_steps}) is not None
    assert reference_of(about | {"env_spec": None, "max_episode_steps": 123}) is None
