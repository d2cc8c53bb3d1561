"""Environments stepped by worker processes (`env_worker`), side by side."""

import itertools
import os
import pickle
from collections.abc import Sequence

import gymnasium
import numpy as np

from dtag_fast.rollout.env_worker import (
    RESET,
    STEP,
    Child,
    ProcessDied,
    SharedArrays,
    TookTooLong,
    anonymous_file,
)
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.environments import expect_running
from dtag_fast.rollout.faults import Fault, Interrupted


class NotInChildren(ValueError):
    """The environment can be built in this process alone."""


class EnvironmentProcesses:
    """As `Environments`, the slots shared out to `processes` child processes that step them side by side.

    A child that dies ends the episodes of its slots; the next reset of one starts a new child. A child
    of which an environment takes too long is ended likewise: the episode of that environment fails, those
    beside it have an `Interrupted` in `faults`.

    Args:
        kind: of the environments. num_envs: N >= 1. processes: 1 <= P <= N.
        timeout: seconds that a reset or step of one environment may take; None: any time. Building
            environments at the start has no limit.

    Raises:
        NotInChildren: the environment is not to be had in another process.
        ValueError, gymnasium.error.Error: as `Environments` and `make_env`.
        ProcessDied: a child did not come up.
    """

    def __init__(self, kind: EnvironmentKind, num_envs: int, processes: int, timeout: float | None = None):
        self._kind, self._num_envs, self._timeout = kind, num_envs, timeout
        try:
            pickle.dumps(kind)
        except Exception as error:
            raise NotInChildren(
                f"env_processes: the description of {kind.env_id} cannot be sent to another process "
                f"({error}); evaluate in this one (env_processes=0)"
            ) from error
        self._memory = anonymous_file(SharedArrays.layout(num_envs, kind)[-1][0])
        self._shared = SharedArrays.of(self._memory, num_envs, kind, slice(0, num_envs))
        self.observations, self.rewards, self.terminated, self.truncated, self._busy_since = self._shared.seen
        self.faults: dict[int, Fault] = {}
        self._lost: dict[int, Fault] = {}  # slots whose episode went with its child
        edges = np.linspace(0, num_envs, processes + 1).astype(int).tolist()
        self._shares = [slice(*pair) for pair in itertools.pairwise(edges)]
        self._children: list[Child | None] = [None] * processes
        try:
            for number in range(processes):
                self._children[number] = self._child(number)
            for child in self._children:
                self._await(child)
        except BaseException:
            self.close()
            raise

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Start new episodes in the slots `rows`, all children at once, each its slots in this order; raises
        as `Environments.reset`."""
        left: dict[int, list[tuple[int, int]]] = {}  # child -> its (row, seed) that are still to be reset
        for row, seed in zip(rows, seeds, strict=True):
            self.faults.pop(row, None)
            number = next(i for i, share in enumerate(self._shares) if share.start <= row < share.stop)
            left.setdefault(number, []).append((row, seed))
        while left:
            self._replace_lost(left)
            for number, pairs in left.items():
                child = self._children[number]
                child.ask(RESET, [(row - child.rows.start, seed) for row, seed in pairs])
            left = {number: rest for number, pairs in left.items() if (rest := self._answers(number, pairs))}

    def _replace_lost(self, left: dict[int, list[tuple[int, int]]]) -> None:
        """Start the children in `left` that are gone, side by side; one that does not come up leaves `left`
        with a fault for each of its slots."""
        new = [number for number in left if self._children[number] is None]
        for number in new:
            self._children[number] = self._child(number)
        for number in new:
            try:
                self._await(self._children[number])
            except Exception as error:
                self._children[number] = None
                self.faults.update((row, Fault.of(error)) for row, _ in left.pop(number))

    def _answers(self, number: int, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Wait until a child has reset these (row, seed); returns those that it was not alive to begin."""
        for i, (row, _) in enumerate(pairs):
            self._lost.pop(row, None)
            try:
                self.faults.update(self._children[number].answer())
            except (ProcessDied, TookTooLong) as error:
                self._lose(number, error)
                self.faults[row] = self._lost.pop(row)
                return list(pairs[i + 1 :])
        return []

    def step(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Step the slots `rows` (R,) with `actions` (R, A); raises as `Environments.step`."""
        expect_running(rows, self.terminated, self.truncated, self.faults)
        shared = self._shared
        shared.stepped[:] = False
        shared.stepped[rows] = True
        shared.stepped[list(self._lost)] = False
        shared.actions[rows] = actions
        asked = [
            (number, child)
            for number, child in enumerate(self._children)
            if child is not None and shared.stepped[child.rows].any()
        ]
        for _, child in asked:
            child.ask(STEP)
        for number, child in asked:
            try:
                self.faults.update(child.answer())
            except (ProcessDied, TookTooLong) as error:
                self._lose(number, error)
        for row in rows.tolist() if self._lost else ():
            if row in self._lost:
                self.faults[row] = self._lost.pop(row)

    def close(self) -> None:
        """Close every environment and end the children."""
        children, self._children = [c for c in self._children if c is not None], []
        for child in children:
            child.link.close()  # all of them first: they end side by side
        for child in children:
            child.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def __enter__(self) -> "EnvironmentProcesses":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _child(self, number: int) -> Child:
        share, since = self._shares[number], self._busy_since
        return Child(self._kind, self._num_envs, share, self._memory, since, self._timeout)

    def _await(self, child: Child) -> None:
        """Wait until a new child has built its environments."""
        try:
            child.answer()
        except (gymnasium.error.UnregisteredEnv, ImportError) as error:
            child.close()
            env_id = self._kind.env_id
            if env_id.partition(":")[2] not in gymnasium.registry and env_id not in gymnasium.registry:
                raise
            raise NotInChildren(
                f"env_processes: {env_id} is registered in this process alone, a worker process cannot build "
                f"it; give it as 'module:{env_id}' with a module that registers it, or evaluate in this "
                "process (env_processes=0)"
            ) from error
        except BaseException:
            child.close()
            raise

    def _lose(self, number: int, error: ProcessDied | TookTooLong) -> None:
        """Give up a child that has ended, and with it what its slots were at."""
        self._children[number] = None
        for row in range(*self._shares[number].indices(self._num_envs)):
            innocent = isinstance(error, TookTooLong) and row != error.row
            self._lost[row] = Interrupted.of(error) if innocent else Fault.of(error)
            self._busy_since[row] = 0.0
            self.observations[row], self.rewards[row] = 0.0, 0.0
            self.terminated[row] = self.truncated[row] = False
