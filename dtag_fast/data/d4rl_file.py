"""D4RL's HDF5 files: all steps of a dataset one after the other, cut into episodes here.

A file holds observations (N, S), actions (N, A), or integers (N,) where they are discrete, rewards,
terminals, timeouts (N,) and, in newer versions, next_observations (N, S). What follows from it (docs/data.md
says why):

    ends        terminals, timeouts, and jumps from a next observation to a following row that is another;
                without timeouts: those jumps, or else the environment's step limit
    last row    next_observations of an episode's last step. Where there is none, a terminated episode gets
                its last observation once more, and a cut one loses its last step, as in D4RL's own
                `qlearning_dataset`
    tail        steps after the last end are dropped, as in D4RL's `sequence_dataset`
    maze2d      terminals are cuts; rewards that label the state a step starts from are moved to the step
                that reaches it
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dtag_fast.data.d4rl_columns import Columns
from dtag_fast.data.flat_file import Environment, FlatFile
from dtag_fast.data.splitting import LimitCuts, jumps

# Goals of D4RL's maze2d in the coordinates of its observations, and its radius (`d4rl/pointmaze`).
_MAZE_GOALS = {"open": (2, 3), "umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}
_MAZE_RADIUS = 0.5


class D4rlFile(FlatFile):
    """A D4RL file as a source of episodes; see FlatFile."""

    counts = "steps"

    def __init__(self, path: Path, environment: Environment | None = None):
        super().__init__(path, environment)
        self.total = 0  # rows of the file, once described

    def describe(self) -> dict:
        """The complete metadata. Reads all actions once.

        Raises:
            ValueError: not a D4RL file, or its arrays disagree.
        """
        with Columns(self.path, self.name) as columns:
            self.total = columns.rows
            low, high = np.full(columns.action_dim, np.inf), np.full(columns.action_dim, -np.inf)
            for first in range(0, columns.rows, columns.block):
                actions = columns.read("actions", first, first + columns.block)
                np.fmin(low, actions.min(axis=0), out=low)
                np.fmax(high, actions.max(axis=0), out=high)
            return self.with_actions(low, high, columns.state_dim, columns.integer_actions)

    def episodes(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The arrays of each episode in the order of Episode, as float32 and flags, not yet checked.

        Raises:
            ValueError: a damaged file, or one whose episodes can not be told apart.
        """
        with Columns(self.path, self.name) as columns:
            yield from _Splitter(self, columns).episodes()


class _Splitter:
    """Cuts the blocks of a file into episodes and counts what is worth a note."""

    def __init__(self, file: D4rlFile, columns: Columns):
        self.file, self.columns = file, columns
        self.maze = file.task is not None and file.task.family == "maze2d"
        self.shifted = self.maze and _rewards_label_the_start(file, columns)
        self.has_next = columns.has_next and not self.shifted
        self.limit = self._limit_cuts()
        self.kept = self.unmarked = self.open = self.repeated = self.shortened = self.lost = self.single = 0
        self._pieces: list[tuple[np.ndarray, ...]] = []

    def _limit_cuts(self) -> LimitCuts | None:
        """The step limit, where nothing else tells where episodes are cut."""
        if self.columns.has_timeouts or self.columns.has_next or self.maze:
            return None
        limit = self.file.max_episode_steps
        if limit is None:
            raise ValueError(
                f"{self.file.name}: timeouts: {self.file.path.name} has neither them nor next_observations, "
                "and its name tells no step limit, so that its episodes can not be told apart; give it its "
                "D4RL name (hopper_medium-v2.hdf5), or name the environment with `dtag data import --env "
                "ENV_ID`"
            )
        return LimitCuts(limit)

    def episodes(self) -> Iterator[tuple[np.ndarray, ...]]:
        for first in range(0, self.columns.rows, self.columns.block):
            last = min(first + self.columns.block, self.columns.rows)
            yield from self._block(first, last)
        if self.kept + self.lost == 0:
            raise ValueError(
                f"{self.file.name}: expected at least one end of an episode in terminals or timeouts, got "
                f"none in {self.columns.rows} steps"
            )
        if self.unmarked > self.columns.rows // 2:
            raise ValueError(
                f"{self.file.name}: next_observations: after {self.unmarked} of {self.columns.rows} steps "
                "they differ from the next row of observations; these are single transitions and no "
                "episodes, or the arrays are shifted"
            )
        self._say()

    def _block(self, first: int, last: int) -> Iterator[tuple[np.ndarray, ...]]:
        read = self.columns.read
        observations = read("observations", first, last + 1)  # one row more: what follows the last step
        steps = last - first
        terminals = self.columns.read_flags("terminals", first, last)
        cuts = np.zeros(steps, bool)
        if self.columns.has_timeouts:
            cuts |= self.columns.read_flags("timeouts", first, last)
        if self.maze:
            terminals, cuts = np.zeros(steps, bool), cuts | terminals
        following = None
        if self.has_next:
            following = read("next_observations", first, last)
            known = len(observations) - 1  # the file's last step is followed by nothing
            jumped = np.zeros(steps, bool)
            jumped[:known] = jumps(following[:known], observations[1:])
            jumped &= ~(terminals | cuts)
            self.unmarked += int(jumped.sum())
            cuts |= jumped
        if self.limit is not None:
            cuts |= self.limit.of(terminals)
        arrays = (
            observations[:steps],
            read("actions", first, last),
            read("rewards", first, last),
            terminals,
            cuts,
            *(() if following is None else (following,)),
        )
        begin = 0
        for end in (np.flatnonzero(terminals | cuts) + 1).tolist():
            self._pieces.append(tuple(array[begin:end] for array in arrays))
            begin = end
            if (episode := self._finish()) is not None:
                self.kept += 1
                self.single += len(episode[1]) == 1
                yield episode
        if begin < steps:
            self._pieces.append(tuple(array[begin:].copy() for array in arrays))
        self.open = sum(len(piece[0]) for piece in self._pieces)

    def _finish(self) -> tuple[np.ndarray, ...] | None:
        """The episode of the collected pieces; None where nothing of it is left."""
        pieces, self._pieces = self._pieces, []
        parts = pieces[0] if len(pieces) == 1 else tuple(map(np.concatenate, zip(*pieces, strict=True)))
        observations, actions, rewards, terminals, cuts = parts[:5]
        if self.has_next:
            return np.concatenate([observations, parts[5][-1:]]), actions, rewards, terminals, cuts
        if terminals[-1]:
            self.repeated += 1
            return np.concatenate([observations, observations[-1:]]), actions, rewards, terminals, cuts
        if len(actions) == 1:
            self.lost += 1
            return None
        self.shortened += 1
        rewards = rewards[1:] if self.shifted else rewards[:-1]
        return observations, actions[:-1], rewards, terminals[:-1], cuts[1:]

    def _say(self) -> None:
        say = self.file.notes.append
        if self.maze:
            say(
                "terminals and timeouts of maze2d mark goals that the walk reached, not ends of the task: "
                "they cut, nothing terminates"
            )
        elif self.limit is not None:
            say(
                f"timeouts are missing: episodes are cut after {self.limit.limit} steps, the environment's "
                "limit"
            )
        elif not self.columns.has_timeouts:
            say(
                f"timeouts are missing: {self.unmarked} episodes are cut where next_observations and the "
                "next row of observations differ"
            )
        elif self.unmarked:
            say(
                f"{self.unmarked} episodes are cut where next_observations and the next row of observations "
                "differ, though neither terminals nor timeouts mark it"
            )
        if self.shifted:
            say(
                "rewards of the file label the state that a step starts from: moved to the step that "
                "reaches it, as the environment gives them"
            )
        if self.repeated:
            say(
                f"the observation after {self.repeated} terminations is not in the file: the last one is "
                "repeated there"
            )
        if self.shortened or self.lost:
            say(
                f"the observation after the last step of {self.shortened + self.lost} cut episodes is not in "
                "the file: that step is left out"
                + (f", and with it {self.lost} episodes of one step" if self.lost else "")
            )
        if self.open:
            say(f"{self.open} steps after the last end of an episode are left out")
        if self.file.task is not None and self.file.task.family == "antmaze":
            if self.single:
                say(
                    f"{self.single} episodes have one step: at the goal, antmaze marks every step as terminal"
                )
            if self.file.name.endswith("-v0"):
                say("antmaze's v0 files are known to have timeouts in wrong places; take the v2 files")


def _rewards_label_the_start(file: D4rlFile, columns: Columns) -> bool:
    """Whether rewards of a maze2d file are those of the states the steps start from (D4RL issue 194).

    D4RL labelled the walks afterwards, row by row: 1 within the goal's radius, or exp(-distance).
    """
    size, dense = file.name.split("-")[1], "-dense-" in file.name
    own = reached = 0
    for first in range(0, columns.rows, columns.block):
        positions = columns.read("observations", first, first + columns.block + 1)[:, :2]
        rewards = columns.read("rewards", first, first + columns.block)
        distance = np.linalg.norm(positions - np.float32(_MAZE_GOALS[size]), axis=1)
        labels = np.exp(-distance) if dense else (distance <= _MAZE_RADIUS).astype(np.float32)
        own += int((abs(labels[: len(rewards)] - rewards) > 1e-3).sum())
        pairs = min(len(rewards), len(labels) - 1)
        reached += int((abs(labels[1:] - rewards[:pairs]) > 1e-3).sum())
    # A label right on the radius may have been rounded the other way.
    if own <= max(1, columns.rows // 10_000) and own < reached:
        return True
    file.notes.append(
        "rewards are left as they are: they are not those of the states that the steps start from"
        if own
        else "rewards are left as they are: nothing tells which state they label"
    )
    return False
