"""Online fine-tuning of a trained policy into a run folder of its own; resumable at every checkpoint."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dtag_fast.data import TrajectoryStore, load_dataset
from dtag_fast.data.delayed_rewards import delayed
from dtag_fast.data.played_env import played_in
from dtag_fast.finetuning.experience import Experience
from dtag_fast.finetuning.iterations import Due, Iterations, Progress
from dtag_fast.finetuning.settings import OnlineConfig, online_preset
from dtag_fast.finetuning.start import Start, begin
from dtag_fast.rollout.collection import Collector, Exploration
from dtag_fast.rollout.settings import expect_whole
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy, RunInfo, load_info
from dtag_fast.training.loggers import Logger
from dtag_fast.training.loop import Precision, numbers_in
from dtag_fast.training.run_folder import (
    as_json,
    default_config,
    describe_run,
    open_run,
    sole_writer,
)
from dtag_fast.training.session import Evaluate, Session


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
        env_id: environment to play in, see `data.played_env`; it is the new run's. None: that of the data,
            or the one that `run` was played in with these data.
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
        RuntimeError: ten episodes in a row that the environment did not let finish. What was finished before
            them is in the buffer, learned from and logged, and all is saved.
    """
    expect_whole("env_steps", env_steps, 1)
    expect_whole("eval_every", eval_every, 1)
    expect_whole("checkpoint_every", checkpoint_every, 1)
    if keep_last is not None:
        expect_whole("keep_last", keep_last, 1)
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
        session.metadata = played_in(session.metadata, env_id or _env_of_run(start.info, store))
        places = {"env_processes": env_processes, "env_timeout": env_timeout}
        collector = held.enter_context(_collector(start, session, online, places))
        description = describe_run(algorithm, learner.config, store, seed, str(device))
        description |= as_json(
            {"start": start.identity, "online": asdict(online) | {"env_id": session.metadata.get("env_id")}}
            | {"precision": precision}
        )
        open_run(out, description, resume, default_config(learner.config))
        held.enter_context(numbers_in(precision, learner.device))
        session.restore(keep_last)
        held.enter_context(session.heard_by(loggers, description))
        iterations = Iterations(start, session, experience, collector, online, seed)
        due = Due(env_steps, eval_every if evaluate else None, checkpoint_every)
        iterations.run(due, keep_last, evaluate, stop, progress)
    return out


def _env_of_run(info: RunInfo, store: TrajectoryStore) -> str | None:
    """The environment of a run that was played elsewhere than its data, these data being its own; else None.

    Such a run has no description of it, see `played_in`.
    """
    elsewhere = info.env_spec is None and info.dataset_id == store.metadata.get("dataset_id")
    return info.env_id if elsewhere else None


def data_of(run: str | os.PathLike) -> TrajectoryStore:
    """The dataset that a run was trained on.

    Raises:
        ValueError: its checkpoint names none.
    """
    info = load_info(run)
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
