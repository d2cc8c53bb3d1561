"""Pickled trajectories of the original Decision Transformer become episodes step by step."""

import os
import pickle
import random

import mutations
import numpy as np
import pytest
from trajectories import trajectories

from dtag_fast.data import load_dataset

LENGTHS = (7, 1, 30, 2)


@pytest.fixture(autouse=True)
def cache(minari_home):
    """An empty cache."""


@pytest.fixture(name="trajectories")
def odd_ones_terminate(make_episodes):
    """Those of odd number terminate, the others are cut."""
    return trajectories(make_episodes(LENGTHS))


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_step_of_every_episode(tmp_path, trajectories, protocol):
    store = load_dataset(write(tmp_path / "hopper-medium-v2.pkl", trajectories, protocol))
    assert store.num_episodes == len(trajectories)
    for index, trajectory in enumerate(trajectories):
        episode = store.episode(index)
        for t in range(len(trajectory["rewards"])):
            np.testing.assert_array_equal(episode.observations[t], trajectory["observations"][t])
            np.testing.assert_array_equal(episode.observations[t + 1], trajectory["next_observations"][t])
            np.testing.assert_array_equal(episode.actions[t], trajectory["actions"][t])
            assert episode.rewards[t] == trajectory["rewards"][t]
            assert episode.terminations[t] == trajectory["terminals"][t]
        assert episode.truncations.tolist() == [False] * (LENGTHS[index] - 1) + [index % 2 == 0]
    assert store.metadata["dataset_id"] == "hopper-medium-v2"
    assert store.metadata["env_id"] == "Hopper-v4"
    assert store.metadata["ref_source"] == "d4rl: hopper"
    assert store.metadata["notes"] == []


def test_without_next_observations_cut_episodes_lose_their_last_step(tmp_path, trajectories):
    for trajectory in trajectories:
        del trajectory["next_observations"]
        trajectory["dones"] = trajectory.pop("terminals").astype(np.float32)
        trajectory["rewards"] = trajectory["rewards"].tolist()
    trajectories.append({**trajectories[1], "dones": np.zeros(1)})
    store = load_dataset(write(tmp_path / "hopper-medium-v2.pkl", trajectories))
    assert store.episode_lengths.tolist() == [6, 1, 29, 2]
    np.testing.assert_array_equal(store.episode(0).observations, trajectories[0]["observations"])
    np.testing.assert_array_equal(store.episode(0).actions, trajectories[0]["actions"][:-1])
    repeated = trajectories[3]["observations"][[0, 1, 1]]
    np.testing.assert_array_equal(store.episode(3).observations, repeated)
    assert store.truncations[store.offsets[1:] - 1].tolist() == [True, False, True, False]
    assert store.metadata["notes"] == [
        "the observation after 2 terminations is not in the file: the last one is repeated there",
        "the observation after the last step of 3 cut episodes is not in the file: that step is left out, "
        "and with it 1 episodes of one step",
    ]


def test_a_second_load_does_not_read_the_pickle(tmp_path, trajectories, monkeypatch):
    import dtag_fast.data.trajectory_pickle as trajectory_pickle

    path = write(tmp_path / "hopper-medium-v2.pkl", trajectories)
    first = load_dataset(path)
    monkeypatch.setattr(trajectory_pickle, "read_trajectories", None)
    assert load_dataset(path).metadata == first.metadata


BAD = {
    "dict": (lambda t: {"a": 1}, "expected a list of trajectories in bad.pkl, got dict"),
    "empty": (lambda t: [], "expected a list of trajectories in bad.pkl, got an empty one"),
    "numbers": (lambda t: [1], "episode 0: expected a dict of arrays, got int"),
    "no key": (
        lambda t: [t[0], {k: v for k, v in t[1].items() if k != "actions"}],
        "episode 1: actions: this key is missing; the trajectory has observations, next_observations",
    ),
    "text": (
        lambda t: [{**t[0], "rewards": "a"}],
        "episode 0: rewards: expected an array of numbers, got str",
    ),
    "no steps": (lambda t: [{**t[0], "rewards": []}], "episode 0: rewards: the trajectory has no steps"),
    "short": (
        lambda t: [{**t[0], "actions": t[0]["actions"][1:]}],
        r"episode 0: actions: expected \(7, n\) to match 7 rewards, got shape \(6, 2\)",
    ),
    "no columns": (
        lambda t: [{**t[0], "actions": np.zeros((7, 0))}],
        r"episode 0: actions: expected \(7, n\) to match 7 rewards, got shape \(7, 0\)",
    ),
    "other width": (
        lambda t: [t[0], {**t[1], "actions": np.zeros((1, 5))}],
        "episode 1: actions: expected 2 columns as in episode 0, got 5",
    ),
    "jump": (
        lambda t: [{**t[0], "next_observations": t[0]["next_observations"] + 1}],
        "episode 0: next_observations: row 0 is not row 1 of observations",
    ),
    "shape of next": (
        lambda t: [{**t[0], "next_observations": np.zeros((7, 4))}],
        r"episode 0: next_observations: expected shape \(7, 3\), got \(7, 4\)",
    ),
    "flags": (
        lambda t: [{**t[0], "terminals": np.full(7, 3)}],
        "episode 0: terminals: expected true or false",
    ),
    "nan": (
        lambda t: [{**t[0], "rewards": np.full(7, np.nan)}],
        "episode 0: rewards: row 0 holds NaN",
    ),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD.values(), ids=BAD)
def test_files_that_can_not_be_trusted_are_refused(tmp_path, trajectories, spoil, sentence):
    path = write(tmp_path / "bad.pkl", spoil(trajectories))
    with pytest.raises(ValueError, match=f"^bad: {sentence}"):
        load_dataset(path)


def test_a_small_file_that_unfolds_to_a_huge_one_is_refused(tmp_path, trajectories):
    """One trajectory of 120 kB, named a thousand times in 3 kB more."""
    trajectory = {key: np.repeat(array, 1000, axis=0) for key, array in trajectories[0].items()}
    del trajectory["next_observations"]
    path = write(tmp_path / "bad.pkl", [trajectory] * 1000)
    assert path.stat().st_size < 500_000
    with pytest.raises(ValueError, match="unfold to more than 16 times its size"):
        load_dataset(path)


class Executes:
    """Makes a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_runs(tmp_path, trajectories):
    path = write(tmp_path / "bad.pkl", [*trajectories, Executes(tmp_path / "made")])
    with pytest.raises(
        ValueError, match=rf"^{path}: refused before anything of it ran: it asks for '.*mkdir'"
    ):
        load_dataset(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_file_keeps_beside_its_trajectories_is_no_hindrance(tmp_path, trajectories, protocol):
    """Half a million values in lists, states of generators, sets, text of any length."""
    trajectories[0]["infos"] = {
        "steps": [{"contact": [0.5, -1.0], "done": False}] * 1000 + list(range(500_000)),
        "generator": np.random.default_rng(0).bit_generator.state | {3: random.Random(0).getstate()},
        "sites": {1, "a"},
        "text": "a\nb" * 1000,
    }
    path = write(tmp_path / "hopper-medium-v2.pkl", trajectories, protocol)
    assert load_dataset(path).num_episodes == len(trajectories)


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, trajectories):
    path, counts = tmp_path / "hopper-medium-v2.pkl", {"read": 0, "refused": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        value, protocol = trajectories, int(rng.integers(pickle.HIGHEST_PROTOCOL + 1))
        if seed % 2:
            value = mutations.change_value(value, rng)
        content = pickle.dumps(value, protocol)
        if not seed % 2:
            content = mutations.BYTES[rng.integers(len(mutations.BYTES))](content, rng)
        path.write_bytes(content)
        try:
            load_dataset(path)
            counts["read"] += 1
        except ValueError as error:
            assert "\n" not in str(error), seed
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    assert counts["read"] > 20 and counts["refused"] > 100, counts
