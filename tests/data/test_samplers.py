"""Windows and transitions against a slow oracle that walks every episode in plain Python."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from dtag_fast.data import Episode, TrajectoryStore, TransitionSampler, WindowSampler, transitions
from dtag_fast.data.returns import returns_to_go

# Shorter than, equal to and longer than the contexts tested; single steps at both ends and side by side.
LENGTHS = (1, 5, 1, 1, 9, 4, 3, 30, 2, 6, 1)
CONTEXTS = (1, 2, 5, 6, 40)


def oracle_window(
    episode, start, context_len, padding, *, scale, discount, reward_scale, reward_shift, mean, std
):
    """One window, step by step: the definition."""
    state_dim, action_dim = episode.observations.shape[1], episode.actions.shape[1]
    states = np.zeros((context_len, state_dim))
    actions = np.zeros((context_len, action_dim))
    rtg = np.zeros((context_len, 1))
    timesteps = np.zeros(context_len, dtype=int)
    mask = np.zeros(context_len, dtype=bool)
    steps = list(range(start, min(start + context_len, len(episode.actions))))
    places = range(context_len - len(steps), context_len) if padding == "left" else range(len(steps))
    for place, t in zip(places, steps, strict=True):
        states[place] = (episode.observations[t] - mean) / std
        actions[place] = episode.actions[t]
        future = [float(r) * reward_scale + reward_shift for r in episode.rewards[t:]]
        rtg[place] = sum(discount**j * r for j, r in enumerate(future)) / scale
        timesteps[place], mask[place] = t, True
    return states, actions, rtg, timesteps, mask


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("context_len", CONTEXTS)
def test_every_window_of_every_episode_equals_the_oracle(make_episodes, context_len, padding):
    episodes = make_episodes(LENGTHS)
    store = TrajectoryStore.from_episodes(episodes)
    mean, std = store.state_statistics()
    options = {"discount": 0.9, "reward_scale": 2.0, "reward_shift": -0.5}
    sampler = WindowSampler(
        store, context_len, 1, padding=padding, return_scale=10.0, state_mean=mean, state_std=std, **options
    )
    pairs = [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)]
    index, start = (torch.tensor(column) for column in zip(*pairs, strict=True))
    batch = sampler.windows(index, start)
    for row, (e, t) in enumerate(pairs):
        states, actions, rtg, timesteps, mask = oracle_window(
            episodes[e], t, context_len, padding, scale=10.0, mean=mean, std=std, **options
        )
        np.testing.assert_allclose(batch.states[row], states, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(batch.actions[row], actions.astype(np.float32))
        np.testing.assert_allclose(batch.returns_to_go[row], rtg, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(batch.timesteps[row], timesteps)
        np.testing.assert_array_equal(batch.mask[row], mask)
        assert not batch.states[row][~batch.mask[row]].any()  # padding is zero after standardising too


def chi_square_quantile(freedom):
    """The 99.99 % quantile (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.719 * np.sqrt(spread)) ** 3


@pytest.mark.parametrize("start", ["inside", "anywhere"])
@pytest.mark.parametrize("weighting", ["uniform", "length"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("context_len", [1, 4])
def test_windows_are_drawn_with_the_stated_probabilities(context_len, padding, weighting, start):
    """Chi-square test over all (episode, start) pairs."""
    lengths = (1, 5, 9, 3)
    # Actions carry (episode, t), so that a drawn window says where it came from.
    episodes = [
        Episode(
            np.zeros((n + 1, 1)),
            np.stack([np.full(n, e), np.arange(n)], axis=1),
            np.zeros(n),
            np.zeros(n, bool),
            np.zeros(n, bool),
        )
        for e, n in enumerate(lengths)
    ]
    store = TrajectoryStore.from_episodes(episodes)
    draws = 40_000
    sampler = WindowSampler(store, context_len, draws, padding=padding, weighting=weighting, start=start)
    batch = sampler.sample(torch.Generator().manual_seed(1))
    first = batch.mask.int().argmax(dim=1)  # (B,) place of the first real step
    origin = batch.actions[torch.arange(draws), first].long().numpy()  # (B, 2)

    expected = {}
    for e, n in enumerate(lengths):
        starts = range(max(n - context_len, 0) + 1) if start == "inside" else range(n)
        weight = n / sum(lengths) if weighting == "length" else 1 / len(lengths)
        expected.update({(e, t): draws * weight / len(starts) for t in starts})
    pairs, counts = np.unique(origin, axis=0, return_counts=True)
    counted = {tuple(pair): count for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)}
    assert set(counted) == set(expected)
    chi_square = sum((counted[pair] - mean) ** 2 / mean for pair, mean in expected.items())
    assert chi_square < chi_square_quantile(len(expected) - 1)


def test_same_generator_state_gives_the_same_batch_and_resumes(make_store):
    store = make_store(LENGTHS)
    sampler = WindowSampler(store, 5, 16, padding="left", weighting="length", start="anywhere")
    generator = torch.Generator().manual_seed(7)
    sampler.sample(generator)
    state = generator.get_state()
    second = sampler.sample(generator)
    again = WindowSampler(store, 5, 16, padding="left", weighting="length", start="anywhere")
    repeated = again.sample(torch.Generator().manual_seed(0).set_state(state))
    for one, two in zip(second, repeated, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(second.states, sampler.sample(generator).states)


def test_batch_shapes_and_types(make_store):
    batch = WindowSampler(make_store(LENGTHS), 5, 7).sample(torch.Generator().manual_seed(0))
    assert batch.states.shape == (7, 5, 3)
    assert batch.actions.shape == (7, 5, 2)
    assert batch.returns_to_go.shape == (7, 5, 1)
    assert batch.timesteps.shape == batch.mask.shape == (7, 5)
    assert [tensor.dtype for tensor in batch] == [torch.float32] * 3 + [torch.int64, torch.bool]
    assert batch.states.view(35, -1).shape == (35, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"padding": "both"}, "padding: expected 'right' or 'left', got 'both'"),
        ({"weighting": "return"}, "weighting: expected 'uniform' or 'length'"),
        ({"start": "end"}, "start: expected 'inside' or 'anywhere'"),
        ({"context_len": 0}, "context_len: expected an integer above 0, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected an integer above 0, got 2.5"),
        ({"return_scale": 0.0}, "return_scale: expected a number above 0"),
        ({"discount": 1.5}, r"discount: expected a number in \[0, 1\]"),
        ({"state_mean": np.zeros(4)}, r"state_mean: expected \(3,\) to match the states, got \(4,\)"),
        ({"state_std": np.ones((1, 3))}, r"state_std: expected \(3,\)"),
    ],
)
def test_bad_options_are_refused(make_store, options, sentence):
    options = {"context_len": 5, "batch_size": 2, **options}
    with pytest.raises(ValueError, match=sentence):
        WindowSampler(make_store(LENGTHS), **options)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 1.0])
def test_returns_to_go_follow_the_definition(discount):
    rng = np.random.default_rng(0)
    lengths = (1, 2, 3, 4, 5, 8, 17, 64, 65, 1)
    rewards = rng.standard_normal(sum(lengths))
    offsets = np.cumsum([0, *lengths])
    expected = [
        sum(discount**j * reward for j, reward in enumerate(rewards[t:last]))
        for first, last in pairwise(offsets)
        for t in range(first, last)
    ]
    np.testing.assert_allclose(returns_to_go(rewards, offsets, discount), expected, rtol=1e-12, atol=1e-12)


def test_first_return_to_go_is_the_episode_return(make_store):
    store = make_store(LENGTHS)
    rtg = returns_to_go(store.rewards, store.offsets)
    np.testing.assert_allclose(rtg[store.offsets[:-1]], store.episode_returns, rtol=1e-12, atol=1e-12)


def test_transitions_keep_the_true_next_state_of_cut_and_terminated_episodes(make_episodes):
    episodes = make_episodes(LENGTHS)
    store = TrajectoryStore.from_episodes(episodes)
    all_ = transitions(store, reward_scale=3.0, reward_shift=1.0)
    row = 0
    for episode in episodes:
        for t in range(len(episode.actions)):
            np.testing.assert_array_equal(all_.states[row], episode.observations[t])
            np.testing.assert_array_equal(all_.actions[row], episode.actions[t])
            np.testing.assert_array_equal(all_.next_states[row], episode.observations[t + 1])
            assert all_.rewards[row, 0] == pytest.approx(3.0 * float(episode.rewards[t]) + 1.0, rel=1e-6)
            assert bool(all_.terminations[row, 0]) == episode.terminations[t]  # a time-out is none
            row += 1
    assert [tensor.dtype for tensor in all_] == [torch.float32] * 6
    assert all_.rewards.shape == all_.terminations.shape == all_.discounts.shape == (row, 1)
    assert (all_.discounts == 1).all()


def literal_n_step(episode, t, n_step, discount, scale, shift):
    """(return, next state, terminated, discount^k) of one step, one reward at a time."""
    total, factor = 0.0, 1.0
    for j in range(t, min(t + n_step, len(episode.actions))):
        total += factor * (float(episode.rewards[j]) * scale + shift)
        factor *= discount
        if episode.terminations[j] or episode.truncations[j]:
            break
    return total, episode.observations[j + 1], episode.terminations[j], factor


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("n_step", [1, 2, 3, 5, 100])
def test_n_step_transitions_equal_a_literal_loop(make_episodes, n_step, discount):
    """Even episodes are cut and keep their bootstrap state, odd ones terminate; none looks into the next."""
    episodes = make_episodes(LENGTHS)
    episodes[6].truncations[-1] = False  # the data just ends here, as at the end of a recording
    episodes[7].terminations[11] = True  # a flag in the middle ends the sum too
    store = TrajectoryStore.from_episodes(episodes)
    options = {"reward_scale": 2.0, "reward_shift": -0.5}
    table = transitions(store, n_step=n_step, discount=discount, **options)
    steps = [(episode, t) for episode in episodes for t in range(len(episode.actions))]
    for row, (episode, t) in enumerate(steps):
        total, state, terminated, factor = literal_n_step(episode, t, n_step, discount, 2.0, -0.5)
        assert table.rewards[row, 0].item() == pytest.approx(total, rel=1e-5, abs=1e-6)
        np.testing.assert_array_equal(table.next_states[row], state)
        assert bool(table.terminations[row, 0]) == terminated
        assert table.discounts[row, 0].item() == pytest.approx(factor, rel=1e-6)
        np.testing.assert_array_equal(table.states[row], episode.observations[t])
    assert len(table.states) == len(steps)


def test_three_step_returns_of_one_episode_by_hand():
    """Rewards 1, 2, 4, 8, discount 1/2, cut after the fourth step."""
    over = np.array([False, False, False, True])
    episode = Episode(
        np.arange(5.0)[:, None], np.zeros((4, 1)), np.array([1.0, 2, 4, 8]), np.zeros(4, bool), over
    )
    table = transitions(TrajectoryStore.from_episodes([episode]), n_step=3, discount=0.5)
    assert table.rewards[:, 0].tolist() == [3.0, 6.0, 8.0, 8.0]
    assert table.next_states[:, 0].tolist() == [3.0, 4.0, 4.0, 4.0]
    assert table.discounts[:, 0].tolist() == [0.125, 0.125, 0.25, 0.5]
    assert not table.terminations.any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_step": 0}, "n_step: expected an integer above 0, got 0"),
        ({"n_step": 1.5}, "n_step: expected an integer above 0, got 1.5"),
        ({"discount": -0.1}, r"discount: expected a number in \[0, 1\], got -0.1"),
    ],
)
def test_bad_n_step_options_are_refused(make_store, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        transitions(make_store(LENGTHS), **options)


def test_transition_sampler_draws_whole_rows_uniformly(make_store):
    all_ = transitions(make_store((3, 1, 6)))
    batch = TransitionSampler(all_, 20_000).sample(torch.Generator().manual_seed(0))
    found = (batch.states[:, None] == all_.states[None]).all(dim=-1).int().argmax(dim=1)  # (B,) source rows
    for drawn, whole in zip(batch, all_, strict=True):
        assert torch.equal(drawn, whole[found])
    counts = torch.bincount(found, minlength=10).double()
    assert ((counts - 2000) ** 2 / 2000).sum() < chi_square_quantile(9)
