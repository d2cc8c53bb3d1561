"""Plays episodes in slots: an environment whose episode is over gets the next one that is waiting.

One `Worker` is a serial program: act, refine, step, record. Several run in threads of their own on CPUs,
each with its own environments and a fixed share of the episodes, so that what one does never depends on
the others' pace.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch

from dtag_fast.rollout.captured import CapturedStep, why_not_captured
from dtag_fast.rollout.env_processes import EnvironmentProcesses
from dtag_fast.rollout.environments import Environments
from dtag_fast.rollout.faults import Fault, Interrupted
from dtag_fast.rollout.guided import GuidedPolicy
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.rollout.refinement import Refinement
from dtag_fast.rollout.starts import Starts
from dtag_fast.rollout.threads import threads


@dataclass(frozen=True)
class Task:
    """One episode to play: position in the list of settings, return to ask for (or None), seed of its reset
    and of what the policy draws."""

    setting: int
    target_return: float | None
    seed: int


@dataclass(frozen=True)
class Played:
    """One episode: undiscounted return, steps, how it ended, and over its steps the means of Q(s, a_0) and of
    Q(s, a) - Q(s, a_0) for the executed a (None without a critic). A step whose Q(s, a_0) is not finite is
    not refined: it has no part in the first, which is None without any other, and adds 0 to the second."""

    episode_return: float
    length: int
    terminated: bool
    mean_q_0: float | None
    mean_q_gain: float | None


@dataclass(frozen=True)
class Failed:
    """One episode that its environment did not let finish: in its reset (step 0) or in its t-th step."""

    step: int
    fault: Fault


@dataclass
class Split:
    """Wall time in seconds, summed over workers: where the loop spent it. Captured steps and draws are
    policy."""

    policy: float = 0.0
    refine: float = 0.0
    environment: float = 0.0
    other: float = 0.0

    def add(self, more: "Split") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(more, field.name))


class Recorder(Protocol):
    """What else is done with the episodes of a worker: it is told of every step, and may change what is
    executed. Slots are those of the worker, N of them."""

    def start(self, row: int, task: Task, observation: np.ndarray) -> None:
        """The episode of `task` begins in slot `row` with observation (S,)."""

    def begin_step(self, rows: np.ndarray, settings: np.ndarray) -> None:
        """The slots `rows` (R,) are about to act; what they act under may be written into settings (N,)."""

    def execute(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Those of `rows` in actions (N, A), refined, are about to be executed; they may be changed there."""

    def end_step(
        self, rows: np.ndarray, actions: np.ndarray, environments: Environments | EnvironmentProcesses
    ) -> np.ndarray:
        """actions (N, A) were executed in `rows`; returns the rewards (N,) that the policy is told of."""

    def finish(self, row: int, played: Played) -> Any:
        """The episode in slot `row` came to its end; returns what the worker gives in place of `played`."""


class Worker:
    """Plays tasks one after the other in each of its slots.

    Args:
        policy: over as many rollouts as there are environments.
        environments: the slots.
        refinement: None plays the policy's own actions.
        recorder: None plays, and no more.
        starts: of the policy's rollouts, where a setting of the refinement has several; None where none has.

    Attributes:
        not_captured: why policy and refinement are not one CUDA graph; None where they are.
    """

    def __init__(
        self,
        policy: SequencePolicy | ReactivePolicy | GuidedPolicy,
        environments: Environments | EnvironmentProcesses,
        refinement: Refinement | None = None,
        recorder: Recorder | None = None,
        starts: Starts | None = None,
    ):
        self.policy, self.environments, self.refinement = policy, environments, refinement
        self.recorder, self.starts = recorder, starts
        self.not_captured = why_not_captured(policy, refinement)
        self.captured = CapturedStep(policy, refinement) if self.not_captured is None else None

    def play(
        self, tasks: Sequence[Task], done: Callable[[int], None], stop: threading.Event
    ) -> tuple[list[Played | Failed | None], Split]:
        """Play all tasks. An episode whose environment fails ends there, and its slot goes on with the next;
        one that another took along is played again from its start.

        Args:
            done: called with the number of each task that is over.
            stop: when set, the worker returns as soon as it can, with None for what it did not finish.

        Returns:
            What was played, in the order of `tasks` and as the recorder gives it, and where the time went.
        """
        recorder = self.recorder
        slots = self.environments.observations.shape[0]
        results: list[Played | Failed | None] = [None] * len(tasks)
        faults = self.environments.faults
        waiting = deque(range(len(tasks)))
        task_of = np.full(slots, -1)  # number of the task in each slot, -1: none
        settings = np.zeros(slots, np.int64)
        totals = np.zeros((4, slots))  # return, sum of q_0, sum of gains, steps that have them
        lengths = np.zeros(slots, np.int64)
        split, began = Split(), time.perf_counter()

        def start(rows: Sequence[int]) -> None:
            """Give `rows` the next episodes, all reset at once."""
            task_of[rows] = -1
            while rows and waiting and not stop.is_set():
                given = [(row, waiting.popleft()) for row in rows[: len(waiting)]]
                self.environments.reset(
                    [row for row, _ in given], [tasks[number].seed for _, number in given]
                )
                rows = [row for row, _ in given if row in faults]
                for row, number in given:
                    task = tasks[number]
                    if row in faults:
                        results[number] = Failed(0, faults[row])
                        done(number)
                        continue
                    self.policy.reset(np.arange(slots) == row, task.target_return, task.seed)
                    if self.starts is not None:
                        self.starts.begin(row, task.seed)
                    task_of[row], settings[row], totals[:, row], lengths[row] = number, task.setting, 0.0, 0
                    if recorder is not None:
                        recorder.start(row, task, self.environments.observations[row])

        clock = time.perf_counter
        start(list(range(slots)))
        split.environment += clock() - began
        while not stop.is_set():
            active = task_of >= 0
            rows = np.flatnonzero(active)
            if rows.size == 0:
                break
            if recorder is not None:
                recorder.begin_step(rows, settings)
            mark = clock()
            observations, refined = self.environments.observations, None
            if self.captured is not None:
                refined = self.captured.act(observations, active, settings)
                actions = np.zeros((slots, refined.actions.shape[1]), np.float32)
                acted = clock()
            else:
                actions, draws = self.policy.act(observations, active), None
                if self.starts is not None:
                    draws = self.starts.draw(rows, observations, actions, settings)
                acted = clock()
                if self.refinement is not None:
                    refined = self.refinement(observations[rows], actions[rows], settings[rows], draws)
            if refined is not None:
                actions[rows] = refined.actions
                known = np.isfinite(refined.q_0)
                totals[1, rows[known]] += refined.q_0[known]
                totals[2, rows[known]] += refined.q_best[known] - refined.q_0[known]
                totals[3, rows[known]] += 1
            if recorder is not None:
                recorder.execute(rows, actions)
            improved = clock()
            self.environments.step(rows, actions[rows])
            stepped = clock()
            rewards = self.environments.rewards
            if recorder is not None:
                rewards = recorder.end_step(rows, actions, self.environments)
            self.policy.record(actions, rewards, active)
            totals[0, rows] += self.environments.rewards[rows]
            lengths[rows] += 1
            over = self.environments.terminated | self.environments.truncated
            over[list(faults)] = True
            recorded = clock()
            ended = rows[over[rows]].tolist()
            for row in ended:
                number = int(task_of[row])
                if isinstance(faults.get(row), Interrupted):
                    waiting.append(number)
                    continue
                results[number] = self._outcome(row, totals[:, row], int(lengths[row]))
                done(number)
            start(ended)
            restarted = clock()
            split.policy += (acted - mark) + (recorded - stepped)
            split.refine += improved - acted
            split.environment += (stepped - improved) + (restarted - recorded)
        split.other = clock() - began - split.policy - split.refine - split.environment
        return results, split

    def _outcome(self, row: int, totals: np.ndarray, length: int) -> Played | Failed | Any:
        if row in self.environments.faults:
            return Failed(length, self.environments.faults[row])
        with_critic = self.refinement is not None
        played = Played(
            episode_return=float(totals[0]),
            length=length,
            terminated=bool(self.environments.terminated[row]),
            mean_q_0=float(totals[1] / totals[3]) if totals[3] else None,
            mean_q_gain=float(totals[2] / length) if with_critic else None,
        )
        return played if self.recorder is None else self.recorder.finish(row, played)


def play_all(
    workers: Sequence[Worker],
    tasks: Sequence[Task],
    done: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> tuple[list[Played | Failed], Split]:
    """Play `tasks`, dealt to the workers in turn, each worker in a thread.

    While it runs, PyTorch's own threads are set to one when the workers run on a CPU: the workers are the
    parallelism.

    Args:
        done: called as done(finished, all) after each episode, from the workers' threads, one call at a time.
        stop: when set, from another thread, all give up at their next step, with None for what they did not
            finish.

    Returns:
        What became of the `tasks`, in their order and as the workers' recorders give it, and where the time
        went, summed over workers.
    """
    stop, lock, finished = threading.Event() if stop is None else stop, threading.Lock(), 0

    def report(_number: int) -> None:
        nonlocal finished
        with lock:
            finished += 1
            if done is not None:
                done(finished, len(tasks))

    def run(number: int) -> tuple[list[Played | Failed | None], Split]:
        try:
            return workers[number].play(tasks[number :: len(workers)], report, stop)
        except BaseException:
            stop.set()
            raise

    results: list[Played | Failed | None] = [None] * len(tasks)
    split = Split()
    on_cpu = workers[0].policy.device.type == "cpu"
    with _one_thread_each(on_cpu), threads(len(workers)) as pool:
        futures = [pool.submit(run, number) for number in range(len(workers))]
        try:
            for number, future in enumerate(futures):
                played, share = future.result()
                results[number :: len(workers)] = played
                split.add(share)
        except BaseException:  # an error in a worker, or Ctrl-C here
            stop.set()
            raise
        finally:
            wait(futures)
    return results, split


@contextmanager
def _one_thread_each(on_cpu: bool):
    before = torch.get_num_threads()
    if on_cpu:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
