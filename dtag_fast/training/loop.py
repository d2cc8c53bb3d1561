"""The training loop: sample, update, log, checkpoint, evaluate; resumable at any moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from dtag_fast.algorithms import Algorithm, create, parallel
from dtag_fast.data import TrajectoryStore
from dtag_fast.training.capture import STEPS_PER_REPLAY, TrainingSteps, why_not_capture
from dtag_fast.training.critic import load_trained_critic
from dtag_fast.training.loggers import Logger
from dtag_fast.training.plan import Plan, both_or_neither
from dtag_fast.training.run_folder import (
    default_config,
    describe_run,
    open_run,
    record_execution,
    sole_writer,
)
from dtag_fast.training.session import Evaluate, Progressing, Session, Steps
from dtag_fast.training.validation import Validation, split_episodes

Progress = Callable[[int, int, dict[str, float]], None]

Precision = Literal["fp32", "tf32", "bf16"]

_PROGRESS_PERIOD = 0.1  # seconds


def train(
    algorithm: str,
    store: TrajectoryStore,
    *,
    out: str | os.PathLike,
    updates: int,
    config: Any = None,
    critic: str | os.PathLike | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    log_every: int = 100,
    checkpoint_every: int = 5_000,
    keep_last: int | None = None,
    eval_every: int | None = None,
    evaluate: Evaluate | None = None,
    holdout: float | None = None,
    validate_every: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    loggers: Sequence[Logger] = (),
    precision: Precision | None = None,
    compile: bool | str = False,
    capture: bool | None = None,
    steps_per_replay: int = STEPS_PER_REPLAY,
) -> Path:
    """Train on a store and write a run folder.

    The same arguments give the same parameters, bit for bit, on a CPU with the same number of threads; a
    run that was killed and resumed ends with the same bits as one that was not, and so does one that was
    evaluated between. On a GPU they agree within rounding.

    In a torch.distributed process group every process calls this; each takes its share of batches that are
    as many times larger, gradients are averaged, and process 0 writes and evaluates (algorithms/parallel.py).

    Args:
        algorithm: a key of `algorithms.ALGORITHMS`, such as "dt" or "iql".
        out: run folder; must be empty or absent unless resume.
        updates: gradient steps in all, those before a resume included; may be raised on resume.
        config: the algorithm's config; None for the preset of the dataset.
        critic: run or checkpoint folder of a critic trained before, for settings that learn from one. Its
            numbers are part of what a run is: they must be the same on resume.
        seed: of weights, dropout and batches.
        log_every: updates averaged into one record of metrics.
        checkpoint_every: updates between checkpoints; there is one at the end and at every evaluation too.
        keep_last: number of checkpoints to keep, the best one besides; None for all.
        eval_every, evaluate: `evaluate(step, run folder)` is called every so many updates and after the
            last one, with that step's checkpoint written; the numbers it returns are logged as "eval/...".
            The highest normalized_score (where there is none, return_mean) of all makes a checkpoint the
            best.
        holdout, validate_every: this fraction of the episodes is held out of the training, and every so many
            updates the errors on them are logged as "valid/..." (`Algorithm.validate`).
        resume: go on from the newest checkpoint in `out`; from the start if there is none.
        progress: called some ten times a second as progress(updates done, updates in all, latest metrics).
        loggers: other readers of the records (`TensorBoard`, `WandB`); metrics.jsonl and .csv are always
            written.
        precision: "fp32" (matrix products in float32 proper), "tf32" (in tf32 where the device has it),
            "bf16" (torch.autocast; weights, optimizer and losses stay float32); None: as the process is set.
        compile: networks through torch.compile; a name is that of its backend.
        stop: asked after every update, or every replay; True saves a checkpoint and ends the training there.
        capture: make updates by replays of CUDA graphs; None: where it is possible, False: never, True:
            always. What was done, and why, is "execution" in the run's config.json. A run may go on with
            another choice.
        steps_per_replay: updates in a CUDA graph. Logs, checkpoints and evaluations stay where they are due.
    Returns:
        The run folder.
    Raises:
        FileExistsError: `out` holds something and resume is False.
        BlockingIOError: another process is training into `out`.
        FileNotFoundError: there is no critic where `critic` says.
        ValueError: a bad setting, a critic that is missing, not used or of other dimensions, or resume with
            other settings or data than before, or capture=True on a device without CUDA graphs.
        RuntimeError: capture=True, and the updates cannot be captured.
        FloatingPointError: a loss is not finite; what was written before stays, and diverged.json in the
            run folder names the update and the episodes and steps of its batch.
    """
    plan = Plan(
        updates=updates,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep_last=keep_last,
        eval_every=eval_every,
        validate_every=validate_every,
        steps_per_replay=steps_per_replay,
    )
    both_or_neither(eval_every=eval_every, evaluate=evaluate)
    both_or_neither(validate_every=validate_every, holdout=holdout)
    eager = why_eager(device, capture, precision)

    run = Path(out)
    trained, identity = (None, None) if critic is None else load_trained_critic(critic, store)
    whole, held_out = store, None
    if holdout is not None:
        store, held_out = split_episodes(whole, holdout, seed)
    learner = create(
        algorithm, store, config, seed=seed, device=device, capturable=eager is None, critic=trained
    )
    with ExitStack() as held:
        if parallel.rank() == 0:
            held.enter_context(sole_writer(run))
            description = describe_run(
                algorithm, learner.config, whole, seed, str(device), critic=identity, holdout=holdout
            )
            description |= {"precision": precision, "compile": compile}
            open_run(run, description, resume, default_config(learner.config))
        parallel.wait_for_all()
        held.enter_context(numbers_in(precision, learner.device))
        if compile:
            for module in learner.modules.values():
                module.compile(**({"backend": compile} if isinstance(compile, str) else {}))
        sampler = learner.make_sampler(store)
        sampler.share = parallel.rank(), parallel.world()
        session = Session(run, learner, sampler, store, seed)
        session.restore(keep_last)
        if parallel.rank() == 0:
            held.enter_context(session.heard_by(loggers, description))
        steps = TrainingSteps(
            learner,
            sampler,
            session.generator,
            eager=eager,
            insist=capture is True,
            steps_per_replay=steps_per_replay,
            report=partial(record_updates, run, learner) if parallel.rank() == 0 else None,
        )
        validation = None if held_out is None else Validation(learner, held_out, seed)
        validate = None if validation is None else partial(session.validate, validation)
        make_updates(plan, session, steps, evaluate, validate, stop, progress)
        parallel.wait_for_all()
    return run


def why_eager(device: str | torch.device, capture: bool | None, precision: str | None) -> str | None:
    """Why updates shall be made one by one, or None where they shall be captured; arguments as `train`'s.

    Raises:
        ValueError: of `train`, about capture and precision.
    """
    if capture not in (None, False, True):
        raise ValueError(f"capture: expected True, False or None, got {capture!r}")
    if precision is not None and precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}")
    eager = "capture=False was asked for" if capture is False else why_not_capture(device)
    if eager is None and parallel.world() > 1:
        eager = "gradients are exchanged with other processes"
    if capture and eager:
        raise ValueError(f"capture: {eager}; leave it out to train without CUDA graphs")
    return eager


def make_updates(
    plan: Plan,
    session: Progressing,
    steps: Steps,
    evaluate: Evaluate | None = None,
    validate: Callable[[], None] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> None:
    """Make the updates that are left, and what is due on the way; arguments as `train` makes them."""
    if session.step and plan.evaluation_due(session.step):
        session.evaluate_once(evaluate)  # in case the run was killed between checkpoint and evaluation
    shown = 0.0
    while session.step < plan.updates:
        steps.make(plan.most(session.step), session.window)
        step = session.step
        if step % plan.log_every == 0:
            session.log_window()
        if plan.validation_due(step):
            validate()
        if plan.checkpoint_due(step):
            session.save(plan.keep_last)
        if plan.evaluation_due(step):
            session.evaluate_once(evaluate)
        # Several processes ask each other, which takes time, where they wait for each other anyway.
        asking = stop is not None and (parallel.world() == 1 or step % plan.log_every == 0)
        if asking and any(parallel.gather(stop())):
            session.save(plan.keep_last)
            break
        now = time.perf_counter()
        if progress and parallel.rank() == 0 and (now - shown > _PROGRESS_PERIOD or step == plan.updates):
            progress(step, plan.updates, session.latest)
            shown = now


def record_updates(run: Path, learner: Algorithm, execution: str) -> None:
    """Note in the run how its updates are made."""
    how = learner.explain() if execution.startswith("one by one") else None
    record_execution(run, execution if how is None else f"{execution}; {how}")


@contextmanager
def numbers_in(precision: Precision | None, device: torch.device) -> Iterator[None]:
    """Updates inside compute in this precision; afterwards the process is set as before."""
    before = torch.get_float32_matmul_precision()
    if precision is not None:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        # Its cache of rounded weights would outlive the updates that change them.
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
