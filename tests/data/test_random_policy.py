"""Data of a uniformly random policy: what is written, what it is written from, what is refused."""

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from dtag_fast.cli import main as cli
from dtag_fast.data import load_dataset, normalized_score, random_policy
from dtag_fast.data.random_policy import default_id, make_random
from dtag_fast.rollout.environments import make_env

WIDTH, LENGTH = 3, 7  # of the observations and the episodes of DtagTest/Plain-v0
MODULE_ID = "faulty_env:DtagTest/Waiting-v0"


class Plain(gymnasium.Env):
    """Counts its steps in every entry of the observation and ends after LENGTH; may fail.

    It keeps one array for its observations and clips actions in place, as some environments do.

    Args:
        actions, observations: its spaces.
        fails: what it does in step 3: "raise", "quit", "nan", "huge", "reward", "width", "old".
        fails_at: in place of 3; 0 is the reset.
        samples: whether it draws from its action space itself.
    """

    played = 0  # steps of all of them

    def __init__(self, actions=None, observations=None, fails=None, fails_at=3, samples=False):
        self.action_space = actions or Box(-1, 1, (2,))
        self.observation_space = observations or Box(-np.inf, np.inf, (WIDTH,))
        self.fails, self.fails_at, self.samples, self.t = fails, fails_at, samples, 0
        self.array = np.zeros(WIDTH, np.float64 if fails == "huge" else np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        if self.samples:
            self.action_space.sample()
        Plain.played += 1
        if isinstance(action, np.ndarray):
            action[:] = 0.0
        reward = np.inf if self._fails("reward") else float(self.t)
        step = self._observe(), reward, self.t == LENGTH, False, {}
        return step[:4] if self._fails("old") else step

    def _fails(self, kind):
        return self.fails == kind and self.t == self.fails_at

    def _observe(self):
        if self._fails("raise"):
            raise RuntimeError("told to\nfail")
        if self._fails("quit"):
            raise SystemExit(3)
        self.array[:] = self.t
        self.array[1] = {"nan": np.nan, "huge": 1e39}.get(self.fails, 0) if self.t == self.fails_at else 0
        if isinstance(self.observation_space, Dict):
            return self.observation_space.sample() | {
                "observation": self.array,
                "goal": {"x": self.array[:1]},
            }
        return self.array[:1] if self._fails("width") else self.array


DICT = Dict(
    {
        "observation": Box(-np.inf, np.inf, (WIDTH,), np.float64),
        "goal": Dict({"x": Box(-9, 9, (1,), np.float64), "kind": Discrete(4)}),
        "camera": Box(0, 255, (40, 40, 3), np.uint8),
    }
)


@pytest.fixture(autouse=True)
def _root(minari_home):
    """Every test has an empty Minari root and an empty cache."""


@pytest.fixture
def register():
    """register(**arguments of Plain) -> the id of such an environment, known while the test runs."""
    ids = []

    def register(**arguments):
        ids.append(f"DtagTest/Plain{len(ids)}-v0")
        gymnasium.register(ids[-1], entry_point=lambda: Plain(**arguments), disable_env_checker=True)
        return ids[-1]

    yield register
    for name in ids:
        del gymnasium.registry[name]


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
    assert minari.load_dataset(dataset_id).recover_environment().spec.max_episode_steps == 6


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


# What is refused


def test_a_set_of_the_same_recipe_stays_and_another_is_refused(register, minari_home):
    env_id = register()
    dataset_id = make_random(env_id, 20, 0, "my/set-v0")
    file = minari_home / dataset_id / "data/main_data.hdf5"
    before = file.stat().st_mtime_ns
    played = Plain.played
    assert make_random(env_id, 20, 0, "my/set-v0") == dataset_id
    for changed in (
        {"seed": 1},
        {"steps": 21},
        {"max_episode_steps": 5},
        {"env_id": "CartPole-v1"},
        {"observation_keys": ("x",)},
    ):
        with pytest.raises(ValueError, match=r"'my/set-v0' exists already .* minari delete my/set-v0"):
            make_random(**{"env_id": env_id, "steps": 20, "seed": 0, "dataset_id": dataset_id} | changed)
    assert (file.stat().st_mtime_ns, Plain.played) == (before, played)


@pytest.mark.parametrize(
    ("fails", "at", "sentence"),
    [
        ("raise", 3, r"step 3 of the episode with seed \d+ failed with RuntimeError: told to"),
        ("raise", 0, r"the reset of the episode with seed \d+ failed with RuntimeError: told to"),
        ("quit", 3, "step 3 .* SystemExit: 3"),
        ("nan", 3, "step 3 .* FloatingPointError: observation: .* entry 1 is nan"),
        ("nan", 0, "the reset .* entry 1 is nan"),
        ("huge", 3, "step 3 .* entry 1 is inf"),
        ("reward", 3, "step 3 .* FloatingPointError: reward: expected a finite float32 number, got inf"),
        ("width", 3, r"step 3 .* expected 3 numbers as the observation space says, got shape \(1,\)"),
        ("old", 3, "step 3 .* ValueError: not enough values to unpack"),
    ],
)
def test_an_environment_that_fails_is_one_sentence_and_leaves_nothing(
    register, minari_home, capsys, fails, at, sentence
):
    env_id = register(fails=fails, fails_at=at)
    with pytest.raises(ValueError, match=f"env_id: {env_id}: {sentence}"):
        make_random(env_id, 20, 0)
    assert list(minari_home.iterdir()) == []
    assert cli.main(["data", "make", "random", "--env", env_id, "--steps", "20"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_environment_may_fail_after_some_batches(register, minari_home, monkeypatch):
    monkeypatch.setattr(Plain, "played", 0)
    monkeypatch.setattr(Plain, "_fails", lambda self, kind: kind == "reward" and Plain.played == 1000)
    with pytest.raises(ValueError, match="reward: expected a finite"):
        make_random(register(), 2000, 0)
    assert list(minari_home.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"actions": Box(-np.inf, np.inf, (2,))}, "entry 0 has the bounds -inf and inf"),
        ({"actions": Box(np.float32([0, 0]), np.float32([1, np.inf]))}, "entry 1 has the bounds 0.0 and inf"),
        ({"actions": Box(-1e39, 1e39, (2,), np.float64)}, r"entry 0 has the bounds -1e\+39"),
        ({"actions": Box(-1, 1, (2, 2))}, "expected a Box of one dimension or Discrete, got Box"),
        ({"actions": MultiDiscrete([2, 3])}, r"or Discrete, got MultiDiscrete\(\[2 3\]\)"),
        ({"observations": Discrete(3)}, r"observations: .* got Discrete\(3\)"),
        ({"observations": Box(0, 255, (40, 40, 3), np.uint8)}, "observations: expected a Box of one dim"),
        ({"observations": Dict({"x": Box(0, 1, (2,))})}, "a Dict with x and no 'observation'"),
        ({"observations": Dict({"x": Discrete(2)})}, r"observations: .* got Dict\('x': Discrete\(2\)\)"),
    ],
)
def test_other_spaces_are_refused(register, minari_home, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_random(register(**arguments), 20, 0)
    assert list(minari_home.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*latest versioned")
@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps: expected at least 1, got 0"),
        ({"dataset_id": "a/b-v0"}, ValueError, "--id: expected namespace/name-vN"),
        ({"dataset_id": "../out-v0"}, ValueError, "--id: expected namespace/name-vN"),
        ({"env_id": "Nothing-v0"}, gymnasium.error.Error, "`Nothing` doesn't exist"),
        ({"env_id": "no_module:A-v0"}, gymnasium.error.Error, "no_module, which cannot be imported"),
        ({"env_id": "CartPole"}, ValueError, "CartPole is CartPole-v1 .* give the version too"),
        ({"observation_keys": ("x",)}, ValueError, "observation_keys: CartPole-v1 has Box"),
    ],
)
def test_bad_arguments_are_refused(minari_home, changed, error, sentence):
    with pytest.raises(error, match=sentence):
        make_random(**{"env_id": "CartPole-v1", "steps": 20, "seed": 0} | changed)
    assert list(minari_home.iterdir()) == []


def test_an_environment_that_cannot_be_built_is_refused(minari_home):
    def broken():
        raise OSError("no such model")

    gymnasium.register("DtagTest/Broken-v0", entry_point=broken)
    try:
        with pytest.raises(ValueError, match="DtagTest/Broken-v0 could not be built: OSError: no such model"):
            make_random("DtagTest/Broken-v0", 20, 0)
    finally:
        del gymnasium.registry["DtagTest/Broken-v0"]


def test_what_the_progress_raises_is_not_blamed_on_the_environment(register, minari_home, monkeypatch):
    def stop(done, total):
        raise KeyError("enough")

    monkeypatch.setattr(random_policy, "PROGRESS_EVERY", 5)
    with pytest.raises(KeyError, match="enough"):
        make_random(register(), 20, 0, progress=stop)
    assert list(minari_home.iterdir()) == []


def test_warnings_of_mujoco_are_pythons_and_write_no_log(tmp_path, monkeypatch):
    """Left alone, MuJoCo appends them to a file in the working directory."""

    class Unstable(gymnasium.Wrapper):
        def step(self, action):
            self.unwrapped.data.qvel[:] = 1e30
            return super().step(action)

    monkeypatch.chdir(tmp_path)
    unstable = "DtagTest/Unstable-v0"
    gymnasium.register(unstable, entry_point=lambda: Unstable(gymnasium.make("InvertedPendulum-v5")))
    try:
        with pytest.warns(RuntimeWarning, match="MuJoCo: Nan, Inf or huge value"):
            make_random(unstable, 3, 0)
    finally:
        del gymnasium.registry[unstable]
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


# The command


def test_the_command_makes_shows_and_trains(tmp_path, capsys):
    options = ["--env", "Hopper-v5", "--steps", "60", "--seed", "2", "--max-episode-steps", "20"]
    assert cli.main(["data", "make", "random", *options]) == 0
    assert "random/hopper-60-s2-v0 under" in capsys.readouterr().out
    assert cli.main(["data", "show", "random/hopper-60-s2-v0"]) == 0
    shown = capsys.readouterr().out
    for part in ("Hopper-v5, at most 20 steps", "11 numbers", "3 numbers in [-1, 1]", "0 neither"):
        assert part in shown
    small = ["--d-model", "16", "--n-layer", "1", "--n-head", "1", "--batch-size", "4", "--updates", "2"]
    run = tmp_path / "run"
    assert cli.main(["train", "odt", "random/hopper-60-s2-v0", "--out", str(run), *small]) == 0
    assert (run / "checkpoints/last").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["random"], "--env: random needs the environment"),
        (["pointmaze-umaze", "--env", "Hopper-v5"], "--env: pointmaze-umaze has its own environment"),
        (["pointmaze-umaze", "--max-episode-steps", "0"], "--max-episode-steps: pointmaze-umaze has"),
        (["pointmaze-umaze", "--observation-keys", "x"], "--observation-keys: pointmaze-umaze has"),
    ],
)
def test_options_that_do_not_go_together(argv, sentence, minari_home, capsys):
    assert cli.main(["data", "make", *argv]) == 2
    assert sentence in capsys.readouterr().err
    assert list(minari_home.iterdir()) == []
