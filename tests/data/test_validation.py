"""A bad episode is refused with a sentence that names the episode and the key."""

import numpy as np
import pytest

from dtag_fast.data import Episode, TrajectoryStore

GOOD = Episode(
    np.zeros((5, 3), dtype=np.float32),
    np.zeros((4, 2), dtype=np.float32),
    np.zeros(4, dtype=np.float32),
    np.zeros(4, dtype=bool),
    np.zeros(4, dtype=bool),
)


def with_value(array, position, value):
    changed = array.copy()
    changed[position] = value
    return changed


BAD = {
    "lengths": (GOOD._replace(rewards=np.zeros(5)), r"rewards: expected \(4,\) to match 4 actions.*\(5,\)"),
    "flags length": (GOOD._replace(truncations=np.zeros(3, bool)), r"truncations: expected \(4,\)"),
    "reward column": (GOOD._replace(rewards=np.zeros((4, 1))), r"rewards: expected \(4,\).*\(4, 1\)"),
    "T observations": (
        GOOD._replace(observations=np.zeros((4, 3))),
        "observations: expected 5 rows.*newer version",
    ),
    "T + 2 observations": (GOOD._replace(observations=np.zeros((6, 3))), "observations: expected 5 rows"),
    "flat observations": (GOOD._replace(observations=np.zeros(5)), r"observations: expected \(T \+ 1, S\)"),
    "flat actions": (GOOD._replace(actions=np.zeros(4)), r"actions: expected \(T, A\)"),
    "other state width": (GOOD._replace(observations=np.zeros((5, 4))), "observations: expected 3 columns"),
    "other action width": (GOOD._replace(actions=np.zeros((4, 1))), "actions: expected 2 columns"),
    "empty": (
        Episode(np.zeros((1, 3)), np.zeros((0, 2)), *(np.zeros(0),) * 3),
        "actions: the episode has no steps",
    ),
    "nan": (GOOD._replace(actions=with_value(GOOD.actions, (2, 1), np.nan)), "actions: row 2 holds NaN"),
    "infinity": (
        GOOD._replace(rewards=with_value(GOOD.rewards, 1, -np.inf)),
        "rewards: row 1 holds NaN, infinity",
    ),
    "last observation": (
        GOOD._replace(observations=with_value(GOOD.observations, (4, 0), np.nan)),
        "observations: row 4",
    ),
    "beyond float32": (
        GOOD._replace(observations=with_value(GOOD.observations.astype(float), (3, 2), 1e39)),
        "observations: row 3 .* beyond float32",
    ),
    "text": (GOOD._replace(rewards=np.array(["a"] * 4)), "rewards: expected numbers"),
    "flag of 2": (GOOD._replace(terminations=np.full(4, 2)), "terminations: expected true or false"),
}


@pytest.mark.parametrize(("episode", "sentence"), BAD.values(), ids=BAD)
def test_bad_episode_is_refused_by_name(episode, sentence):
    with pytest.raises(ValueError, match=f"^test/bad-v0: episode 1: {sentence}"):
        TrajectoryStore.from_episodes([GOOD, episode], {"dataset_id": "test/bad-v0"})


def test_number_and_flag_types_are_converted():
    episode = Episode(
        np.arange(15, dtype=np.float64).reshape(5, 3),
        np.ones((4, 2), dtype=np.int32),
        [1, 2, 3, 4],
        np.array([0, 0, 0, 1]),
        [False] * 4,
    )
    stored = TrajectoryStore.from_episodes([episode]).episode(0)
    assert [array.dtype.name for array in stored] == ["float32", "float32", "float32", "bool", "bool"]
    assert stored.terminations.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(stored.observations, episode.observations)
