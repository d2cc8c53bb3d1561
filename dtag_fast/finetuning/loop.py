"""The online loop: play, remember, learn, evaluate; resumable at every checkpoint.

An iteration plays one round of episodes with the policy as it is, adds them to the replay buffer and makes a
fixed number of updates on windows from it (Zheng et al. 2022, algorithm 1; Yan et al. 2024).
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtag_fast.algorithms import Algorithm, stream_seed
from dtag_fast.algorithms.sequence import transformed_returns
from dtag_fast.data import Episode, TrajectoryStore, load_dataset
from dtag_fast.data.delayed_rewards import delayed
from dtag_fast.finetuning.experience import Experience
from dtag_fast.finetuning.settings import OnlineConfig, doubled, online_preset
from dtag_fast.finetuning.start import Start, begin
from dtag_fast.rollout.collection import CollectionTask, Collector, Exploration
from dtag_fast.rollout.faults import FailedEpisode
from dtag_fast.training.capture import TrainingSteps
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy
from dtag_fast.training.loggers import Logger
from dtag_fast.training.loop import Precision, numbers_in
from dtag_fast.training.run_folder import (
    as_json,
    default_config,
    describe_run,
    open_run,
    record_execution,
    sole_writer,
)
from dtag_fast.training.session import Evaluate, Session

Progress = Callable[[int, int, dict[str, float]], None]

# What a dataset says about its environment and nothing else.
_OF_THE_ENVIRONMENT = ("env_spec", "max_episode_steps", "ref_min_score", "ref_max_score", "ref_source")
FAILED_IN_A_ROW = 10  # episodes without one that was finished between them: the environment is broken


def finetune(
    run: str | os.PathLike,
    algorithm: str,
    *,
    out: str | os.PathLike,
    env_steps: int,
    store: TrajectoryStore | None = None,
    config: Any = None,
    online: OnlineConfig | None = None,
    critic: str | os.PathLike | None = None,
    seed: int = 0,
    device: str = "cpu",
    env_id: str | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int = 10,
    checkpoint_every: int = 10,
    keep_last: int | None = 1,
    env_processes: int | None = None,
    env_timeout: float | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    loggers: Sequence[Logger] = (),
    precision: Precision | None = None,
) -> Path:
    """Fine-tune a trained policy in its environment and write a run folder.

    The same arguments give the same parameters, bit for bit, on a CPU with the same number of threads; a
    run that was killed and resumed ends with the same bits as one that was not. What is played depends on
    the seed and the policy alone, not on where environments are stepped.

    Args:
        run: run or checkpoint folder of the policy to begin with.
        algorithm: "odt", "td3-odt" or another of `start.online_algorithms`.
        out: run folder; must be empty or absent unless resume.
        env_steps: to play in all, those before a resume included; the iteration that reaches it is finished.
        store: data for the buffer and the scales; None for the dataset of `run`.
        config: the algorithm's; None for `start.resolved_config`.
        online: of the online part; None for the preset of the dataset.
        critic: run or checkpoint folder of a critic to begin with.
        seed: of what is drawn while it trains and plays.
        env_id: environment to play in; None for the one of the data.
        evaluate: `evaluate(step, run folder)` is called before the first iteration, after every
            `eval_every`-th and after the last, with that step's checkpoint written; as in `train`.
        checkpoint_every: iterations between checkpoints; there is one at the start, at every evaluation and
            at the end too. keep_last: number of checkpoints to keep, the best one besides; None for all.
        env_processes, env_timeout: as `rollout.evaluate`.
        resume: go on from the newest checkpoint in `out`; from the start if there is none.
        progress: called after every iteration as progress(steps played, steps in all, latest metrics).
        stop: asked after every update, where collection overlaps with updates after every iteration; True
            saves a checkpoint and ends the run there.
        loggers, precision: as `train`.
    Returns:
        The run folder.
    Raises:
        FileExistsError, BlockingIOError, FileNotFoundError, FloatingPointError: as `train`.
        ValueError: a bad setting, a run that cannot be gone on with, or resume with other settings.
        RuntimeError: ten episodes in a row that the environment did not let finish; all is saved.
    """
    for name, value in {
        "env_steps": env_steps,
        "eval_every": eval_every,
        "checkpoint_every": checkpoint_every,
    }.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    out = Path(out)
    if store is None:
        store = data_of(run)
    online = online_preset(store.metadata) if online is None else online
    store = delayed(store, online.reward_delay)
    start = begin(run, algorithm, store, config, critic=critic, seed=seed, device=device)
    learner = start.learner
    with ExitStack() as held:
        held.enter_context(sole_writer(out))
        experience = Experience(learner.make_replay(online.buffer_capacity), store, online.offline_episodes)
        session = Session(out, learner, experience.buffer, store, seed, experience)
        if env_id is not None and env_id != session.metadata.get("env_id"):
            session.metadata = session.metadata | dict.fromkeys(_OF_THE_ENVIRONMENT) | {"env_id": env_id}
        places = {"env_id": env_id, "env_processes": env_processes, "env_timeout": env_timeout}
        collector = held.enter_context(_collector(start, session, online, places))
        description = describe_run(algorithm, learner.config, store, seed, str(device))
        played_in = env_id or start.info.env_id
        description |= as_json(
            {"start": start.identity, "online": asdict(online) | {"env_id": played_in}}
            | {"precision": precision}
        )
        open_run(out, description, resume, default_config(learner.config))
        record_execution(out, "one by one: the replay buffer changes between iterations")
        held.enter_context(numbers_in(precision, learner.device))
        session.restore(keep_last)
        held.enter_context(session.heard_by(loggers, description))
        loop = _Loop(start, session, experience, collector, online, seed)
        due = _Due(env_steps, eval_every if evaluate else None, checkpoint_every)
        loop.run(due, keep_last, evaluate, stop, progress)
    return out


def data_of(run: str | os.PathLike) -> TrajectoryStore:
    """The dataset that a run was trained on.

    Raises:
        ValueError: its checkpoint names none.
    """
    from dtag_fast.training.checkpoint import load_policy

    info = load_policy(run).info
    if info.dataset_id is None:
        raise ValueError(f"data: {run} does not name the dataset it was trained on; give it")
    return load_dataset(info.dataset_id, observation_keys=info.observation_keys)


def _collector(start: Start, session: Session, online: OnlineConfig, places: dict[str, Any]) -> Collector:
    learner = start.learner
    kind = learner.exploration if online.exploration == "default" else online.exploration
    info = session.info()
    critic = None
    if online.ag is not None:
        if "critic" not in learner.exports:
            raise ValueError(
                f"explore_ag_steps: {learner.name} trains no critic to climb; leave it out, or take td3-odt"
            )
        critic = LoadedCritic(copy.deepcopy(learner.exports["critic"]), info)
    return Collector(
        LoadedPolicy(copy.deepcopy(learner.exports["model"]), info),
        slots=online.episodes_per_iteration,
        exploration=Exploration(kind, online.exploration_noise),
        critic=critic,
        ag=online.ag,
        guide=start.pretrained if online.guide_steps else None,
        reward_delay=online.reward_delay,
        **places,
    )


class _Due:
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


class _Round(NamedTuple):
    """What an iteration has played."""

    episodes: list[Episode]
    returns: list[float]  # of the environment's own rewards
    failures: list[FailedEpisode]
    seconds: float


class _Loop:
    """Iterations of a run in progress."""

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
            self.learner, experience.buffer, session.generator, eager="the replay buffer changes"
        )
        self._failed_in_a_row = 0
        self._seconds: dict[str, float] = {}

    def run(
        self,
        due: _Due,
        keep_last: int | None,
        evaluate: Evaluate | None,
        stop: Callable[[], bool] | None,
        progress: Progress | None,
    ) -> None:
        """Iterate until enough is played, or somebody says stop."""
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
            with ThreadPoolExecutor(1) as pool:
                playing = pool.submit(self._play, experience.started)
                self._learn(None)
                self._enter(playing.result(), keep_last)
            return
        self._enter(self._play(experience.started), keep_last)
        self._learn(stop)

    def _play(self, first: int) -> _Round:
        """An iteration's episodes, from the number `first` on, with the policy that the collector has."""
        began, played = time.perf_counter(), _Round([], [], [], 0.0)
        steps, failed = 0, self._failed_in_a_row
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
        self._failed_in_a_row = failed
        return played._replace(seconds=time.perf_counter() - began)

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

    def _enter(self, played: _Round, keep_last: int | None) -> None:
        """Remember what was played."""
        for failure in played.failures:
            warnings.warn(f"collection: {failure}; the episode is lost", RuntimeWarning, stacklevel=5)
        experience = self.experience
        if self._failed_in_a_row >= FAILED_IN_A_ROW:
            experience.updates_left = 0
            self.session.save(keep_last)
            last = played.failures[-1]
            raise RuntimeError(
                f"environment: {self._failed_in_a_row} episodes in a row failed, the last one with {last}\n"
                f"{last.traceback}"
            )
        experience.failed += len(played.failures)
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
