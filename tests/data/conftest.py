"""Small datasets to test with, ragged episodes in memory and Minari sets written by Minari itself; a small
environment."""

import warnings

import gymnasium
import numpy as np
import pytest
from plain_env import Plain

from dtag_fast.data import Episode, TrajectoryStore


@pytest.fixture
def minari_home(tmp_path, monkeypatch):
    """An empty Minari root and an empty cache; gives the root."""
    root = tmp_path / "minari"
    root.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    return root


def make_episodes(lengths, state_dim=3, action_dim=2, seed=0):
    """Random episodes of the given lengths; odd ones terminate, even ones are cut."""
    rng = np.random.default_rng(seed)
    episodes = []
    for index, steps in enumerate(lengths):
        end = np.arange(steps) == steps - 1
        episodes.append(
            Episode(
                rng.standard_normal((steps + 1, state_dim), dtype=np.float32),
                rng.uniform(-1, 1, (steps, action_dim)).astype(np.float32),
                rng.standard_normal(steps).astype(np.float32),
                end & (index % 2 == 1),
                end & (index % 2 == 0),
            )
        )
    return episodes


@pytest.fixture(name="make_episodes")
def _make_episodes():
    return make_episodes


@pytest.fixture
def make_store():
    """make_store(lengths, **dims) -> TrajectoryStore of random episodes."""
    return lambda lengths, **dims: TrajectoryStore.from_episodes(make_episodes(lengths, **dims))


@pytest.fixture
def write_minari(minari_home):
    """write_minari(id, episodes, ...) writes a set with Minari; episodes as Episode or EpisodeBuffer."""
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    def write(dataset_id, episodes, *, observation_space=None, action_space=None, **options):
        buffers = [
            episode
            if isinstance(episode, EpisodeBuffer)
            else EpisodeBuffer(
                observations=episode.observations,
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=episode.terminations,
                truncations=episode.truncations,
            )
            for episode in episodes
        ]
        if observation_space is None and "env" not in options:
            width = buffers[0].observations.shape[1]
            observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), buffers[0].observations.dtype)
        if action_space is None and "env" not in options:
            action_space = gymnasium.spaces.Box(-1, 1, (buffers[0].actions.shape[1],), np.float32)
        with warnings.catch_warnings():  # about descriptive fields that a test set does not need
            warnings.simplefilter("ignore", UserWarning)
            return create_dataset_from_buffers(
                dataset_id,
                buffers,
                observation_space=observation_space,
                action_space=action_space,
                **options,
            )

    return write


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
