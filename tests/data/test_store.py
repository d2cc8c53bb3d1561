"""The flat store: rows, alignment, statistics, saving."""

import json

import numpy as np
import pytest

from dtag_fast.data import Episode, TrajectoryStore

LENGTHS = (5, 1, 8, 3, 1)


def test_every_episode_comes_back_as_it_went_in(make_episodes):
    episodes = make_episodes(LENGTHS)
    store = TrajectoryStore.from_episodes(episodes)
    assert store.num_episodes == len(LENGTHS)
    assert store.num_steps == sum(LENGTHS)
    assert (store.state_dim, store.action_dim) == (3, 2)
    assert store.episode_lengths.tolist() == list(LENGTHS)
    for index, episode in enumerate(episodes):
        for stored, given in zip(store.episode(index), episode, strict=True):
            np.testing.assert_array_equal(stored, given)
    np.testing.assert_array_equal(store.episode(-1).actions, episodes[-1].actions)
    with pytest.raises(IndexError, match="below 5, got 5"):
        store.episode(len(LENGTHS))


def test_state_rows_point_to_the_observation_before_each_step(make_episodes):
    episodes = make_episodes(LENGTHS)
    store = TrajectoryStore.from_episodes(episodes)
    before = np.concatenate([episode.observations[:-1] for episode in episodes])
    after = np.concatenate([episode.observations[1:] for episode in episodes])
    np.testing.assert_array_equal(store.observations[store.state_rows], before)
    np.testing.assert_array_equal(store.observations[store.state_rows + 1], after)


def test_returns_and_statistics_leave_out_the_last_observation(make_episodes):
    episodes = make_episodes(LENGTHS)
    store = TrajectoryStore.from_episodes(episodes)
    expected = [episode.rewards.astype(np.float64).sum() for episode in episodes]
    np.testing.assert_allclose(store.episode_returns, expected, rtol=1e-12)
    states = np.concatenate([episode.observations[:-1] for episode in episodes]).astype(np.float64)
    mean, std = store.state_statistics()
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, states.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, states.std(axis=0) + 1e-6, rtol=1e-6)


def test_statistics_of_large_nearly_constant_states_do_not_cancel():
    states = np.full((1001, 1), 10_000.0, dtype=np.float32)
    states[::2] += 0.0625  # exact in float32 at this size
    flags = np.zeros(1000, dtype=bool)
    store = TrajectoryStore.from_episodes([Episode(states, np.zeros((1000, 1)), flags * 0.0, flags, flags)])
    mean, std = store.state_statistics()
    assert mean[0] == np.float32(10_000.03125)
    assert std[0] == pytest.approx(0.03125 + 1e-6, rel=1e-6)


def test_arrays_are_read_only(make_store):
    store = make_store(LENGTHS)
    for name in ("observations", "actions", "rewards", "terminations", "truncations", "offsets"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(store, name)[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        store.episode(0).actions[0] = 0


def test_saved_store_opens_memory_mapped_and_equal(make_store, tmp_path):
    store = make_store(LENGTHS)
    store.metadata.update(env_id="Hopper-v4", action_low=[-np.inf, -1.0])
    store.save(tmp_path / "store")
    opened = TrajectoryStore.open(tmp_path / "store")
    assert isinstance(opened.observations, np.memmap)
    assert opened.metadata == store.metadata
    for name in ("observations", "actions", "rewards", "terminations", "truncations", "offsets"):
        np.testing.assert_array_equal(getattr(opened, name), getattr(store, name))
        assert getattr(opened, name).dtype == getattr(store, name).dtype
    with pytest.raises(ValueError, match="is not empty"):
        store.save(tmp_path / "store")


def test_opening_refuses_other_versions_and_damage(make_store, tmp_path):
    folder = tmp_path / "store"
    with pytest.raises(FileNotFoundError):
        TrajectoryStore.open(folder)
    make_store(LENGTHS).save(folder)
    np.save(folder / "rewards.npy", np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match=r"rewards\.npy: expected float32 \[18\], got float32 \[3\]"):
        TrajectoryStore.open(folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format_version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        TrajectoryStore.open(folder)


def test_no_episodes_is_refused():
    with pytest.raises(ValueError, match="at least one episode"):
        TrajectoryStore.from_episodes([])
