"""The flat trajectory store: every episode of a dataset in a handful of contiguous, read-only arrays.

Episode e holds `length[e]` steps and one observation more. With `offsets` the running sum of the lengths,

    actions, rewards, terminations, truncations of (e, t):  row offsets[e] + t          (N rows)
    observation of (e, t), t = 0 .. length[e]:              row offsets[e] + e + t      (N + E rows)

so the observation after step row r is always the row that follows the observation of r, in the same episode.
"""

import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtag_fast.data.discrete import DiscreteActions, discrete_facts
from dtag_fast.data.validation import check_episode
from dtag_fast.untrusted.plain_json import read_json

FORMAT = "dtag_fast trajectories"
FORMAT_VERSION = 1
META_FILE = "meta.json"
# array name -> type on disk and in memory
ARRAYS = {
    "observations": np.dtype(np.float32),
    "actions": np.dtype(np.float32),
    "rewards": np.dtype(np.float32),
    "terminations": np.dtype(np.bool_),
    "truncations": np.dtype(np.bool_),
    "offsets": np.dtype(np.int64),
}
_CHUNK_ROWS = 1 << 18  # rows looked at together by the statistics: bounded memory on sets larger than RAM


class Episode(NamedTuple):
    """One episode of T steps.

    Attributes:
        observations: (T + 1, S) float32; row t is seen before step t, row T after the last step.
        actions: (T, A) float32; one-hot rows where actions are discrete.
        rewards: (T,) float32.
        terminations: (T,) bool, the environment ended the episode at this step.
        truncations: (T,) bool, a time limit cut the episode at this step.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


class TrajectoryStore:
    """Read-only trajectories in flat arrays (layout: module docstring).

    Build one with `load_dataset`, `TrajectoryStore.from_episodes` or `TrajectoryStore.open`.

    Attributes:
        observations: (N + E, S) float32.
        actions: (N, A) float32; one-hot rows where actions are discrete.
        rewards: (N,) float32.
        terminations, truncations: (N,) bool.
        offsets: (E + 1,) int64, first step row of each episode, and N.
        metadata: dataset_id, env_id, env_spec (dict or None), max_episode_steps, action_low, action_high
            (lists; None for discrete actions), discrete_actions ({"n", "start"}, None or absent for
            continuous ones), observation_keys (list for Dict observations, else None), ref_min_score,
            ref_max_score, ref_source, fingerprint of the source, notes (list of sentences about oddities
            that are not errors).
    """

    def __init__(self, arrays: dict[str, np.ndarray], metadata: dict):
        self.observations = _frozen(arrays["observations"])
        self.actions = _frozen(arrays["actions"])
        self.rewards = _frozen(arrays["rewards"])
        self.terminations = _frozen(arrays["terminations"])
        self.truncations = _frozen(arrays["truncations"])
        self.offsets = _frozen(arrays["offsets"])
        self.metadata = metadata

    @property
    def num_episodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        return len(self.actions)

    @property
    def state_dim(self) -> int:
        return self.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def discrete_actions(self) -> DiscreteActions | None:
        """The space that the one-hot rows of `actions` stand for; None where actions are continuous."""
        return DiscreteActions.of(self.metadata)

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """(E,) int64 steps of each episode."""
        return _frozen(np.diff(self.offsets))

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """(E,) float64 undiscounted sum of the rewards of each episode."""
        return _frozen(np.add.reduceat(self.rewards, self.offsets[:-1], dtype=np.float64))

    @cached_property
    def state_rows(self) -> np.ndarray:
        """(N,) int64 row of `observations` seen before each step; the row after the step is the next one."""
        episode_of_step = np.repeat(np.arange(self.num_episodes), self.episode_lengths)
        return _frozen(np.arange(self.num_steps) + episode_of_step)

    def episode(self, index: int) -> Episode:
        """Episode `index` (0 .. num_episodes - 1; negative counts from the end) as views of the arrays."""
        if not -self.num_episodes <= index < self.num_episodes:
            raise IndexError(f"index: expected an episode below {self.num_episodes}, got {index}")
        index %= self.num_episodes
        first, last = int(self.offsets[index]), int(self.offsets[index + 1])
        return Episode(
            self.observations[first + index : last + index + 1],
            self.actions[first:last],
            self.rewards[first:last],
            self.terminations[first:last],
            self.truncations[first:last],
        )

    def select(self, indices: np.ndarray) -> "TrajectoryStore":
        """A store in memory of some episodes, in the given order, with this one's metadata.

        Args:
            indices: (n,) episodes, at least one, each 0 .. num_episodes - 1.
        """
        chosen = [self.episode(int(index)) for index in indices]
        return TrajectoryStore.from_episodes(chosen, self.metadata)

    def state_statistics(self, eps: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the states in which an action was taken.

        Args:
            eps: added to the standard deviation (the convention of Decision Transformer code on D4RL), so
                that a constant dimension divides by eps and not by zero.

        Returns:
            mean (S,) and std (S,), float32, computed in float64 (population standard deviation).
        """
        total = np.zeros(self.state_dim)
        for states in self._state_chunks():
            total += states.sum(axis=0, dtype=np.float64)
        mean = total / self.num_steps
        total_square = np.zeros(self.state_dim)
        for states in self._state_chunks():
            total_square += np.square(states - mean).sum(axis=0)
        std = np.sqrt(total_square / self.num_steps) + eps
        return mean.astype(np.float32), std.astype(np.float32)

    def _state_chunks(self) -> Iterable[np.ndarray]:
        for first in range(0, self.num_steps, _CHUNK_ROWS):
            yield self.observations[self.state_rows[first : first + _CHUNK_ROWS]]

    @classmethod
    def from_episodes(cls, episodes: Iterable[Episode], metadata: dict | None = None) -> "TrajectoryStore":
        """A store in memory from episodes, each checked.

        Args:
            episodes: Episode tuples, or any tuples in that order; converted to float32 and bool. Discrete
                actions may be (T,) numbers and become one-hot rows.
            metadata: becomes `.metadata`; "dataset_id" names the set in errors, "discrete_actions" says that
                actions are discrete.

        Raises:
            ValueError: there is no episode, or one has arrays that disagree, are empty or not finite.
        """
        metadata = dict(metadata or {})
        name, discrete = metadata.get("dataset_id", "episodes"), DiscreteActions.of(metadata)
        if discrete is not None:
            metadata |= discrete_facts(discrete)
        checked: list[Episode] = []
        for index, episode in enumerate(episodes):
            dims = (checked[0].observations.shape[1], checked[0].actions.shape[1]) if checked else None
            checked.append(Episode(*check_episode(episode, f"{name}: episode {index}", dims, discrete)))
        if not checked:
            raise ValueError(f"{name}: expected at least one episode, got none")
        arrays = {
            key: np.concatenate([getattr(episode, key) for episode in checked]) for key in Episode._fields
        }
        arrays["offsets"] = np.cumsum([0, *(len(episode.actions) for episode in checked)], dtype=np.int64)
        return cls(arrays, metadata)

    def save(self, directory: str | os.PathLike) -> None:
        """Write one .npy file per array and meta.json into `directory`, which must be empty or absent."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ValueError(f"directory: {directory} is not empty; choose a new folder")
        for name in ARRAYS:
            np.save(directory / f"{name}.npy", getattr(self, name))
        write_meta(directory, {name: list(getattr(self, name).shape) for name in ARRAYS}, self.metadata)

    @classmethod
    def open(cls, directory: str | os.PathLike) -> "TrajectoryStore":
        """Open a saved store; the arrays stay on disk and are mapped into memory.

        Raises:
            FileNotFoundError: the folder holds no store.
            ValueError: written by another format version, or a file is damaged.
        """
        directory = Path(directory)
        meta = read_json((directory / META_FILE).read_bytes(), str(directory / META_FILE))
        if meta.get("format") != FORMAT or meta.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{directory}: expected {FORMAT!r} version {FORMAT_VERSION}, got {meta.get('format')!r} "
                f"version {meta.get('format_version')}; read the original dataset again with this version "
                "of dtag_fast"
            )
        arrays = {}
        for name, dtype in ARRAYS.items():
            array = np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if array.dtype != dtype or list(array.shape) != meta["shapes"][name]:
                raise ValueError(
                    f"{directory}: {name}.npy: expected {dtype} {meta['shapes'][name]}, got {array.dtype} "
                    f"{list(array.shape)}; the folder is damaged, delete it"
                )
            arrays[name] = array
        return cls(arrays, meta["metadata"])


def write_meta(directory: Path, shapes: dict[str, list[int]], metadata: dict) -> None:
    """Write meta.json of a store whose arrays already lie in `directory`; it is the last file written."""
    meta = {"format": FORMAT, "format_version": FORMAT_VERSION, "shapes": shapes, "metadata": metadata}
    (directory / META_FILE).write_text(json.dumps(meta, indent=1))


def _frozen(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
