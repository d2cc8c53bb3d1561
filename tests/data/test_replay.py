"""Batches of the replay buffer against WindowSampler over a list of its episodes, and against definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_buffers import CONTEXT, LENGTHS, assert_same_bits, buffer_of, generator, random_episodes
from torch.utils._pytree import tree_map

from dtag_fast.data import Episode, ReplayBuffer, TrajectoryStore, TransitionWindows, Windows, WindowSampler


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
