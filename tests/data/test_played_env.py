"""The environment of a policy: its data's as recorded, another one as registered."""

import pytest

from dtag_fast.data.played_env import played_in

ABOUT = {
    "dataset_id": "test/set-v0",
    "env_id": "Own/Cart-v0",
    "env_spec": {"id": "Own/Cart-v0", "kwargs": {"weight": 2.0}, "max_episode_steps": 7},
    "max_episode_steps": 7,
    "ref_min_score": 0.0,
    "ref_max_score": 9.0,
    "ref_source": "dataset",
}
NOTHING = dict.fromkeys(("env_spec", "max_episode_steps", "ref_min_score", "ref_max_score", "ref_source"))


@pytest.mark.parametrize(
    ("env_id", "changes"),
    [
        (None, {}),
        ("Own/Cart-v0", {}),
        ("my_carts:Own/Cart-v0", {"env_id": "my_carts:Own/Cart-v0"}),
        ("Own/Cart-v1", {"env_id": "Own/Cart-v1"} | NOTHING),
    ],
)
def test_only_another_environment_loses_what_the_data_say_of_theirs(env_id, changes):
    before = dict(ABOUT)
    assert played_in(ABOUT, env_id) == ABOUT | changes
    assert before == ABOUT


def test_data_without_an_environment_take_any():
    assert played_in({"env_id": None, "max_episode_steps": 700}, "Own/Cart-v0") == (
        NOTHING | {"env_id": "Own/Cart-v0"}
    )
    module = {"env_id": "my_carts:Own/Cart-v0"}
    assert played_in(module, "Own/Cart-v0") == module  # what is known of the module stays
