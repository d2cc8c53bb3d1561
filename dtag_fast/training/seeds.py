"""Several seeds of one configuration in one process; each leaves a run folder.

    OUT/seed-K/     the run of seed K, as `train` leaves it: any of them can be resumed and evaluated alone

Every seed sees the batches, and draws the noise, of its single run, and is trained as that is: as part of one
batched model, within rounding (algorithms/stacking.py), or, where its algorithm has a reason for that
(`Algorithm.why_in_turn`), in its turn, bit for bit on a CPU (turns.py). Only where a single run of a sequence
policy has the kernels of a GPU, which take one seed, is its dropout drawn by other means, of the same
distribution.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dtag_fast.algorithms import Algorithm, create, parallel
from dtag_fast.algorithms.stacking import Stack
from dtag_fast.data import TrajectoryStore
from dtag_fast.data.seed_sampler import SeedSampler
from dtag_fast.ops.per_seed import Generators
from dtag_fast.training.capture import STEPS_PER_REPLAY, TrainingSteps
from dtag_fast.training.checkpoint import delete_checkpoint, newest_checkpoint
from dtag_fast.training.critic import load_trained_critic
from dtag_fast.training.loggers import Logger
from dtag_fast.training.loop import (
    Precision,
    Progress,
    make_updates,
    numbers_in,
    why_eager,
)
from dtag_fast.training.metrics import WindowMeans
from dtag_fast.training.plan import Plan, both_or_neither
from dtag_fast.training.run_folder import (
    default_config,
    describe_run,
    open_run,
    record_execution,
    refuse_used,
    sole_writer,
)
from dtag_fast.training.session import Evaluate, Session
from dtag_fast.training.turns import SeedTurns


def train_seeds(
    algorithm: str,
    store: TrajectoryStore,
    *,
    out: str | os.PathLike,
    seeds: int,
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
    resume: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    loggers: Callable[[], Sequence[Logger]] = tuple,
    precision: Precision | None = None,
    capture: bool | None = None,
    steps_per_replay: int = STEPS_PER_REPLAY,
) -> list[Path]:
    """Train `seeds` seeds, from `seed` on, together, and write a run folder OUT/seed-K for each.

    Every one of them is within rounding what `train(..., seed=K)` gives with the same operators, and the same
    bits on a CPU where seeds go in turn, as "execution" in the config.json of each says. The same
    arguments give the same bits on a CPU, killed and resumed or not. A critic is shared by all seeds.

    Args:
        out: folder of the run folders, each of which must be empty or absent unless resume.
        resume: go on from the newest checkpoints, which must be of the same update in all runs.
        progress: receives the means of the metrics over the seeds.
        loggers: makes those of one run; called for each.
        steps_per_replay: updates in a CUDA graph, or in a seed's turn; `stop` is asked after them.
        The others as for `train`; `evaluate` is called for each run.
    Returns:
        The run folders, in the order of the seeds.
    Raises:
        ValueError: `seeds` is below 1, or several processes train; runs that stand at different updates. All
            that `train` raises besides; nothing is written then.
        FloatingPointError: a seed diverged: its diverged.json is written, and the other seeds are saved.
    """
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds: expected a positive integer, got {seeds!r}")
    if parallel.world() > 1:
        raise ValueError(
            f"seeds: one process trains all of them, got {parallel.world()}; leave torchrun or seeds out"
        )
    plan = Plan(
        updates=updates,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep_last=keep_last,
        eval_every=eval_every,
        validate_every=None,
        steps_per_replay=steps_per_replay,
    )
    both_or_neither(eval_every=eval_every, evaluate=evaluate)
    eager = why_eager(device, capture, precision)

    numbers = range(seed, seed + seeds)
    runs = [Path(out) / f"seed-{number}" for number in numbers]
    trained, identity = (None, None) if critic is None else load_trained_critic(critic, store)
    learners = [
        create(algorithm, store, config, seed=k, device=device, capturable=eager is None, critic=trained)
        for k in numbers
    ]
    used = learners[0].config
    with ExitStack() as held:
        for run in runs:
            held.enter_context(sole_writer(run))
        description = describe_run(algorithm, used, store, seed, str(device), critic=identity)
        description |= {"precision": precision, "compile": False}
        half_saved = left_by_a_kill(runs) if resume else []
        for run in () if resume else runs:
            refuse_used(run)  # before the first is begun
        for run, number in zip(runs, numbers, strict=True):
            open_run(run, description | {"seed": number}, resume, default_config(used))
        for checkpoint in half_saved:
            delete_checkpoint(checkpoint)
        held.enter_context(numbers_in(precision, learners[0].device))

        turns = why_in_turn(learners)
        stack = Stack(learners) if turns is None else None
        sampler = learners[0].make_sampler(store)
        sessions = [
            Session(*each, sampler, store, k) for *each, k in zip(runs, learners, numbers, strict=True)
        ]
        for session, number in zip(sessions, numbers, strict=True):
            session.restore(keep_last)
            held.enter_context(session.heard_by(loggers(), description | {"seed": number}))
        generators = [session.generator for session in sessions]
        if stack is None:
            steps = SeedTurns(learners, sampler, generators, steps_per_replay)
            _record(runs, f"one by one: {eager}", f"{seeds} seeds in turn ({turns})")
        else:
            stack.take_optimizers()
            steps = TrainingSteps(
                stack.learner,
                SeedSampler(sampler),
                Generators(generators),
                eager=eager,
                insist=capture is True,
                steps_per_replay=steps_per_replay,
                # the kernels take one seed and so no part in it
                report=partial(_record, runs, how=f"{seeds} seeds stacked, by PyTorch's operators"),
            )
        make_updates(plan, SeedSessions(sessions, stack, keep_last), steps, evaluate, None, stop, progress)
    return runs


def why_in_turn(learners: Sequence[Algorithm]) -> str | None:
    """Why these learners, one for each seed, are updated in turn and not stacked, or None."""
    reasons = [None if learner.capturable else learner.why_in_turn() for learner in learners]
    return None if None in reasons else reasons[0]


class SeedSessions:
    """The sessions of several seeds as the one that the loop sees.

    Args:
        sessions: restored, all at the same update. stack: of their learners, None where these are updated
            themselves. keep_last: of the checkpoints that are written when one of them diverges.
    """

    def __init__(self, sessions: Sequence[Session], stack: Stack | None, keep_last: int | None):
        self._sessions, self._stack, self._keep_last = sessions, stack, keep_last
        self.window = WindowMeans.together([session.window for session in sessions])

    @property
    def step(self) -> int:
        return (self._stack or self._sessions[0]).learner.updates_done

    @property
    def latest(self) -> dict[str, float]:
        """The newest record, means over the seeds."""
        records = [session.latest for session in self._sessions]
        return {name: sum(record[name] for record in records) / len(records) for name in records[0]}

    def log_window(self) -> None:
        self._part()
        _, diverged = self._try(Session.log_window)
        self.window.reset()
        if diverged:
            self._stop(diverged)

    def save(self, keep_last: int | None) -> None:
        """All are written before the first is published, so that a kill leaves all at one update."""
        self._part()
        self._give_back()
        written, diverged = self._try(Session.write)
        for session, checkpoint in written.items():
            session.publish(checkpoint, keep_last)
        if diverged:
            self._stop(diverged)

    def evaluate_once(self, evaluate: Evaluate) -> None:
        for session in self._sessions:
            began = time.perf_counter()
            session.evaluate_once(evaluate)
            for other in self._sessions:
                if other is not session:
                    other.pause(time.perf_counter() - began)

    def _part(self) -> None:
        """Give every session its window and the number of updates."""
        if self._stack is not None:
            self._stack.give_counts()
        for i, session in enumerate(self._sessions):
            session.window = self.window.of_seed(i)

    def _give_back(self) -> None:
        if self._stack is not None:
            self._stack.give_back()

    def _try(self, action: Callable[[Session], Any]) -> tuple[dict[Session, Any], dict[Session, Exception]]:
        """What the action gave of each session, and the errors of those that have diverged."""
        done: dict[Session, Any] = {}
        diverged: dict[Session, Exception] = {}
        for session in self._sessions:
            try:
                done[session] = action(session)
            except FloatingPointError as error:
                diverged[session] = error
        return done, diverged

    def _stop(self, diverged: dict[Session, Exception]) -> None:
        """Save the other seeds and say which have diverged."""
        self._give_back()
        others = [session for session in self._sessions if session not in diverged]
        for session in others:
            session.save(self._keep_last)
        said = "; ".join(f"{session.run.name}: {error}" for session, error in diverged.items())
        if others:
            said += f"; the other seeds are saved at update {self.step}, resume each alone"
        raise FloatingPointError(said) from next(iter(diverged.values()))


def left_by_a_kill(runs: Sequence[Path]) -> list[Path]:
    """Checkpoints that a process killed while it saved wrote for some of the seeds only, to be deleted.

    They are whole but not published: the link `last` names an earlier one.

    Raises:
        ValueError: the runs stand at different updates without them.
    """
    left = []
    newest = [_step(newest_checkpoint(run)) for run in runs]
    if len(set(newest)) > 1:
        published = [_published(run) for run in runs]
        for run, step, last in zip(runs, newest, published, strict=True):
            if last < step:
                left.append(run / "checkpoints" / str(step))
        newest = published
    if len(set(newest)) > 1:
        behind = [run for run, step in zip(runs, newest, strict=True) if step < max(newest)]
        named = ", ".join(f"{run.name} at {step}" for run, step in zip(runs, newest, strict=True))
        raise ValueError(
            f"resume: expected all runs at the same update, got {named}; bring "
            f"{', '.join(run.name for run in behind)} to {max(newest)} updates first, each alone"
        )
    return left


def _step(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name)


def _published(run: Path) -> int:
    """Step of the checkpoint that `last` names, 0 where there is none."""
    last = run / "checkpoints" / "last"
    return int(os.readlink(last)) if last.is_symlink() else 0


def _record(runs: Sequence[Path], execution: str, how: str) -> None:
    """Note in every run how its updates are made."""
    for run in runs:
        record_execution(run, f"{execution}; {how}")
