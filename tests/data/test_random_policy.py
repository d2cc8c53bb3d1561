"""Data of a uniformly random policy: what is written, and what it is written from."""

import sys

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from plain_env import LENGTH, WIDTH, Plain

from dtag_fast.cli import main as cli
from dtag_fast.data import load_dataset, normalized_score
from dtag_fast.data.random_policy import default_id, make_random
from dtag_fast.rollout.environments import make_env

MODULE_ID = "faulty_env:DtagTest/Waiting-v0"
DICT = Dict(
    {
        "observation": Box(-np.inf, np.inf, (WIDTH,), np.float64),
        "goal": Dict({"x": Box(-9, 9, (1,), np.float64), "kind": Discrete(4)}),
        "camera": Box(0, 255, (40, 40, 3), np.uint8),
    }
)

pytestmark = pytest.mark.usefixtures("minari_home")  # an empty Minari root and an empty cache


def arrays_of(dataset_id, root):
    """Every array and attribute of the dataset's file."""
    found = {}

    def visit(name, entry):
        found[name] = dict(entry.attrs), entry[...] if isinstance(entry, h5py.Dataset) else None

    with h5py.File(root / dataset_id / "data/main_data.hdf5") as file:
        file.visititems(visit)
    return found


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, (attributes, array) in left.items():
        assert attributes == right[name][0]
        np.testing.assert_array_equal(array, right[name][1], err_msg=name)


# What is written


@pytest.mark.parametrize(
    ("env_id", "steps"), [("Hopper-v5", 130), ("InvertedPendulum-v5", 60), ("CartPole-v1", 150)]
)
def test_every_episode_is_played_again_from_its_seed_and_actions(env_id, steps):
    dataset = minari.load_dataset(make_random(env_id, steps, seed=5))
    assert dataset.total_steps == steps
    about = list(dataset.storage.get_episode_metadata(range(dataset.total_episodes)))
    assert len({one["seed"] for one in about}) == dataset.total_episodes > 2
    env = gymnasium.make(env_id)
    for episode, one in zip(dataset.iterate_episodes(), about, strict=True):
        seen = [env.reset(seed=one["seed"])[0]]
        ends = []
        for t, action in enumerate(episode.actions):
            observation, reward, *over, _ = env.step(action)
            seen.append(observation)
            ends.append(over)
            assert reward == episode.rewards[t]
        assert episode.observations.dtype == np.float32
        np.testing.assert_array_equal(episode.observations, np.array(seen, np.float32))
        assert not np.array(ends)[:-1].any()
        last = [episode.terminations[-1], episode.truncations[-1]]
        cut = episode.id == dataset.total_episodes - 1 and not any(ends[-1])
        assert last == ([False, True] if cut else ends[-1])
        assert not (episode.terminations[:-1].any() or episode.truncations[:-1].any())
    env.close()
    store = load_dataset(dataset.spec.dataset_id)
    assert store.metadata["env_id"] == env_id
    assert store.metadata["max_episode_steps"] == gymnasium.spec(env_id).max_episode_steps
    assert store.metadata["notes"] == []


def test_actions_are_uniform_within_the_bounds(register):
    low, high = np.array([-2, 0, 100], np.float32), np.array([5, 0.1, 101], np.float32)
    store = load_dataset(make_random(register(actions=Box(low, high)), 4000, seed=0))
    shares = (store.actions - low) / (high - low)
    assert shares.min() >= 0 and shares.max() <= 1
    for column in np.sort(shares, axis=0).T:  # Kolmogorov-Smirnov: 1.95 / sqrt(N) is passed once in 1000
        assert np.abs(column - np.linspace(0, 1, len(column))).max() < 1.95 / np.sqrt(len(column))
    assert np.abs(np.corrcoef(shares.T) - np.eye(3)).max() < 0.06


def test_discrete_actions_are_uniform_and_keep_their_numbers(register):
    dataset_id = make_random(register(actions=Discrete(4, start=3)), 4000, seed=0)
    counts = load_dataset(dataset_id).actions.sum(axis=0)
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3  # chi-square of 3, passed once in 1000
    assert load_dataset(dataset_id).metadata["discrete_actions"] == {"n": 4, "start": 3}
    assert {int(a) for a in minari.load_dataset(dataset_id)[0].actions} <= {3, 4, 5, 6}


def test_whole_numbers_in_a_box_stay_whole(register):
    dataset_id = make_random(register(actions=Box(-1, 2, (2,), np.int64)), 200, seed=0)
    assert set(np.unique(load_dataset(dataset_id).actions)) == {-1.0, 0.0, 1.0, 2.0}


def test_an_environment_may_reuse_its_arrays(register):
    """Each observation counts the steps so far, and no action is what the environment made of it."""
    store = load_dataset(make_random(register(), 2 * LENGTH + 2, seed=0))
    expected = np.array([*range(LENGTH + 1), *range(LENGTH + 1), 0, 1, 2], np.float32)
    np.testing.assert_array_equal(store.observations[:, 0], expected)
    np.testing.assert_array_equal(store.rewards, [*range(1, LENGTH + 1)] * 2 + [1, 2])
    assert (store.actions != 0).all()
    assert store.terminations.tolist() == ([False] * (LENGTH - 1) + [True]) * 2 + [False, False]
    assert store.truncations.tolist() == [False] * (2 * LENGTH + 1) + [True]


def test_an_end_that_meets_the_last_step_is_no_cut(register):
    store = load_dataset(make_random(register(), LENGTH, seed=0))
    assert store.terminations[-1] and not store.truncations.any()


@pytest.mark.parametrize("env_id", ["Hopper-v5", "CartPole-v1"])
def test_same_seed_same_bits(env_id, minari_home):
    first, second, other = (
        make_random(env_id, 200, seed, f"test/{name}-v0") for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert_same(arrays_of(first, minari_home), arrays_of(second, minari_home))
    assert not np.array_equal(load_dataset(first).actions, load_dataset(other).actions)


def test_a_longer_set_begins_as_a_shorter_one():
    short, long = (load_dataset(make_random("InvertedPendulum-v5", steps, seed=0)) for steps in (40, 90))
    np.testing.assert_array_equal(long.actions[:40], short.actions)
    np.testing.assert_array_equal(long.rewards[:40], short.rewards)


def test_actions_do_not_depend_on_what_the_environment_draws(register):
    calm, busy = (load_dataset(make_random(register(samples=samples), 40, 0)) for samples in (False, True))
    np.testing.assert_array_equal(calm.actions, busy.actions)


# Dict observations


def test_vectors_of_a_dict_are_written_and_the_rest_is_named(register):
    dataset_id = make_random(register(observations=DICT), 10, seed=0)
    dataset, store = minari.load_dataset(dataset_id), load_dataset(dataset_id)
    episode = dataset[0]
    np.testing.assert_array_equal(episode.observations["observation"][:, 0], np.arange(LENGTH + 1))
    np.testing.assert_array_equal(episode.observations["goal"]["x"][:, 0], np.arange(LENGTH + 1))
    assert dataset.observation_space == Dict(
        {"observation": Box(-np.inf, np.inf, (WIDTH,)), "goal": Dict({"x": Box(-9, 9, (1,))})}
    )
    assert store.metadata["observation_keys"] == ["observation"]
    assert store.state_dim == WIDTH
    assert store.metadata["notes"] == [
        "entries of the observation that are no Box of one dimension are left out: camera, goal/kind"
    ]


def test_the_entries_of_the_state_are_chosen(register):
    dataset_id = make_random(register(observations=DICT), 10, 0, observation_keys=("goal", "observation"))
    store = load_dataset(dataset_id)
    assert store.metadata["observation_keys"] == ["goal/x", "observation"]
    assert store.state_dim == WIDTH + 1


def test_goals_of_gymnasium_robotics_are_part_of_the_state():
    pytest.importorskip("gymnasium_robotics")
    dataset_id = make_random("gymnasium_robotics:PointMaze_UMaze-v3", 350, seed=0)
    store = load_dataset(dataset_id)
    assert dataset_id == "random/pointmaze_umaze-350-s0-v0"
    assert store.metadata["observation_keys"] == ["observation", "desired_goal"]
    assert (store.state_dim, store.num_episodes, store.metadata["max_episode_steps"]) == (6, 2, 300)
    assert set(minari.load_dataset(dataset_id)[0].observations) == {
        *("observation", "achieved_goal", "desired_goal")
    }


# What is said of it


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("Hopper-v5", "hopper"),
        ("InvertedDoublePendulum-v5", "inverteddoublependulum"),
        ("PointMaze_UMaze-v3", "pointmaze_umaze"),
        ("module.sub:Some Space/My.Env-v12", "some-space-my-env"),
        ("Unversioned", "unversioned"),
        ("Ä-v0", "environment"),
    ],
)
def test_default_ids_are_minaris(env_id, name):
    from dtag_fast.data.new_dataset import expect_id

    found = default_id(env_id, 100_000, 7)
    assert found == f"random/{name}-100000-s7-v0"
    expect_id(found)


def test_references_are_written_for_d4rls_own_tasks():
    hopper = load_dataset(make_random("Hopper-v5", 40, 0))
    assert (hopper.metadata["ref_min_score"], hopper.metadata["ref_max_score"]) == (-20.272305, 3234.3)
    assert hopper.metadata["ref_source"] == "d4rl: hopper"
    walker = load_dataset(make_random("Walker2d-v5", 40, 0))
    assert walker.metadata["ref_min_score"] is None
    assert "v5 changed foot friction" in normalized_score(0.0, walker.metadata).note
    assert load_dataset(make_random("CartPole-v1", 40, 0)).metadata["ref_source"] is None


def test_a_time_limit_cuts_is_recorded_and_has_no_references():
    dataset_id = make_random("Hopper-v5", 40, 0, "test/short-v0", max_episode_steps=6)
    store = load_dataset(dataset_id)
    assert store.episode_lengths.tolist() == [6, 6, 6, 6, 6, 6, 4]
    assert store.truncations.sum() == 7 and not store.terminations.any()
    assert store.metadata["max_episode_steps"] == 6
    assert store.metadata["ref_min_score"] is None
    assert normalized_score(0.0, store.metadata) is None
    assert minari.load_dataset(dataset_id).recover_environment().spec.max_episode_steps == 6


@pytest.mark.parametrize("kwargs", [{}, {"healthy_reward": 3.0}])
def test_arguments_of_a_registration_are_recorded_and_change_the_task(tmp_path, monkeypatch, kwargs):
    """An id of Gymnasium's that a module takes for its own."""
    (tmp_path / "own_hopper.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.mujoco.hopper_v5 import HopperEnv\n"
        f"gymnasium.register('Hopper-v3', HopperEnv, max_episode_steps=1000, kwargs={kwargs})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(gymnasium.registry, "Hopper-v3", raising=False)
    try:
        metadata = load_dataset(make_random("own_hopper:Hopper-v3", 40, 0)).metadata
    finally:
        sys.modules.pop("own_hopper", None)
        gymnasium.registry.pop("Hopper-v3", None)
    assert metadata["env_spec"]["kwargs"] == kwargs
    assert (normalized_score(0.0, metadata) is None) == bool(kwargs)
    assert metadata["ref_source"] == (None if kwargs else "d4rl: hopper")


def test_the_environment_of_a_module_is_built_again_from_the_data():
    dataset_id = make_random(MODULE_ID, 30, seed=0, max_episode_steps=9)
    metadata = load_dataset(dataset_id).metadata
    assert dataset_id == "random/dtagtest-waiting-30-s0-v0"
    assert metadata["env_id"] == MODULE_ID
    env = make_env(metadata["env_id"], metadata["env_spec"], metadata["max_episode_steps"])
    assert env.spec.max_episode_steps == 9
    env.close()


def test_progress_counts_up_to_the_total(register):
    calls = []
    make_random(register(), 4500, 0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2000, 4500), (4000, 4500), (4500, 4500)]


def test_episodes_are_written_while_they_are_played(register, monkeypatch):
    from minari.dataset._storages.hdf5_storage import HDF5Storage

    write, seen = HDF5Storage.update_episodes, []

    def watched(self, episodes):
        seen.append((len(episodes), Plain.played))
        write(self, episodes)

    monkeypatch.setattr(HDF5Storage, "update_episodes", watched)
    monkeypatch.setattr(Plain, "played", 0)
    make_random(register(), 150 * LENGTH, seed=0)
    assert seen == [(64, 64 * LENGTH), (64, 128 * LENGTH), (22, 150 * LENGTH)]


# The command


def test_the_command_makes_shows_and_trains(tmp_path, capsys):
    options = ["--env", "Hopper-v5", "--steps", "60", "--seed", "2", "--max-episode-steps", "20"]
    assert cli.main(["data", "make", "random", *options]) == 0
    assert "random/hopper-60-s2-v0 under" in capsys.readouterr().out
    assert cli.main(["data", "show", "random/hopper-60-s2-v0"]) == 0
    shown = capsys.readouterr().out
    for part in (
        *("Hopper-v5, at most 20 steps", "11 numbers", "3 numbers in [-1, 1]", "0 neither"),
        "none: D4RL's references of hopper are returns within 1000 steps, an episode here has up to 20",
    ):
        assert part in shown
    small = ["--d-model", "16", "--n-layer", "1", "--n-head", "1", "--batch-size", "4", "--updates", "2"]
    run = tmp_path / "run"
    assert cli.main(["train", "odt", "random/hopper-60-s2-v0", "--out", str(run), *small]) == 0
    assert (run / "checkpoints/last").exists()
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--episodes", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "normalised: none; D4RL's references of hopper are returns within 1000 steps" in said
