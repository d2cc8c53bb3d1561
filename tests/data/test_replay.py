"""The replay buffer against WindowSampler over a list of its episodes, and against definitions by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves, tree_map

from dtag_fast.data import (
    Episode,
    ReplayBuffer,
    TrajectoryStore,
    TransitionWindows,
    Windows,
    WindowSampler,
    top_episodes,
)
from dtag_fast.training.files import read_tensors, write_tensors
from dtag_fast.training.state_tree import pack, unpack

LENGTHS = (1, 5, 1, 9, 3, 30, 2)
CONTEXT = 4
DIMS = {"state_dim": 3, "action_dim": 2}
DEFAULTS = {"padding": "left", "weighting": "length", "start": "anywhere"}


def random_episodes(lengths, seed=0):
    """Random episodes; odd ones terminate, even ones are cut. Some rewards are zeros of either sign."""
    rng = np.random.default_rng(seed)
    for index, steps in enumerate(lengths):
        end = np.arange(steps) == steps - 1
        rewards = rng.standard_normal(steps) * rng.integers(-1, 2, steps)
        yield Episode(
            rng.standard_normal((steps + 1, 3), dtype=np.float32),
            rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            rewards.astype(np.float32),
            end & (index % 2 == 1),
            end & (index % 2 == 0),
        )


def buffer_of(episodes, capacity=None, batch_size=32, **options):
    buffer = ReplayBuffer(capacity, CONTEXT, batch_size, **DIMS | options)
    buffer.add_all(episodes)
    return buffer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_same_bits(one, other):
    for x, y in zip(tree_leaves(one), tree_leaves(other), strict=True):
        assert x.dtype == y.dtype
        if x.dtype == torch.float32:
            x, y = x.contiguous().view(torch.int32), y.contiguous().view(torch.int32)
        assert torch.equal(x, y)


def every_step(lengths):
    """All (episode, start) pairs as two tensors."""
    pairs = [(e, t) for e, length in enumerate(lengths) for t in range(length)]
    return tuple(torch.tensor(column) for column in zip(*pairs, strict=True))


OPTIONS = st.fixed_dictionaries(
    {
        "padding": st.sampled_from(["left", "right"]),
        "weighting": st.sampled_from(["length", "uniform"]),
        "start": st.sampled_from(["anywhere", "inside"]),
        "return_scale": st.sampled_from([1.0, 1000.0]),
        "reward_scale": st.sampled_from([1.0, -0.1]),
        "reward_shift": st.sampled_from([0.0, -1.0]),
        "state_mean": st.sampled_from([None, np.array([1.0, -2.0, 0.5])]),
        "state_std": st.sampled_from([None, np.array([0.3, 7.0, 1e-6])]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=25),
    capacity=st.one_of(st.none(), st.integers(1, 6)),
    following=st.booleans(),
    options=OPTIONS,
)
def test_after_every_add_it_draws_what_a_sampler_over_its_episodes_draws(
    lengths, capacity, following, options
):
    buffer = buffer_of([], capacity, following=following, **options)
    model = []
    for number, episode in enumerate(random_episodes(lengths), 1):
        buffer.add(episode)
        model = [*model, episode][-(capacity or number) :]
        store = TrajectoryStore.from_episodes(model)
        assert (buffer.added, buffer.num_episodes, buffer.num_steps) == (number, len(model), store.num_steps)
        assert buffer.episode_returns.dtype == np.float64
        np.testing.assert_array_equal(buffer.episode_returns, store.episode_returns)
        sampler = WindowSampler(store, CONTEXT, 32, **options)
        ours, theirs = generator(number), generator(number)
        batch = buffer.sample(ours)
        assert_same_bits(batch.windows if following else batch, sampler.sample(theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_returns_of_long_episodes_are_rounded_as_those_of_a_store():
    """Of rewards from 1e-6 to 1e6, so that the order of the sum shows."""
    size = 10 ** np.random.default_rng(1).uniform(-6, 6, 1000)
    episodes = [each._replace(rewards=each.rewards * size) for each in random_episodes((1000,) * 5)]
    store = TrajectoryStore.from_episodes(episodes)
    buffer = buffer_of(map(store.episode, range(5)))
    np.testing.assert_array_equal(buffer.episode_returns, store.episode_returns)


@pytest.mark.parametrize("following", [False, True])
def test_draws_do_not_depend_on_where_the_episodes_lie(following):
    """A thousand episodes have passed through one buffer, the other has only seen the last four."""
    episodes = list(random_episodes(np.random.default_rng(1).integers(1, 20, 1000)))
    long, short = (buffer_of(some, 4, following=following) for some in (episodes, episodes[-4:]))
    assert long.added == 1000
    for seed in range(20):
        assert_same_bits(long.sample(generator(seed)), short.sample(generator(seed)))


def oracle(episode, start, padding, *, scale, shift, critic_scale, mean, std, paper_timeouts):
    """Windows and following windows of one start, place by place: the definition."""
    steps = len(episode.actions)
    transformed = [float(r) * scale + shift for r in episode.rewards]
    own = list(range(start, min(start + CONTEXT, steps)))
    left = padding == "left"
    places = range(CONTEXT - len(own), CONTEXT) if left else range(len(own))
    following = {place: t + 1 for place, t in zip(places, own, strict=True)}
    if left and len(own) < CONTEXT:
        following[CONTEXT - len(own) - 1] = start
    out = []
    for filled in (dict(zip(places, own, strict=True)), following):
        states, actions, rtg = np.zeros((CONTEXT, 3)), np.zeros((CONTEXT, 2)), np.zeros((CONTEXT, 1))
        times, mask = np.zeros(CONTEXT, int), np.zeros(CONTEXT, bool)
        for place, t in filled.items():
            states[place] = (episode.observations[t] - mean) / std
            if t < steps and not (filled is following and place == CONTEXT - 1):
                actions[place] = episode.actions[t]
            rtg[place] = sum(transformed[t:]) / 50.0
            times[place], mask[place] = t, True
        out.append((states, actions, rtg, times, mask))
    rewards, ends = np.zeros(CONTEXT), np.zeros(CONTEXT)
    for place, t in zip(places, own, strict=True):
        rewards[place] = transformed[t] * critic_scale
        ends[place] = episode.terminations[t] or (paper_timeouts and t == steps - 1)
    return *out, rewards, ends


@pytest.mark.parametrize("paper_timeouts", [False, True])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_every_window_and_what_follows_it_equal_the_oracle(padding, paper_timeouts):
    """Full, short and one-step windows of episodes that terminate and of ones that are cut."""
    episodes = list(random_episodes(LENGTHS))
    mean, std = np.array([0.1, -0.2, 0.3], np.float32), np.array([2.0, 0.5, 1.0], np.float32)
    buffer = buffer_of(
        episodes,
        following=True,
        padding=padding,
        return_scale=50.0,
        reward_scale=2.0,
        reward_shift=-0.5,
        critic_reward_scale=0.25,
        paper_timeouts=paper_timeouts,
        state_mean=mean,
        state_std=std,
    )
    index, start = every_step(LENGTHS)
    batch = buffer.windows(index, start)
    assert isinstance(batch, TransitionWindows)
    assert batch.rewards.dtype == batch.terminations.dtype == torch.float32
    for row, (e, t) in enumerate(zip(index.tolist(), start.tolist(), strict=True)):
        *pair, rewards, ends = oracle(
            episodes[e],
            t,
            padding,
            scale=2.0,
            shift=-0.5,
            critic_scale=0.25,
            mean=mean,
            std=std,
            paper_timeouts=paper_timeouts,
        )
        for windows, expected in zip((batch.windows, batch.following), pair, strict=True):
            for got, name, right in zip(windows, Windows._fields, expected, strict=True):
                np.testing.assert_allclose(got[row], right, rtol=1e-5, atol=1e-6, err_msg=f"{name} {e} {t}")
            for floats in windows[:3]:
                assert not floats[row][~windows.mask[row]].any()
        np.testing.assert_allclose(batch.rewards[row], rewards, rtol=1e-6)
        np.testing.assert_array_equal(batch.terminations[row], ends)
        assert (batch.following.mask[row] | ~batch.windows.mask[row]).all()


def four_steps(**changes):
    """Observations 10, 11 .. 14, actions 1 .. 4, rewards 1, 2, 4, 8, cut after the fourth step."""
    flags = np.zeros(4, bool)
    episode = Episode(
        np.arange(10.0, 15)[:, None],
        np.arange(1.0, 5)[:, None],
        np.array([1.0, 2, 4, 8]),
        flags,
        np.arange(4) == 3,
    )
    return episode._replace(**changes)


BY_HAND = {
    # padding, start: states, actions, returns-to-go of the window; of what follows it; rewards
    ("left", 0): ([10, 11, 12], [1, 2, 3], [15, 14, 12], [11, 12, 13], [2, 3, 0], [14, 12, 8], [1, 2, 4]),
    ("left", 1): ([11, 12, 13], [2, 3, 4], [14, 12, 8], [12, 13, 14], [3, 4, 0], [12, 8, 0], [2, 4, 8]),
    ("left", 2): ([0, 12, 13], [0, 3, 4], [0, 12, 8], [12, 13, 14], [3, 4, 0], [12, 8, 0], [0, 4, 8]),
    ("left", 3): ([0, 0, 13], [0, 0, 4], [0, 0, 8], [0, 13, 14], [0, 4, 0], [0, 8, 0], [0, 0, 8]),
    ("right", 1): ([11, 12, 13], [2, 3, 4], [14, 12, 8], [12, 13, 14], [3, 4, 0], [12, 8, 0], [2, 4, 8]),
    ("right", 2): ([12, 13, 0], [3, 4, 0], [12, 8, 0], [13, 14, 0], [4, 0, 0], [8, 0, 0], [4, 8, 0]),
    ("right", 3): ([13, 0, 0], [4, 0, 0], [8, 0, 0], [14, 0, 0], [0, 0, 0], [0, 0, 0], [8, 0, 0]),
}


@pytest.mark.parametrize(("padding", "start"), BY_HAND)
@pytest.mark.parametrize("end", ["terminated", "cut", "cut, as in the papers"])
def test_windows_of_three_of_four_steps_by_hand(padding, start, end):
    """A neighbour on either side in the table must not be seen."""
    over = np.arange(4) == 3
    episode = four_steps(terminations=over, truncations=~over & over) if end == "terminated" else four_steps()
    paper = end == "cut, as in the papers"
    options = {"following": True, "padding": padding, "paper_timeouts": paper}
    buffer = ReplayBuffer(3, 3, 1, state_dim=1, action_dim=1, **options)
    neighbour = four_steps(observations=np.full((5, 1), 99.0), actions=np.full((4, 1), 99.0))
    buffer.add_all([neighbour, episode, neighbour])
    batch = buffer.windows(torch.tensor([1]), torch.tensor([start]))
    got = [tensor.flatten().tolist() for tensor in (*batch.windows[:3], *batch.following[:3], batch.rewards)]
    assert got == list(BY_HAND[padding, start])
    for windows, states in ((batch.windows, got[0]), (batch.following, got[3])):
        assert windows.mask.flatten().tolist() == [state > 0 for state in states]
        assert windows.timesteps.flatten().tolist() == [max(int(state) - 10, 0) for state in states]
    assert batch.terminations.flatten().tolist() == [float(state == 13 and end != "cut") for state in got[0]]


def test_returns_to_go_are_what_was_earned():
    """(r - 1/2) 2 of rewards 1, 2, 4, 8, divided by 10: 1, 3, 7, 15 from the end on."""
    options = {"reward_scale": 2.0, "reward_shift": -1.0, "return_scale": 10.0, "critic_reward_scale": 100.0}
    buffer = ReplayBuffer(None, 4, 1, state_dim=1, action_dim=1, following=True, **options)
    buffer.add(four_steps())
    batch = buffer.windows(torch.tensor([0]), torch.tensor([0]))
    np.testing.assert_allclose(batch.windows.returns_to_go[0, :, 0], [2.6, 2.5, 2.2, 1.5], rtol=1e-6)
    np.testing.assert_allclose(batch.following.returns_to_go[0, :, 0], [2.5, 2.2, 1.5, 0], rtol=1e-6)
    assert batch.rewards.tolist() == [[100.0, 300.0, 700.0, 1500.0]]
    assert buffer.episode_returns.tolist() == [15.0]


@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("weighting", ["length", "uniform"])
def test_processes_share_a_batch(following, weighting):
    options = {"following": following, "weighting": weighting}
    whole = buffer_of(random_episodes(LENGTHS), batch_size=12, **options).sample(generator())
    parts = []
    for rank in range(3):
        buffer = buffer_of(random_episodes(LENGTHS), batch_size=4, **options)
        buffer.share = rank, 3
        parts.append(buffer.sample(generator()))
    assert_same_bits(tree_map(lambda *tensors: torch.cat(tensors), *parts), whole)


@pytest.mark.parametrize("following", [False, True])
def test_drawn_and_gathered_is_sampled(following):
    buffer = buffer_of(random_episodes(LENGTHS), following=following, batch_size=8)
    drawn = [buffer.draw(generator(seed)) for seed in range(2)]
    joined = buffer.gather({name: torch.cat([one[name] for one in drawn]) for name in drawn[0]})
    sampled = [buffer.sample(generator(seed)) for seed in range(2)]
    assert_same_bits(joined, tree_map(lambda *tensors: torch.cat(tensors), *sampled))
    assert all((one["starts"] < torch.tensor(LENGTHS)[one["episodes"]]).all() for one in drawn)


def test_shapes_and_layout_are_those_of_the_sampler():
    batch = buffer_of(random_episodes(LENGTHS), following=True, batch_size=6).sample(generator())
    for windows in (batch.windows, batch.following):
        assert [tensor.dtype for tensor in windows] == [torch.float32] * 3 + [torch.int64, torch.bool]
        assert windows.states.view(24, -1).shape == (24, 3)
        assert windows.actions.view(24, -1).shape == (24, 2)
        assert windows.timesteps.shape == windows.mask.shape == (6, CONTEXT)
    assert batch.rewards.shape == batch.terminations.shape == (6, CONTEXT)


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
