"""Data: drawing batches, opening and converting a dataset, beside the ways that are usual."""

import shutil
import warnings

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer

from dtag_fast.data import (
    Episode,
    TrajectoryStore,
    TransitionSampler,
    WindowSampler,
    load_dataset,
    transitions,
)

from .interleave import cores, measure

STATE_DIM, ACTION_DIM = 17, 6
REFERENCE = "dtag_fast"


def episodes(number: int, steps: int) -> list[Episode]:
    """Random episodes of HalfCheetah's shape."""
    rng = np.random.default_rng(0)
    flags = np.zeros(steps, dtype=bool)
    return [
        Episode(
            rng.standard_normal((steps + 1, STATE_DIM), dtype=np.float32),
            rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32),
            rng.standard_normal(steps),
            flags,
            flags,
        )
        for _ in range(number)
    ]


def collate(data: list[Episode], batch_size: int, context_len: int, rng: np.random.Generator):
    """A batch the way much Decision Transformer code makes one: a loop over samples, concatenated padding."""
    columns = ([], [], [], [], [])
    for _ in range(batch_size):
        episode = data[rng.integers(len(data))]
        start = rng.integers(len(episode.actions))
        end = min(start + context_len, len(episode.actions))
        pad = context_len - (end - start)
        rtg = np.cumsum(episode.rewards[start:][::-1])[::-1][: end - start, None]
        values = (episode.observations[start:end], episode.actions[start:end], rtg)
        for column, value in zip(columns, values, strict=False):
            column.append(np.concatenate([np.zeros((pad, value.shape[1])), value]))
        columns[3].append(np.concatenate([np.zeros(pad), np.arange(start, end)]))
        columns[4].append(np.concatenate([np.zeros(pad), np.ones(end - start)]))
    types = (torch.float32,) * 3 + (torch.int64, torch.bool)
    return [torch.from_numpy(np.stack(c)).to(dtype=t) for c, t in zip(columns, types, strict=True)]


def test_window_sampling(benchmark):
    """64 windows of 20 steps."""
    with cores(1):
        data = episodes(200, 1000)
        store = TrajectoryStore.from_episodes(data)
        right = WindowSampler(store, 20, 64)
        left = WindowSampler(store, 20, 64, padding="left", weighting="length", start="anywhere")
        generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
        calls = {
            REFERENCE: lambda: right.sample(generator),
            "dtag_fast, left padding by length": lambda: left.sample(generator),
            "collate in Python": lambda: collate(data, 64, 20, rng),
        }
        measured = measure(calls, seconds=2.0)
        benchmark.extra_info |= {"batch": 64, "threads": 1, "reference": REFERENCE, "variants": measured}
        benchmark(calls[REFERENCE])


def test_transition_sampling(benchmark):
    """256 transitions."""
    with cores(1):
        sampler = TransitionSampler(transitions(TrajectoryStore.from_episodes(episodes(200, 1000))), 256)
        generator = torch.Generator().manual_seed(0)
        benchmark(lambda: sampler.sample(generator))


@pytest.fixture(scope="module", params=[(1000, 1000), (3000, 333)], ids=lambda p: f"{p[0]}x{p[1]}")
def million_steps(request, tmp_path_factory):
    """A Minari set of about a million steps; gives its folder of a cache and its id."""
    number, steps = request.param
    home = tmp_path_factory.mktemp("million")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.setenv("MINARI_DATASETS_PATH", str(home / "minari"))
        minari.create_dataset_from_buffers(
            "bench/million-v0",
            [EpisodeBuffer(**episode._asdict()) for episode in episodes(number, steps)],
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,)),
            action_space=gymnasium.spaces.Box(-1, 1, (ACTION_DIM,)),
        )
        yield "bench/million-v0", home


def test_conversion(benchmark, million_steps):
    """The first load of a million steps, beside Minari's iterator over the same file."""
    dataset_id, home = million_steps

    def convert():
        shutil.rmtree(home / "cache", ignore_errors=True)
        return load_dataset(dataset_id, home / "cache")

    def through_minari():
        read = list(minari.load_dataset(dataset_id).iterate_episodes())
        return [np.concatenate([getattr(episode, key) for episode in read]) for key in Episode._fields]

    with cores(1):
        calls = {
            REFERENCE: convert,
            "minari, episode by episode": through_minari,
        }
        measured = measure(calls, seconds=0.0, min_rounds=3)
        benchmark.extra_info |= {"threads": 1, "reference": REFERENCE, "variants": measured}
        benchmark.pedantic(calls[REFERENCE], rounds=3)


@pytest.fixture(scope="module")
def d4rl_file(tmp_path_factory):
    """A D4RL file of a million steps of HalfCheetah's shape, compressed as D4RL's are; gives its path."""
    path = tmp_path_factory.mktemp("d4rl") / "halfcheetah_medium-v2.hdf5"
    data = episodes(1000, 1000)
    arrays = {
        "observations": np.concatenate([episode.observations[:-1] for episode in data]),
        "next_observations": np.concatenate([episode.observations[1:] for episode in data]),
        "actions": np.concatenate([episode.actions for episode in data]),
        "rewards": np.concatenate([episode.rewards for episode in data]).astype(np.float32),
        "terminals": np.zeros(1_000_000, bool),
        "timeouts": np.arange(1_000_000) % 1000 == 999,
    }
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, compression="gzip")
    return path


def test_d4rl_conversion(benchmark, d4rl_file):
    """The first load of a D4RL file, beside reading it whole with h5py and cutting it up in Python."""
    keys = ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts")

    def convert():
        shutil.rmtree(d4rl_file.parent / "cache", ignore_errors=True)
        return load_dataset(d4rl_file, d4rl_file.parent / "cache")

    def read():
        with h5py.File(d4rl_file) as file:
            return {key: file[key][()] for key in keys}

    def row_by_row():
        """As much Decision Transformer code does."""
        arrays, trajectories, rows = read(), [], {key: [] for key in keys}
        for t in range(len(arrays["rewards"])):
            for key in keys[:5]:
                rows[key].append(arrays[key][t])
            if arrays["terminals"][t] or arrays["timeouts"][t]:
                trajectories.append({key: np.array(rows[key]) for key in keys[:5]})
                rows = {key: [] for key in keys}
        return trajectories

    def by_slices():
        arrays = read()
        ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"]) + 1
        return {key: np.split(arrays[key], ends) for key in keys[:5]}

    with cores(1):
        calls = {
            REFERENCE: convert,
            "h5py, row by row": row_by_row,
            "h5py, slices (no checks, nothing kept)": by_slices,
        }
        measured = measure(calls, seconds=0.0, min_rounds=3)
        benchmark.extra_info |= {"threads": 1, "reference": REFERENCE, "variants": measured}
        benchmark.pedantic(calls[REFERENCE], rounds=3)


def test_reopening(benchmark, million_steps):
    """A later load: fingerprint and memory map."""
    dataset_id, home = million_steps
    load_dataset(dataset_id, home / "cache")
    benchmark(lambda: load_dataset(dataset_id, home / "cache"))
