"""Windows with rewards: the plain sampler's windows, and what followed each step."""

import numpy as np
import pytest
import torch

from dtag_fast.data import RewardWindowSampler, TrajectoryStore, WindowSampler

LENGTHS = (1, 5, 1, 9, 3, 2)
CONTEXT = 4


@pytest.mark.parametrize("padding", ["right", "left"])
def test_every_window_has_the_rewards_and_terminations_of_its_steps(make_episodes, padding):
    episodes = make_episodes(LENGTHS)  # odd ones terminate, even ones are cut
    sampler = RewardWindowSampler(
        TrajectoryStore.from_episodes(episodes),
        CONTEXT,
        1,
        padding=padding,
        return_scale=10.0,
        reward_scale=2.0,
        reward_shift=-0.5,
    )
    pairs = [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)]
    batch = sampler.windows(*(torch.tensor(column) for column in zip(*pairs, strict=True)))
    for row, (e, t) in enumerate(pairs):
        rewards, ends = np.zeros(CONTEXT), np.zeros(CONTEXT)
        steps = range(t, min(t + CONTEXT, LENGTHS[e]))
        for place, step in enumerate(steps, CONTEXT - len(steps) if padding == "left" else 0):
            rewards[place] = 2.0 * episodes[e].rewards[step] - 0.5
            ends[place] = e % 2 == 1 and step == LENGTHS[e] - 1
        np.testing.assert_allclose(batch.rewards[row], rewards, rtol=1e-6)
        np.testing.assert_array_equal(batch.terminations[row], ends)
        assert batch.windows.mask[row].sum() == len(steps)


@pytest.mark.parametrize("options", [{}, {"padding": "left", "weighting": "length", "start": "anywhere"}])
def test_it_draws_the_windows_of_the_plain_sampler(make_episodes, options):
    store = TrajectoryStore.from_episodes(make_episodes(LENGTHS))
    plain, ours = (
        kind(store, CONTEXT, 16, reward_scale=3.0, reward_shift=1.0, **options).sample(
            torch.Generator().manual_seed(0)
        )
        for kind in (WindowSampler, RewardWindowSampler)
    )
    assert all(torch.equal(*pair) for pair in zip(plain, ours.windows, strict=True))
    assert ours.rewards.dtype == ours.terminations.dtype == torch.float32
    assert ours.rewards.shape == ours.terminations.shape == (16, CONTEXT)
