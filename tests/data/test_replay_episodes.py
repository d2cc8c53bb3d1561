"""Episodes that the replay buffer keeps: their memory and order, its saved state, what it refuses."""

import numpy as np
import pytest
import torch
from replay_buffers import DIMS, assert_same_bits, buffer_of, generator, random_episodes

from dtag_fast.data import Episode, ReplayBuffer, TrajectoryStore, top_episodes
from dtag_fast.training.files import read_tensors, write_tensors
from dtag_fast.training.state_tree import pack, unpack


def test_memory_stays_that_of_the_episodes_over_thousands_of_adds():
    lengths = np.random.default_rng(0).integers(1, 50, 5000)
    buffer = buffer_of([], 20, following=True)
    sizes = set()
    for number, episode in enumerate(random_episodes(lengths), 1):
        buffer.add(episode)
        sizes.add(len(buffer._steps.tensor))
        if number == 500:
            early = len(buffer._places.tensor)
    most = max(np.convolve(lengths + 1, np.ones(21, int)))  # rows of 21 episodes in a row
    assert max(sizes) <= 2 * most + 2
    assert len(sizes) < 20
    assert early == len(buffer._places.tensor) == len(buffer._ends.tensor) <= 2 * 21 + 2
    assert len(buffer.state_dict()["episodes"]["actions"]) == buffer.num_steps


STATE_CASES = {
    # capacity, episodes of the dataset, added before saving, whether the dataset is marked
    "no limit": (None, 5, 4, True),
    "nothing added": (6, 5, 0, True),
    "nothing gone": (12, 5, 4, True),
    "some of the dataset gone": (7, 6, 4, True),
    "all of the dataset gone": (5, 4, 5, True),
    "added ones gone too": (4, 6, 11, True),
    "dataset larger than the buffer": (4, 9, 2, True),
    "no dataset": (4, 0, 3, True),
    "not marked": (5, 3, 6, False),
}


@pytest.mark.parametrize("case", STATE_CASES.values(), ids=STATE_CASES)
@pytest.mark.parametrize("following", [False, True])
def test_a_saved_buffer_goes_on_as_if_nothing_had_happened(tmp_path, case, following):
    capacity, offline, online, marked = case
    lengths = np.random.default_rng(3).integers(1, 12, 40)
    episodes = list(random_episodes(lengths))

    def filled():
        buffer = buffer_of([], capacity, following=following)
        if marked:
            buffer.add_all(episodes[:offline])
            buffer.mark_offline()
        return buffer

    saved = filled()
    saved.add_all(episodes[0 if not marked else offline : offline + online])
    tensors, tree = pack({"buffer": saved.state_dict()})
    write_tensors(tmp_path / "state.safetensors", tensors)
    there = min(online, capacity or online) if marked else saved.num_episodes
    rest = lengths[offline + online - there : offline + online].sum()
    assert len(tensors["buffer.episodes.actions"]) == rest  # nothing of the dataset
    loaded = filled()
    loaded.load_state_dict(unpack(read_tensors(tmp_path / "state.safetensors"), tree)["buffer"])
    for number in range(20):
        for name in ("added", "num_episodes", "num_steps"):
            assert getattr(saved, name) == getattr(loaded, name)
        np.testing.assert_array_equal(saved.episode_returns, loaded.episode_returns)
        if saved.num_episodes:
            assert_same_bits(saved.sample(generator(number)), loaded.sample(generator(number)))
        assert_same_bits(saved.state_dict()["episodes"], loaded.state_dict()["episodes"])
        for buffer in (saved, loaded):
            buffer.add(episodes[20 + number])


def test_a_state_holds_the_episodes_as_they_were_given():
    episodes = list(random_episodes((3, 1, 4)))
    buffer = buffer_of(episodes[:1], following=True, state_mean=np.ones(3), reward_scale=5.0)
    buffer.mark_offline()
    buffer.add_all(episodes[1:])
    state = buffer.state_dict()
    store = TrajectoryStore.from_episodes(episodes[1:])
    assert (state["added"], state["offline_episodes"], state["offline_steps"]) == (3, 1, 3)
    for name, tensor in state["episodes"].items():
        np.testing.assert_array_equal(tensor, getattr(store, name))
        assert tensor.numpy().dtype == getattr(store, name).dtype


def test_arrays_that_may_change_are_copied_and_others_are_not():
    (episode,) = random_episodes((4,))
    store = TrajectoryStore.from_episodes([episode])
    buffer = buffer_of([episode, store.episode(0)])
    before = buffer.state_dict()["episodes"]
    kept = [kept.episode.observations for kept in buffer._kept]
    assert not np.shares_memory(kept[0], episode.observations)
    assert np.shares_memory(kept[1], store.observations)
    for array in episode:
        array[...] = 0
    assert_same_bits(before, buffer.state_dict()["episodes"])


def changed(**changes):
    return lambda state: state | changes


def without_a_row(key):
    return lambda state: with_array(state, key, state["episodes"][key][1:])


def with_offsets(*offsets):
    return lambda state: with_array(state, "offsets", torch.tensor(offsets))


def with_array(state, key, array):
    return state | {"episodes": state["episodes"] | {key: array}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed(capacity=9), "expected a state with capacity = 8, got 9; make the buffer with the same"),
        (changed(offline_episodes=3), "expected a state with offline_episodes = 2, got 3; .* same dataset"),
        (changed(offline_steps=5), "expected a state with offline_steps = 6, got 5"),
        (lambda state: {"log_std": 0.0}, "expected a state with capacity = 8, got nothing"),
        (changed(added=7), "expected a state with 5 of 5 episodes added to the dataset's, got 2"),
        (without_a_row("actions"), "2 episodes of 9 steps have the rows .*; the file is damaged"),
        (without_a_row("observations"), r"'observations': 12, .*got \{'observations': 11"),
        (without_a_row("offsets"), "1 episodes of 10 steps have the rows"),
        (lambda state: state | {"episodes": {}}, "expected the tensors observations, .*, offsets, got $"),
        (lambda state: with_array(state, "offsets", torch.zeros(0)), "offsets that rise from 0 to 10"),
        (with_offsets(1, 2, 10), "offsets that rise from 0 to 10"),
        (with_offsets(0, 1, 9), "offsets that rise from 0 to 10"),
        (with_offsets(0, 11, 10), "offsets that rise from 0 to 10"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(change, sentence):
    episodes = list(random_episodes((1, 5, 1, 9)))
    buffers = [buffer_of(episodes[:2], 8) for _ in range(2)]
    for buffer in buffers:
        buffer.mark_offline()
    saved, loaded = buffers
    saved.add_all(episodes[2:])
    with pytest.raises(ValueError, match=f"^replay buffer: .*{sentence}"):
        loaded.load_state_dict(change(saved.state_dict()))
    assert (loaded.added, loaded.num_steps) == (2, 6)
    loaded.load_state_dict(saved.state_dict())
    assert_same_bits(loaded.sample(generator()), saved.sample(generator()))


def test_a_damaged_number_in_a_state_is_refused():
    saved, loaded = buffer_of(random_episodes((3, 4))), buffer_of([])
    state = saved.state_dict()
    state["episodes"]["rewards"][4] = float("nan")
    with pytest.raises(ValueError, match="replay buffer: its state: episode 1: rewards: row 1 holds NaN"):
        loaded.load_state_dict(state)
    assert loaded.num_episodes == loaded.added == 0


def test_a_state_is_not_loaded_over_other_episodes():
    saved, loaded = (buffer_of(random_episodes((3,))) for _ in range(2))
    with pytest.raises(ValueError, match="the 0 episodes of the dataset alone, got 1 more; load it before"):
        loaded.load_state_dict(saved.state_dict())
    assert loaded.num_episodes == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"observations": np.zeros((5, 4))}, "observations: expected 3 columns"),
        ({"observations": np.zeros((4, 3))}, "observations: expected 5 rows"),
        ({"actions": np.zeros((4, 1))}, "actions: expected 2 columns"),
        ({"rewards": np.array([0.0, 1.0, np.inf, 2.0])}, "rewards: row 2 holds NaN, infinity"),
        ({"terminations": np.full(4, 2)}, "terminations: expected true or false"),
    ],
)
def test_a_bad_episode_is_refused_by_name_and_nothing_changes(changes, sentence):
    episodes = list(random_episodes((2, 3)))
    buffer = buffer_of(episodes, 2)
    before = buffer.sample(generator())
    (bad,) = random_episodes((4,))
    with pytest.raises(ValueError, match=f"^replay buffer: episode 2: {sentence}"):
        buffer.add(bad._replace(**changes))
    assert (buffer.added, buffer.num_episodes, buffer.num_steps) == (2, 2, 5)
    assert_same_bits(buffer.sample(generator()), before)


def test_an_episode_whose_timesteps_float32_does_not_count_is_refused():
    steps = 1 << 24
    flags = np.zeros(steps, bool)
    endless = Episode(
        np.zeros((steps + 1, 1), np.float32), np.zeros((steps, 1), np.float32), flags, flags, flags
    )
    buffer = ReplayBuffer(None, 2, 1, state_dim=1, action_dim=1)
    with pytest.raises(
        ValueError, match="episode 0: expected episodes below 16777216 steps, got one of 16777216"
    ):
        buffer.add(endless)
    assert buffer.num_episodes == 0


@pytest.mark.parametrize("weighting", ["length", "uniform"])
def test_nothing_is_drawn_from_an_empty_buffer(weighting):
    buffer = buffer_of([], weighting=weighting)
    assert (buffer.num_episodes, buffer.num_steps, buffer.episode_returns.tolist()) == (0, 0, [])
    with pytest.raises(ValueError, match="there is no episode to draw from; add one first"):
        buffer.sample(generator())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"capacity": 0}, "capacity: expected an integer above 0, got 0"),
        ({"capacity": 2.0}, "capacity: expected an integer above 0, got 2.0"),
        ({"state_dim": 0}, "state_dim: expected an integer above 0, got 0"),
        ({"action_dim": -1}, "action_dim: expected an integer above 0, got -1"),
        ({"padding": "both"}, "padding: expected 'right' or 'left', got 'both'"),
        ({"weighting": "return"}, "weighting: expected 'uniform' or 'length', got 'return'"),
        ({"start": "end"}, "start: expected 'inside' or 'anywhere', got 'end'"),
        ({"context_len": 0}, "context_len: expected an integer above 0, got 0"),
        ({"batch_size": 0}, "batch_size: expected an integer above 0, got 0"),
        ({"return_scale": -1.0}, "return_scale: expected a number above 0, got -1.0"),
        ({"state_mean": np.zeros(4)}, r"state_mean: expected \(3,\) to match the states, got \(4,\)"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ReplayBuffer(**{"capacity": 3, "context_len": 2, "batch_size": 2, **DIMS, **options})


def store_of_returns(*returns):
    """One step each."""
    flag = np.ones(1, bool)
    return TrajectoryStore.from_episodes(
        [Episode(np.zeros((2, 3)), np.zeros((1, 2)), np.array([r]), flag, ~flag) for r in returns]
    )


def test_top_episodes_are_in_the_order_in_which_they_go():
    store = store_of_returns(5.0, -1.0, 7.0, 5.0, 0.0)
    assert top_episodes(store, 2).tolist() == [3, 2]
    assert top_episodes(store, 3).tolist() == [0, 3, 2]
    assert top_episodes(store, 99).tolist() == top_episodes(store, None).tolist() == [1, 4, 0, 3, 2]
    buffer = buffer_of((store.episode(int(index)) for index in top_episodes(store, 3)), 3)
    for expected in ([5.0, 7.0, -9.0], [7.0, -9.0, -8.0], [-9.0, -8.0, -7.0]):
        buffer.add(store_of_returns(expected[-1]).episode(0))
        assert buffer.episode_returns.tolist() == expected
    with pytest.raises(ValueError, match="count: expected an integer above 0, got 0"):
        top_episodes(store, 0)
