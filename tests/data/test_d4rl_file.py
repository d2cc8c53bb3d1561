"""D4RL's files become episodes step by step: every action stands between its two observations."""

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dtag_fast.data.d4rl_columns as d4rl_columns
from dtag_fast.data import load_dataset
from dtag_fast.data.summary import summarize

STATE_DIM, ACTION_DIM = 3, 2


def record(terminals, timeouts, *, seed=0, state_dim=STATE_DIM, action_dim=ACTION_DIM):
    """A D4RL record: a step's next observation is the next row, but after an end another one."""
    terminals, timeouts = np.array(terminals, bool), np.array(timeouts, bool)
    rng = np.random.default_rng(seed)
    rows = len(terminals)
    observations = rng.standard_normal((rows, state_dim), dtype=np.float32)
    following = np.concatenate([observations[1:], rng.standard_normal((1, state_dim), dtype=np.float32)])
    ends = terminals | timeouts
    following[ends] = rng.standard_normal((int(ends.sum()), state_dim), dtype=np.float32)
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (rows, action_dim)).astype(np.float32),
        "rewards": rng.standard_normal(rows).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": following,
    }


def write(path, arrays, **options):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, **options)
        file.create_dataset("infos/qpos", data=np.zeros(len(arrays["rewards"])))
        file.create_dataset("metadata/algorithm", data="SAC")
    return path


def at(rows, *positions):
    flags = np.zeros(rows, bool)
    flags[list(positions)] = True
    return flags


def without(arrays, *keys):
    return {key: array for key, array in arrays.items() if key not in keys}


def expected_episodes(arrays, ends):
    """The episodes of a record, step by step: (state, action, reward, terminal, cut, next state)."""
    episodes, steps = [], []
    for t in range(len(arrays["rewards"])):
        terminal = bool(arrays["terminals"][t])
        following = arrays["next_observations"][t] if "next_observations" in arrays else None
        if following is None and not ends[t] and t + 1 < len(ends):
            following = arrays["observations"][t + 1]
        if following is None and terminal:
            following = arrays["observations"][t]
        if following is not None:
            steps.append(
                (arrays["observations"][t], arrays["actions"][t], arrays["rewards"][t], terminal, following)
            )
        if ends[t]:
            if steps:
                episodes.append(steps)
            steps = []
    return episodes


def assert_episodes(store, expected):
    assert store.num_episodes == len(expected)
    for index, steps in enumerate(expected):
        episode = store.episode(index)
        assert len(episode.actions) == len(steps)
        for t, (state, action, reward, terminal, following) in enumerate(steps):
            np.testing.assert_array_equal(episode.observations[t], state)
            np.testing.assert_array_equal(episode.actions[t], action)
            assert episode.rewards[t] == reward
            assert episode.terminations[t] == terminal
            np.testing.assert_array_equal(episode.observations[t + 1], following)
        # An episode always says how it ends, and only at its last step.
        ends = episode.terminations | episode.truncations
        assert ends.tolist() == [False] * (len(steps) - 1) + [True]


@pytest.fixture(autouse=True)
def cache(minari_home):
    """An empty cache."""


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 16])
@pytest.mark.parametrize("has_next", [True, False])
def test_every_step_of_every_episode(tmp_path, monkeypatch, has_next, block):
    monkeypatch.setattr(d4rl_columns, "BLOCK_ROWS", block)
    arrays = record(at(20, 3, 4, 12), at(20, 8, 15, 16))
    ends = arrays["terminals"] | arrays["timeouts"]
    if not has_next:
        arrays = without(arrays, "next_observations")
    store = load_dataset(write(tmp_path / "hopper_medium-v2.hdf5", arrays))
    assert_episodes(store, expected_episodes(arrays, ends))
    notes = store.metadata["notes"]
    assert "3 steps after the last end of an episode are left out" in notes
    lost = "the observation after the last step of 3 cut episodes is not in the file: that step is left out"
    repeated = "the observation after 3 terminations is not in the file: the last one is repeated there"
    assert any(note.startswith(lost) for note in notes) == (not has_next)
    assert (repeated in notes) == (not has_next)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flags=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30),
    has_next=st.booleans(),
    block=st.integers(1, 31),
)
def test_ends_may_stand_anywhere(tmp_path_factory, monkeypatch, flags, has_next, block):
    monkeypatch.setattr(d4rl_columns, "BLOCK_ROWS", block)
    terminals, timeouts = np.array(flags, bool).T
    arrays = record(terminals, timeouts)
    if not has_next:
        arrays = without(arrays, "next_observations")
    folder = tmp_path_factory.mktemp("any")
    path = write(folder / "hopper_medium-v2.hdf5", arrays)
    expected = expected_episodes(arrays, terminals | timeouts)
    if expected:
        assert_episodes(load_dataset(path, folder / "cache"), expected)
    else:
        with pytest.raises(ValueError, match=r"^hopper-medium-v2: expected at least one"):
            load_dataset(path, folder / "cache")


def test_a_step_may_be_terminal_and_at_the_limit(tmp_path):
    store = load_dataset(write(tmp_path / "x.hdf5", record(at(4, 3), at(4, 3))))
    assert store.terminations.tolist() == store.truncations.tolist() == [False, False, False, True]


def test_without_timeouts_jumps_cut(tmp_path):
    arrays = record(at(20, 5), at(20, 10, 19))
    expected = expected_episodes(arrays, arrays["terminals"] | arrays["timeouts"])
    store = load_dataset(write(tmp_path / "hopper_medium-v2.hdf5", without(arrays, "timeouts")))
    # That the record ends with an episode can not be told from it.
    assert_episodes(store, expected[:2])
    assert store.metadata["notes"] == [
        "timeouts are missing: 1 episodes are cut where next_observations and the next row of observations "
        "differ",
        "9 steps after the last end of an episode are left out",
    ]


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_without_timeouts_and_next_observations_the_limit_cuts(tmp_path, monkeypatch, block):
    monkeypatch.setattr(d4rl_columns, "BLOCK_ROWS", block)
    arrays = without(record(at(520, 30), at(520)), "timeouts", "next_observations")
    store = load_dataset(write(tmp_path / "pen-human-v1.hdf5", arrays))
    assert_episodes(store, expected_episodes(arrays, at(520, 30, 130, 230, 330, 430)))
    assert store.metadata["notes"][0] == (
        "timeouts are missing: episodes are cut after 100 steps, the environment's limit"
    )


def test_ends_that_nothing_marks_are_found_by_jumps(tmp_path):
    """Medium-replay files have such (D4RL issue 162)."""
    arrays = record(at(20, 5), at(20, 10, 19))
    expected = expected_episodes(arrays, arrays["terminals"] | arrays["timeouts"])
    arrays["timeouts"] = at(20, 19)
    store = load_dataset(write(tmp_path / "hopper_medium_replay-v2.hdf5", arrays))
    assert_episodes(store, expected)
    assert store.metadata["notes"] == [
        "1 episodes are cut where next_observations and the next row of observations differ, though neither "
        "terminals nor timeouts mark it"
    ]


def maze_record(*, dense=False):
    """A walk like D4RL's: labelled row by row, the row after a cut repeats the position."""
    rng = np.random.default_rng(0)
    arrays = without(record(at(40), at(40, 9, 24, 39), state_dim=4), "next_observations")
    states = arrays["observations"]
    states[:, :2] = 1.0 + rng.uniform(-1, 1, (40, 2))
    states[10], states[25] = states[9], states[24]
    distance = np.linalg.norm(states[:, :2] - (1.0, 1.0), axis=1)
    arrays["rewards"] = (np.exp(-distance) if dense else distance <= 0.5).astype(np.float32)
    assert 0 < (distance <= 0.5).mean() < 1
    return arrays


@pytest.mark.parametrize("dense", [False, True])
def test_rewards_of_maze2d_are_those_of_the_state_reached(tmp_path, dense):
    arrays = maze_record(dense=dense)
    name = "maze2d-umaze-dense-v1" if dense else "maze2d-umaze-sparse-v1"
    store = load_dataset(write(tmp_path / f"{name}.hdf5", arrays))
    assert store.episode_lengths.tolist() == [9, 14, 14]
    for index in range(3):
        episode = store.episode(index)
        distance = np.linalg.norm(episode.observations[1:, :2] - (1.0, 1.0), axis=1)
        label = np.exp(-distance) if dense else distance <= 0.5
        np.testing.assert_allclose(episode.rewards, label, rtol=1e-6)
    assert not store.terminations.any()
    assert any("moved to the step that reaches it" in note for note in store.metadata["notes"])
    assert store.metadata["env_spec"]["wrapper"] == ("d4rl_maze2d_dense" if dense else "d4rl_maze2d")
    assert summarize(store).score.source == f"d4rl: {'maze2d-umaze-dense-v1' if dense else 'maze2d-umaze-v1'}"


def test_rewards_of_maze2d_that_are_right_already_stay(tmp_path):
    arrays = maze_record()
    arrays["rewards"][:-1] = arrays["rewards"][1:]
    store = load_dataset(write(tmp_path / "maze2d-umaze-sparse-v1.hdf5", arrays))
    assert store.episode_lengths.tolist() == [9, 14, 14]
    np.testing.assert_array_equal(store.episode(1).rewards, arrays["rewards"][10:24])
    assert any("rewards are left as they are" in note for note in store.metadata["notes"])


def test_terminals_of_maze2d_only_cut(tmp_path):
    """Files made by D4RL's script hold no timeouts and mark goals reached as terminals (issue 176)."""
    arrays = maze_record()
    arrays["terminals"] = arrays.pop("timeouts")
    store = load_dataset(write(tmp_path / "maze2d-umaze-sparse-v1.hdf5", arrays))
    assert store.episode_lengths.tolist() == [9, 14, 14]
    assert not store.terminations.any()


def test_repeated_terminals_of_antmaze_are_noted(tmp_path):
    arrays = without(record(at(12, 4, 5, 6), at(12, 11)), "next_observations")
    store = load_dataset(write(tmp_path / "antmaze-umaze-v0.hdf5", arrays))
    assert store.episode_lengths.tolist() == [5, 1, 1, 4]
    notes = store.metadata["notes"]
    assert "2 episodes have one step: at the goal, antmaze marks every step as terminal" in notes
    assert any("take the v2 files" in note for note in notes)


def test_the_name_says_environment_and_references(tmp_path):
    arrays = record(at(9, 8), at(9), state_dim=11, action_dim=3)
    metadata = load_dataset(write(tmp_path / "hopper_medium-v2.hdf5", arrays)).metadata
    assert metadata["dataset_id"] == "hopper-medium-v2"
    assert (metadata["env_id"], metadata["max_episode_steps"]) == ("Hopper-v4", 1000)
    assert (metadata["action_low"], metadata["action_high"]) == ([-1.0] * 3, [1.0] * 3)
    assert metadata["ref_source"] == "d4rl: hopper"
    assert metadata["notes"] == []


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_without_a_known_name_bounds_come_from_the_data(tmp_path, scale):
    arrays = record(at(9, 8), at(9))
    arrays["actions"] *= scale
    metadata = load_dataset(write(tmp_path / "mine.hdf5", arrays)).metadata
    assert metadata["env_id"] is metadata["ref_min_score"] is metadata["max_episode_steps"] is None
    expected = ([-1.0, -1.0], [1.0, 1.0])
    if scale > 1:
        expected = (arrays["actions"].min(0).tolist(), arrays["actions"].max(0).tolist())
    assert (metadata["action_low"], metadata["action_high"]) == expected
    assert "says neither environment nor action space" in metadata["notes"][0]


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"chunks": True}])
def test_layouts_and_types_of_the_file_do_not_matter(tmp_path, options):
    arrays = record(at(20, 3, 12), at(20, 8, 19))
    expected = expected_episodes(arrays, arrays["terminals"] | arrays["timeouts"])
    other = {
        **arrays,
        "observations": arrays["observations"].astype(np.float64),
        "rewards": arrays["rewards"][:, None],
        "terminals": arrays["terminals"].astype(np.float32)[:, None],
        "timeouts": arrays["timeouts"].astype(np.int64),
    }
    assert_episodes(load_dataset(write(tmp_path / "hopper_medium-v2.hdf5", other, **options)), expected)


def test_converted_once_and_again_when_the_file_changes(tmp_path):
    path = write(tmp_path / "hopper_medium-v2.hdf5", record(at(9, 8), at(9)))
    first = load_dataset(path)
    again = load_dataset(path)
    assert isinstance(again.observations, np.memmap)
    assert first.metadata == again.metadata
    write(path, record(at(9, 8), at(9), seed=1))
    other = load_dataset(path)
    assert other.metadata["fingerprint"] != first.metadata["fingerprint"]
    assert not np.array_equal(other.actions, first.actions)
    # The name decides the task, so the same bytes under another name are another dataset.
    path.rename(tmp_path / "walker2d_medium-v2.hdf5")
    assert load_dataset(tmp_path / "walker2d_medium-v2.hdf5").metadata["env_id"] == "Walker2d-v4"


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(d4rl_columns, "BLOCK_ROWS", 1000)
    rows = 100_000
    path = write(tmp_path / "x.hdf5", record(at(rows, *range(99, rows, 100)), at(rows)))
    load_dataset(write(tmp_path / "small.hdf5", record(at(9, 8), at(9))))  # imports
    tracemalloc.start()
    try:
        load_dataset(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 5


def test_progress_counts_steps(tmp_path):
    seen = []
    path = write(tmp_path / "x.hdf5", record(at(9, 3, 8), at(9)))
    load_dataset(path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 9), (9, 9)]


BAD = {
    "no actions": (
        lambda a: a.pop("actions"),
        "actions: this array is missing; bad.hdf5 has infos, metadata",
    ),
    "no terminals": (lambda a: a.pop("terminals"), "terminals: this array is missing"),
    "no episodes": (
        lambda a: [a.pop(key) for key in ("timeouts", "next_observations")],
        "timeouts: bad.hdf5 has neither them nor next_observations, and its name tells no step limit",
    ),
    "no end": (
        lambda a: (a.update(terminals=at(9), timeouts=at(9)), a.pop("next_observations")),
        "expected at least one end of an episode in terminals or timeouts, got none in 9 steps",
    ),
    "short": (lambda a: a.update(rewards=np.zeros(8)), r"rewards: expected \(9,\), one per observation, got"),
    "short actions": (
        lambda a: a.update(actions=np.zeros((8, 2))),
        r"actions: expected 9 rows of numbers, one per observation, got shape \(8, 2\)",
    ),
    "flat": (
        lambda a: a.update(observations=np.zeros(9)),
        r"observations: expected \(N, S\), got shape \(9,\)",
    ),
    "wide": (
        lambda a: a.update(next_observations=np.zeros((9, 5))),
        "next_observations: expected 3 columns, as observations, got shape",
    ),
    "text": (lambda a: a.update(rewards=np.array([b"a"] * 9)), "rewards: expected numbers, got type"),
    "flags": (lambda a: a.update(terminals=np.full(9, 2)), "terminals: expected true or false per step"),
    "nan": (
        lambda a: a["observations"].__setitem__((7, 1), np.nan),
        "episode 1: observations: row 3 holds NaN",
    ),
    "transitions": (
        lambda a: a.update(next_observations=np.arange(27.0).reshape(9, 3)),
        "next_observations: after 7 of 9 steps they differ from the next row of observations",
    ),
    "text that follows": (
        lambda a: a.update(next_observations=np.full((9, 3), b"a")),
        "next_observations: expected numbers, got type",
    ),
    "nothing": (
        lambda a: a.update({key: array[:0] for key, array in a.items()}),
        "observations: bad.hdf5 holds no steps",
    ),
    "minari": (
        lambda a: a.update({"episode_0": np.zeros(1)}),
        "is the data of a Minari dataset, not a D4RL file",
    ),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD.values(), ids=BAD)
def test_files_that_can_not_be_trusted_are_refused(tmp_path, spoil, sentence):
    arrays = record(at(9, 3), at(9, 8))
    spoil(arrays)
    arrays.setdefault("rewards", np.zeros(0))
    path = write(tmp_path / "bad.hdf5", arrays)
    with pytest.raises(ValueError, match=rf"^bad: .*{sentence}"):
        load_dataset(path)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_group_in_place_of_an_array_is_refused(tmp_path):
    path = write(tmp_path / "bad.hdf5", without(record(at(9, 8), at(9)), "timeouts"))
    with h5py.File(path, "a") as file:
        file["timeouts/x"] = 1
    with pytest.raises(ValueError, match=r"^bad: timeouts: this array is missing"):
        load_dataset(path)


def test_a_cut_file_and_other_files_are_refused(tmp_path):
    path = write(tmp_path / "hopper_medium-v2.hdf5", record(at(2000, 1999), at(2000)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="is not a readable HDF5 file"):
        load_dataset(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="is not a readable HDF5 file"):
        load_dataset(path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"expected a D4RL file \(\.hdf5, \.h5\) or a pickle"):
        load_dataset(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"observation_keys: .* has observations without keys"):
        load_dataset(path, observation_keys=["observation"])
