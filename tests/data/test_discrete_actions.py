"""Discrete actions: one-hot rows in a store whatever they were read from; what is none of them is refused."""

import json
import pickle
import warnings

import cartpole
import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from trajectories import trajectories

from dtag_fast.cli import main as cli
from dtag_fast.data import DiscreteActions, Episode, TrajectoryStore, load_dataset
from dtag_fast.data.importing import import_files

TWO = DiscreteActions(2)


@pytest.fixture(scope="module")
def episodes():
    """Real episodes of different lengths, cut."""
    return [cartpole.record(1, steps, seed)[0] for seed, steps in enumerate((7, 1, 30, 12))]


def assert_holds(store, episodes, space):
    """Every action of every episode, as a row and as a number again."""
    assert store.discrete_actions == space and store.action_dim == space.n
    assert (store.metadata["action_low"], store.metadata["action_high"]) == (None, None)
    assert store.num_episodes == len(episodes)
    for index, expected in enumerate(episodes):
        found = store.episode(index)
        assert found.actions.dtype == np.float32
        np.testing.assert_array_equal(found.actions, np.eye(space.n)[expected.actions - space.start])
        np.testing.assert_array_equal(space.numbers(found.actions), expected.actions)
        for key in ("observations", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(found, key), np.float32(getattr(expected, key)))


@pytest.mark.parametrize("space", [DiscreteActions(1), TWO, DiscreteActions(5, start=-2)], ids=str)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_rows_and_numbers_are_one_another(space, dtype):
    if space.start < 0 and dtype is np.uint8:
        pytest.skip("no negative numbers")
    numbers = np.array([space.last, space.start, space.last], dtype)
    rows = space.one_hot(numbers, "here")
    np.testing.assert_array_equal(rows, np.eye(space.n)[[space.n - 1, 0, space.n - 1]])
    np.testing.assert_array_equal(space.one_hot(numbers[:, None], "here"), rows)
    np.testing.assert_array_equal(space.one_hot(rows, "here"), rows)
    assert space.numbers(rows).tolist() == numbers.tolist() and space.numbers(rows).dtype == np.int64
    assert all(Discrete(space.n, start=space.start).contains(number) for number in space.numbers(rows))


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        ([0, 1, 3], r"whole numbers 0 to 2 of Discrete\(3\), row 2 is 3"),
        ([0, -1], "row 1 is -1"),
        ([0.0, 0.5], r"row 1 is 0\.5"),
        ([np.nan], "row 0 is nan"),
        ([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]], r"one-hot rows of Discrete\(3\), row 1 is \[0\.0, 1\.0, 1\.0\]"),
        ([[0.0, -1.0, 2.0]], "expected one-hot rows"),
        ([[0, 1]], r"expected \(T,\) numbers or \(T, 3\) one-hot rows .*, got shape \(1, 2\)"),
        (["left"], r"expected numbers of Discrete\(3\), got type <U4"),
    ],
)
def test_what_is_no_action_is_refused(actions, sentence):
    with pytest.raises(ValueError, match=f"^here: actions: .*{sentence}"):
        DiscreteActions(3).one_hot(np.array(actions), "here")


@pytest.mark.parametrize("facts", [{"n": 0}, {"n": 2.0}, {"n": 2, "start": "a"}, {"n": True}])
def test_spaces_that_are_none_are_refused(facts):
    with pytest.raises(ValueError, match=r"^discrete_actions: (n|start): expected"):
        DiscreteActions(**facts)


def test_a_store_of_numbers_keeps_rows(tmp_path, episodes):
    space = gymnasium.make(cartpole.ENV_ID).action_space
    store = TrajectoryStore.from_episodes(episodes, {"discrete_actions": {"n": space.n}})
    assert_holds(store, episodes, TWO)
    store.save(tmp_path / "store")
    assert_holds(TrajectoryStore.open(tmp_path / "store"), episodes, TWO)
    np.testing.assert_array_equal(store.select([2]).actions, store.episode(2).actions)


def test_numbers_without_a_space_are_refused(episodes):
    with pytest.raises(
        ValueError, match=r"episode 0: actions: expected \(T, A\), got integers of shape \(7,\)"
    ):
        TrajectoryStore.from_episodes(episodes)


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
def test_what_minari_recorded(minari_home, form):
    """Through its own DataCollector."""
    pytest.importorskip("jax", reason="Minari's DataCollector needs it")
    if form == "arrow":
        pytest.importorskip("pyarrow")
    env = minari.DataCollector(gymnasium.make(cartpole.ENV_ID), data_format=form)
    recorded = [cartpole.play(env, seed, cartpole.scripted_action, 20) for seed in range(3)]
    env.reset(seed=99)  # closes the last episode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about descriptive fields that a test set does not need
        env.create_dataset("test/cartpole-v0")
    store = load_dataset("test/cartpole-v0")
    assert_holds(store, recorded, TWO)
    assert (store.metadata["env_id"], store.metadata["max_episode_steps"]) == ("CartPole-v1", 500)


def test_the_first_action_of_the_space_counts(write_minari, episodes):
    shifted = [e._replace(actions=e.actions + 3) for e in episodes]
    write_minari("test/shifted-v0", shifted, action_space=Discrete(4, start=2))
    assert_holds(load_dataset("test/shifted-v0"), shifted, DiscreteActions(4, start=2))


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def write_hdf5(path, content):
    with h5py.File(path, "w") as file:
        for key in content[0]:
            file[key] = np.concatenate([t[key] for t in content])
        file["timeouts"] = np.concatenate([np.arange(len(t["rewards"]))[::-1] == 0 for t in content])
    return path


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("write", [write_pickle, write_hdf5])
def test_files_of_integers(tmp_path, minari_home, episodes, write, column):
    """The number of actions is the largest plus one where nothing else tells it."""
    content = trajectories(episodes)
    if column:
        content = [t | {"actions": t["actions"][:, None].astype(np.int32)} for t in content]
    store = load_dataset(write(tmp_path / ("mine.pkl" if write is write_pickle else "mine.hdf5"), content))
    assert_holds(store, episodes, TWO)
    notes = store.metadata["notes"]
    assert any("integer actions are taken as discrete, 0 to 1, the largest in the file" in n for n in notes)


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_an_import_is_a_minari_dataset_of_the_named_space(tmp_path, minari_home, episodes):
    left = [e._replace(actions=np.zeros_like(e.actions)) for e in episodes]
    files = [
        write_pickle(tmp_path / f"{i}.pkl", trajectories(part)) for i, part in enumerate((episodes, left))
    ]
    import_files(files, "test/unnamed-v0")
    assert_holds(load_dataset("test/unnamed-v0"), episodes + left, TWO)
    import_files([files[1]], "test/named-v0", cartpole.ENV_ID)
    store = load_dataset("test/named-v0")
    assert_holds(store, left, TWO)
    assert store.metadata["env_id"] == cartpole.ENV_ID and not any(
        "taken" in n for n in store.metadata["notes"]
    )
    theirs = minari.load_dataset("test/named-v0")
    assert theirs.action_space == Discrete(2)
    for episode in theirs.iterate_episodes():
        np.testing.assert_array_equal(episode.actions, left[episode.id].actions)


@pytest.mark.parametrize(
    ("name", "spoil", "env_id", "sentence"),
    [
        ("mine", lambda a: a + 1, "CartPole-v1", "CartPole-v1 has actions 0 to 1, mine.pkl has 1 to 2"),
        ("mine", lambda a: a - 1, None, "expected discrete actions numbered from 0, got -1; name the env"),
        ("mine", lambda a: a, "Pendulum-v1", "Pendulum-v1 has 3 observations and 1 actions, mine.pkl has 4"),
        ("mine", lambda a: a, "Acrobot-v1", "Acrobot-v1 has 6 observations, mine.pkl has 4"),
        ("mine", lambda a: a[:, None] + 0.5, "CartPole-v1", r"whole numbers 0 to 1 of .*, row 0 is [01]\.5"),
        ("mine", lambda a: a.astype(float), None, r"got shape \(\d+,\); discrete actions are integers"),
        ("hopper-medium-v2", lambda a: a, None, "expected vectors, as D4RL has them for this name, got int"),
    ],
)
def test_actions_that_do_not_fit_are_refused(tmp_path, minari_home, episodes, name, spoil, env_id, sentence):
    content = [t | {"actions": spoil(t["actions"])} for t in trajectories(episodes[:1] + episodes[2:])]
    path = write_pickle(tmp_path / f"{name}.pkl", content)
    with pytest.raises(ValueError, match=sentence):
        import_files([path], "test/bad-v0", env_id)
    assert list(minari_home.iterdir()) == []


def test_kinds_of_actions_do_not_mix(tmp_path, minari_home, episodes):
    first, second, *_ = trajectories(episodes)
    mixed = [first, second | {"actions": second["actions"][:, None] * 0.5}]
    with pytest.raises(ValueError, match="episode 1: actions: expected int64 as in episode 0, got float64"):
        load_dataset(write_pickle(tmp_path / "mine.pkl", mixed))
    vectors = [t | {"actions": t["actions"][:, None] * 0.5} for t in trajectories(episodes)]
    files = [
        write_pickle(tmp_path / "one.pkl", trajectories(episodes)),
        write_pickle(tmp_path / "two.pkl", vectors),
    ]
    with pytest.raises(ValueError, match=r"different sizes .* \[\(4, 1\), \(4, 'discrete'\)\]"):
        import_files(files, "test/both-v0")


def test_integers_among_vectors_are_vectors(tmp_path, minari_home, episodes):
    """Several columns, or an environment of continuous actions, leave nothing to be told by the type."""
    whole = [t | {"actions": np.stack([t["actions"]] * 2, axis=1)} for t in trajectories(episodes)]
    whole[1]["actions"] = whole[1]["actions"] * 0.5
    store = load_dataset(write_pickle(tmp_path / "mine.pkl", whole))
    assert store.discrete_actions is None and store.action_dim == 2
    content = [t | {"observations": t["observations"][:, :3]} for t in trajectories(episodes)]
    content = [t | {"next_observations": t["next_observations"][:, :3]} for t in content]
    content[1]["actions"] = content[1]["actions"][:, None] * 0.5
    import_files([write_pickle(tmp_path / "pendulum.pkl", content)], "test/pendulum-v0", "Pendulum-v1")
    assert load_dataset("test/pendulum-v0").metadata["action_high"] == [2.0]


def test_show_prints_the_space(write_minari, episodes, capsys):
    write_minari("test/shifted-v0", episodes, action_space=Discrete(2), observation_space=Box(-9, 9, (4,)))
    assert cli.main(["data", "show", "test/shifted-v0"]) == 0
    assert "one of 2, numbered 0 to 1: Discrete(2)" in capsys.readouterr().out


def test_stores_from_before_have_continuous_actions(tmp_path, make_store):
    store = make_store([3, 2])
    store.save(tmp_path / "store")
    meta = json.loads((tmp_path / "store" / "meta.json").read_text())
    assert "discrete_actions" not in meta["metadata"]
    assert TrajectoryStore.open(tmp_path / "store").discrete_actions is None
    assert Episode._fields == ("observations", "actions", "rewards", "terminations", "truncations")
