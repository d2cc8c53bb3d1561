"""Normalised scores: D4RL's table, the dataset's own references first, never a guess."""

import numpy as np
import pytest

from dtag_fast.data import normalized_score, reference_of
from dtag_fast.data.scores import D4RL_REFERENCES


@pytest.mark.parametrize(
    ("task", "family"),
    [
        ("Hopper-v4", "hopper"),
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
