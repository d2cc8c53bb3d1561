"""Pickled lists of trajectories, as the original Decision Transformer keeps D4RL's datasets.

A trajectory is a dict of observations (T, S), actions (T, A), rewards (T,), terminals or dones (T,), and
next_observations (T, S) where the writer kept them; discrete actions are integers (T,) or (T, 1). Read by
`untrusted.plain_pickle`, so that opening a file from elsewhere runs nothing of it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dtag_fast.data.flat_file import Environment, FlatFile
from dtag_fast.data.splitting import jumps
from dtag_fast.untrusted.containers import Refused
from dtag_fast.untrusted.plain_pickle import read_pickle
from dtag_fast.untrusted.plain_values import PLAIN

PICKLE_SUFFIXES = (".pkl", ".pickle", ".p")
_ENDS = ("terminals", "dones")
# A file may name one array many times. Above this many times its own size it is taken for a trap.
_MOST_UNFOLDED = 16
_MOST_INTEGER = 255  # bytes; beside its trajectories a file may keep states of generators


class TrajectoryPickle(FlatFile):
    """A pickle of trajectories as a source of episodes; see FlatFile. The file is read into memory."""

    counts = "episodes"

    def __init__(self, path: Path, environment: Environment | None = None):
        super().__init__(path, environment)
        self.total = 0
        self._trajectories: list[dict[str, np.ndarray]] = []

    def describe(self) -> dict:
        """The complete metadata. Reads the whole file.

        Raises:
            ValueError: not a list of trajectories, or a pickle that asks for more than plain data.
        """
        content = read_trajectories(self.path)
        if not isinstance(content, (list, tuple)) or not content:
            raise ValueError(
                f"{self.name}: expected a list of trajectories in {self.path.name}, got "
                f"{'an empty one' if isinstance(content, (list, tuple)) else type(content).__name__}"
            )
        self.total = len(content)
        budget = _MOST_UNFOLDED * self.path.stat().st_size + (1 << 20)
        for index, entry in enumerate(content):
            trajectory = self._arrays(index, entry)
            self._expect_width(index, trajectory)
            budget -= sum(array.nbytes for array in trajectory.values())
            if budget < 0:
                raise ValueError(
                    f"{self.name}: the trajectories of {self.path.name} unfold to more than {_MOST_UNFOLDED} "
                    "times its size, as it names the same arrays again and again; save each trajectory once"
                )
            self._trajectories.append(trajectory)
        low = np.min([t["actions"].min(axis=0) for t in self._trajectories], axis=0)
        high = np.max([t["actions"].max(axis=0) for t in self._trajectories], axis=0)
        first = self._trajectories[0]
        return self.with_actions(low, high, first["observations"].shape[1], _integers(first["actions"]))

    def episodes(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The arrays of each episode in the order of Episode, not yet checked; see `D4rlFile.episodes`."""
        repeated = shortened = lost = 0
        maze = self.task is not None and self.task.family == "maze2d"
        for index, trajectory in enumerate(self._trajectories):
            observations, actions, rewards = (
                trajectory[key] for key in ("observations", "actions", "rewards")
            )
            terminals = np.zeros(len(actions), bool) if maze else self._flags(index, trajectory)
            truncations = np.zeros(len(actions), bool)
            truncations[-1] = not terminals[-1]
            if "next_observations" in trajectory:
                following = self._following(index, trajectory)
                observations = np.concatenate([observations, following[-1:]])
            elif terminals[-1]:
                repeated += 1
                observations = np.concatenate([observations, observations[-1:]])
            elif len(actions) == 1:
                lost += 1
                continue
            else:
                shortened += 1
                actions, rewards = actions[:-1], rewards[:-1]
                terminals, truncations = terminals[:-1], truncations[1:]
            yield observations, actions, rewards, terminals, truncations
        self._say(repeated, shortened, lost)

    def _say(self, repeated: int, shortened: int, lost: int) -> None:
        if repeated:
            self.notes.append(
                f"the observation after {repeated} terminations is not in the file: the last one is repeated "
                "there"
            )
        if shortened or lost:
            self.notes.append(
                f"the observation after the last step of {shortened + lost} cut episodes is not in the file: "
                "that step is left out" + (f", and with it {lost} episodes of one step" if lost else "")
            )

    def _arrays(self, index: int, entry) -> dict[str, np.ndarray]:
        where = f"{self.name}: episode {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected a dict of arrays, got {type(entry).__name__}")
        ends = next((key for key in _ENDS if key in entry), _ENDS[0])
        wanted = ("observations", "actions", "rewards", ends)
        trajectory = {}
        for key in (*wanted, *(("next_observations",) if "next_observations" in entry else ())):
            if key not in entry:
                keys = ", ".join(str(key)[:60] for key in list(entry)[:12]) or "nothing"
                raise ValueError(f"{where}: {key}: this key is missing; the trajectory has {keys}")
            array = _array_of(entry[key])
            if array is None:
                raise ValueError(
                    f"{where}: {key}: expected an array of numbers, got {type(entry[key]).__name__}"
                )
            trajectory[key] = array.reshape(-1) if key in ("rewards", ends) else array
            if key == "actions" and array.ndim == 1 and _integers(array):
                trajectory[key] = array[:, None]
        steps = len(trajectory["rewards"])
        if not steps:
            raise ValueError(f"{where}: rewards: the trajectory has no steps; remove it from the file")
        for key, array in trajectory.items():
            vector = key in ("rewards", ends)
            if array.ndim != (1 if vector else 2) or len(array) != steps or not array.size:
                expected = f"({steps},)" if vector else f"({steps}, n)"
                remedy = "; discrete actions are integers" if key == "actions" and array.ndim == 1 else ""
                raise ValueError(
                    f"{where}: {key}: expected {expected} to match {steps} rewards, got shape {array.shape}"
                    f"{remedy}"
                )
        trajectory[_ENDS[0]] = trajectory.pop(ends)
        return trajectory

    def _expect_width(self, index: int, trajectory: dict[str, np.ndarray]) -> None:
        first = self._trajectories[0] if self._trajectories else trajectory
        for key in ("observations", "actions"):
            expected, found = first[key].shape[1], trajectory[key].shape[1]
            if found != expected:
                raise ValueError(
                    f"{self.name}: episode {index}: {key}: expected {expected} columns as in episode 0, got "
                    f"{found}"
                )
        types = [one["actions"].dtype for one in (first, trajectory)]
        alone = self.environment is None and first["actions"].shape[1] == 1  # the type decides what they are
        if alone and _integers(first["actions"]) != _integers(trajectory["actions"]):
            raise ValueError(
                f"{self.name}: episode {index}: actions: expected {types[0]} as in episode 0, "
                f"got {types[1]}; integers are discrete actions, other numbers are not"
            )

    def _flags(self, index: int, trajectory: dict[str, np.ndarray]) -> np.ndarray:
        flags = trajectory["terminals"]
        if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
            raise ValueError(f"{self.name}: episode {index}: terminals: expected true or false per step")
        return flags.astype(bool)

    def _following(self, index: int, trajectory: dict[str, np.ndarray]) -> np.ndarray:
        observations, following = trajectory["observations"], trajectory["next_observations"]
        if following.shape != observations.shape:
            raise ValueError(
                f"{self.name}: episode {index}: next_observations: expected shape {observations.shape}, got "
                f"{following.shape}"
            )
        different = np.flatnonzero(jumps(following[:-1], observations[1:]))
        if different.size:
            row = int(different[0])
            raise ValueError(
                f"{self.name}: episode {index}: next_observations: row {row} is not row {row + 1} of "
                "observations; the trajectory is not continuous"
            )
        return following


def read_trajectories(path: Path):
    """The object in a pickle of plain data; arrays are read-only, over the bytes of the file.

    Raises:
        ValueError: not a pickle, a damaged one, or one that asks for more than plain data.
    """
    try:
        with path.open("rb") as file:
            return read_pickle(file, PLAIN, most_opcodes=None, most_integer=_MOST_INTEGER)
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None


def _array_of(value) -> np.ndarray | None:
    """An array of numbers, or of a list of them; None for anything else."""
    if isinstance(value, (list, tuple)) and all(isinstance(entry, (bool, int, float)) for entry in value):
        value = np.asarray(value)
    return value if isinstance(value, np.ndarray) and value.dtype != object else None


def _integers(array: np.ndarray) -> bool:
    return array.dtype.kind in "iub"
