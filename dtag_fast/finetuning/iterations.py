"""Iterations of an online run: a round of episodes, then updates on windows of the replay buffer.

An iteration plays with the policy as it is, adds the episodes to the buffer and makes a fixed number of
updates (Zheng et al. 2022, algorithm 1; Yan et al. 2024).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtag_fast.algorithms import Algorithm, stream_seed
from dtag_fast.algorithms.sequence import transformed_returns
from dtag_fast.data import Episode
from dtag_fast.finetuning.experience import Experience
from dtag_fast.finetuning.settings import OnlineConfig, doubled
from dtag_fast.finetuning.start import Start
from dtag_fast.rollout.collection import CollectionTask, Collector
from dtag_fast.rollout.faults import FailedEpisode
from dtag_fast.rollout.threads import threads
from dtag_fast.training.capture import TrainingSteps
from dtag_fast.training.loop import record_updates
from dtag_fast.training.session import Evaluate, Session

Progress = Callable[[int, int, dict[str, float]], None]

FAILED_IN_A_ROW = 10  # episodes without one that was finished between them: the environment is broken


class Due:
    """What is due after an iteration."""

    def __init__(self, env_steps: int, eval_every: int | None, checkpoint_every: int):
        self.env_steps, self._eval_every, self._checkpoint_every = env_steps, eval_every, checkpoint_every

    def over(self, experience: Experience) -> bool:
        return experience.env_steps >= self.env_steps and experience.updates_left == 0

    def evaluation(self, experience: Experience) -> bool:
        if self._eval_every is None:
            return False
        return self.over(experience) or experience.iterations % self._eval_every == 0

    def checkpoint(self, experience: Experience) -> bool:
        regular = experience.iterations % self._checkpoint_every == 0
        return regular or self.over(experience) or self.evaluation(experience)


class Round(NamedTuple):
    """What an iteration has played."""

    episodes: list[Episode]
    returns: list[float]  # of the environment's own rewards
    failures: list[FailedEpisode]
    failed_in_a_row: int  # the last of the failures, with no finished episode after them
    seconds: float

    def error(self) -> RuntimeError | None:
        """What ends the run where the environment is broken."""
        if self.failed_in_a_row < FAILED_IN_A_ROW:
            return None
        last = self.failures[-1]
        return RuntimeError(
            f"environment: {self.failed_in_a_row} episodes in a row failed, the last one with {last}\n"
            f"{last.traceback}"
        )


class Iterations:
    """Iterations of a run in progress.

    Args:
        start, session, experience, collector: its parts. online: its settings. seed: of what it plays.
    """

    def __init__(
        self,
        start: Start,
        session: Session,
        experience: Experience,
        collector: Collector,
        online: OnlineConfig,
        seed: int,
    ):
        self.learner: Algorithm = start.learner
        self.session, self.experience, self.collector = session, experience, collector
        self.online, self.seed = online, seed
        targets = self.learner.config.target_returns
        self._full_return = online.target_return if online.target_return is not None else doubled(targets)
        self._data_return = float(transformed_returns(self.learner.config, self.learner.data).mean())
        self.steps = TrainingSteps(
            self.learner,
            experience.buffer,
            session.generator,
            eager="the replay buffer changes between iterations",
            report=partial(record_updates, session.run, self.learner),
        )
        self._error: RuntimeError | None = None  # of the latest round
        self._seconds: dict[str, float] = {}

    def run(
        self,
        due: Due,
        keep_last: int | None,
        evaluate: Evaluate | None,
        stop: Callable[[], bool] | None,
        progress: Progress | None,
    ) -> None:
        """Iterate until enough is played, or somebody says stop.

        Raises:
            RuntimeError: the environment is broken. The iteration is finished before with the episodes that
                it has, where there are any, and all is saved.
        """
        experience, session = self.experience, self.session
        if experience.iterations == 0 and experience.updates_left == 0:
            session.save(keep_last)
        if experience.updates_left == 0 and due.evaluation(experience):
            session.evaluate_once(self._counted(evaluate))  # of the start, or one that a kill left out
        while not due.over(experience):
            self._iterate(stop, keep_last)
            if experience.updates_left:  # somebody said stop
                session.save(keep_last)
                return
            experience.iterations += 1
            session.log_window(self._numbers())
            if self._error is not None:
                session.save(keep_last)
                raise self._error
            if due.checkpoint(experience):
                session.save(keep_last)
            if due.evaluation(experience):
                session.evaluate_once(self._counted(evaluate))
            if progress:
                progress(experience.env_steps, due.env_steps, session.latest)
            if stop is not None and stop():
                session.save(keep_last)
                return

    def _iterate(self, stop: Callable[[], bool] | None, keep_last: int | None) -> None:
        """Play and learn, or what is left of it; less where somebody says stop."""
        experience = self.experience
        if experience.updates_left:
            self._learn(stop)
            return
        self.collector.take(self.learner.exports["model"], self.learner.exports.get("critic"))
        experience.updates_left = self.online.updates_per_iteration * self.learner.period
        if self.online.overlap and experience.buffer.num_episodes:
            with threads(1) as pool:
                playing = pool.submit(self._play, experience.started)
                try:
                    self._learn(None)
                finally:
                    wait([playing])
            self._enter(playing.result(), keep_last)
            return
        self._enter(self._play(experience.started), keep_last)
        self._learn(stop)

    def _play(self, first: int) -> Round:
        """An iteration's episodes, from the number `first` on, with the policy that the collector has."""
        began, played = time.perf_counter(), Round([], [], [], 0, 0.0)
        steps = failed = 0
        while not played.episodes or steps < self.online.steps_per_iteration:
            collection = self.collector.collect(self._tasks(first))
            first += self.online.episodes_per_iteration
            steps += sum(collected.played.length for collected in collection.episodes)
            played.episodes.extend(collected.episode for collected in collection.episodes)
            played.returns.extend(collected.played.episode_return for collected in collection.episodes)
            played.failures.extend(collection.failures)
            failed = 0 if collection.episodes else failed + len(collection.failures)
            if failed >= FAILED_IN_A_ROW:
                break
        return played._replace(failed_in_a_row=failed, seconds=time.perf_counter() - began)

    def _tasks(self, first: int) -> list[CollectionTask]:
        online = self.online
        return [
            CollectionTask(
                seed=episode_seed(self.seed, number),
                target_return=online.asked_return(self._full_return, self._data_return, number),
                guide_steps=online.guided_steps(number),
            )
            for number in range(first, first + online.episodes_per_iteration)
        ]

    def _enter(self, played: Round, keep_last: int | None) -> None:
        """Remember what was played. The failures at the end of a round of a broken environment do not count:
        whoever resumes tries these episodes again."""
        for failure in played.failures:
            warnings.warn(f"collection: {failure}; the episode is lost", RuntimeWarning, stacklevel=5)
        experience, self._error = self.experience, played.error()
        if not played.episodes:
            experience.updates_left = 0
            self.session.save(keep_last)
            raise self._error
        experience.failed += len(played.failures) - played.failed_in_a_row
        experience.add(played.episodes)
        experience.latest = {
            "online/return_mean": float(np.mean(played.returns)),
            "online/length_mean": float(np.mean([len(episode.actions) for episode in played.episodes])),
        }
        self._seconds = {"time/collect_s": played.seconds}

    def _learn(self, stop: Callable[[], bool] | None) -> None:
        """Make the updates that are left of an iteration, unless somebody says stop."""
        began = time.perf_counter()
        while self.experience.updates_left:
            before = self.session.step
            self.steps.make(self.experience.updates_left, self.session.window)
            self.experience.updates_left -= self.session.step - before
            if stop is not None and stop():
                break
        self._seconds["time/update_s"] = time.perf_counter() - began

    def _numbers(self) -> dict[str, float]:
        """What to log of an iteration besides the losses."""
        experience, buffer = self.experience, self.experience.buffer
        numbers = {
            "online/env_steps": experience.env_steps,
            "online/episodes": experience.episodes,
            "online/failed_episodes": experience.failed,
            "buffer/episodes": buffer.num_episodes,
            "buffer/steps": buffer.num_steps,
            "buffer/return_mean": float(buffer.episode_returns.mean()),
        }
        return numbers | experience.latest | self._seconds

    def _counted(self, evaluate: Evaluate) -> Evaluate:
        """`evaluate`, whose scores say after how many steps of the environment they are."""

        def counted(step: int, run: Path) -> dict[str, float]:
            return evaluate(step, run) | {"env_steps": self.experience.env_steps}

        return counted


def episode_seed(seed: int, number: int) -> int:
    """Seed of the number-th episode that a run plays, from 0 on; below 2^31."""
    return stream_seed(seed, f"episode {number}") % 2**31
