"""The training loop: sample, update, log, checkpoint, evaluate; resumable at any moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Generator

from dtag_fast.algorithms import Algorithm, create, parallel, stream_seed
from dtag_fast.data import TrajectoryStore
from dtag_fast.training.capture import STEPS_PER_REPLAY, TrainingSteps, why_not_capture
from dtag_fast.training.checkpoint import (
    RunInfo,
    library_versions,
    load_training_state,
    newest_checkpoint,
    publish_checkpoint,
    save_checkpoint,
)
from dtag_fast.training.critic import load_trained_critic
from dtag_fast.training.files import point_link, write_json
from dtag_fast.training.loggers import Logger
from dtag_fast.training.metrics import Diverged, MetricsLog, WindowMeans
from dtag_fast.training.run_folder import (
    default_config,
    describe_run,
    open_run,
    record_execution,
    sole_writer,
)
from dtag_fast.training.validation import Validation, split_episodes

Progress = Callable[[int, int, dict[str, float]], None]
Evaluate = Callable[[int, Path], dict[str, float]]

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
        last one,
            with that step's checkpoint written; the numbers it returns are logged as "eval/...". The
            highest normalized_score (where there is none, return_mean) of all makes a checkpoint the best.
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
    if (evaluate is None) != (eval_every is None):
        raise ValueError("eval_every: expected together with evaluate, got only one of them")
    if (holdout is None) != (validate_every is None):
        raise ValueError("validate_every: expected together with holdout, got only one of them")
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
        for logger in loggers if parallel.rank() == 0 else ():
            logger.begin(run, session.step, description)
            held.callback(logger.close)
            session.loggers.append(logger)
        steps = TrainingSteps(
            learner,
            sampler,
            session.generator,
            eager=eager,
            insist=capture is True,
            steps_per_replay=steps_per_replay,
            report=partial(_record, run, learner) if parallel.rank() == 0 else None,
        )
        validation = None if held_out is None else Validation(learner, held_out, seed)
        validate = None if validation is None else partial(session.validate, validation)
        make_updates(plan, session, steps, evaluate, validate, stop, progress)
        parallel.wait_for_all()
    return run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many updates, and after how many of them something is due; None: never. Fields as `train` has them.

    Raises:
        ValueError: one is not a positive integer.
    """

    updates: int
    log_every: int
    checkpoint_every: int
    keep_last: int | None
    eval_every: int | None
    validate_every: int | None
    steps_per_replay: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            optional = name in ("keep_last", "eval_every", "validate_every") and value is None
            if not optional and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")

    def evaluation_due(self, step: int) -> bool:
        return self.eval_every is not None and (step % self.eval_every == 0 or step == self.updates)

    def validation_due(self, step: int) -> bool:
        return self.validate_every is not None and (step % self.validate_every == 0 or step == self.updates)

    def checkpoint_due(self, step: int) -> bool:
        return self.evaluation_due(step) or step % self.checkpoint_every == 0 or step == self.updates

    def most(self, step: int) -> int:
        """Updates from `step` on that may be made before something is due."""
        periods = (self.log_every, self.checkpoint_every, self.eval_every, self.validate_every)
        return until_due(step, self.updates, [p for p in periods if p is not None])


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
    steps: TrainingSteps,
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
        count, sums = steps.advance(plan.most(session.step))
        session.window.add(sums, count)
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


def _record(run: Path, learner: Algorithm, execution: str) -> None:
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


def until_due(step: int, updates: int, periods: list[int]) -> int:
    """Updates from `step` to the next multiple of a period, or to the end at `updates`."""
    return min(updates - step, *(period - step % period for period in periods))


def best_step(records: list[dict[str, Any]]) -> int | None:
    """Step of the evaluation with the highest score, the first on ties; None if none has a score.

    The score of an evaluation of several target returns is that of its best one. Normalised scores go before
    returns.
    """
    for name in ("normalized_score", "return_mean"):
        scores: dict[int, float] = {}
        for record in records:
            found = [v for k, v in record.items() if k.startswith("eval/") and k.rpartition("/")[2] == name]
            if found:
                scores[record["step"]] = max(found)
        if scores:
            return max(scores, key=scores.__getitem__)
    return None


class Progressing(Protocol):
    """What `make_updates` needs of a run, or of several that are trained together."""

    window: WindowMeans
    latest: dict[str, float]

    @property
    def step(self) -> int: ...

    def log_window(self) -> None: ...

    def save(self, keep_last: int | None) -> None: ...

    def evaluate_once(self, evaluate: Evaluate) -> None: ...


class Session:
    """The parts of a run in progress, and how they are saved and restored together."""

    def __init__(self, run: Path, learner: Algorithm, sampler, store: TrajectoryStore, seed: int):
        self.run, self.learner, self.sampler = run, learner, sampler
        self.seed, self.metadata = seed, store.metadata
        self.generator = Generator(learner.device).manual_seed(stream_seed(seed, "batches"))
        self.window = WindowMeans()
        self.latest: dict[str, float] = {}
        self.loggers: list[Logger] = []
        self._before = 0.0  # training seconds of earlier processes
        self._started = self._window_started = time.perf_counter()

    @property
    def step(self) -> int:
        return self.learner.updates_done

    def restore(self, keep_last: int | None) -> None:
        """Go back to the newest checkpoint, if any, and finish what its writer may have left undone."""
        checkpoint = newest_checkpoint(self.run)
        if checkpoint is not None:
            state = load_training_state(checkpoint, self.learner.exports)
            self.learner.load_state_dict(state["learner"])
            self._take_noise(state.get("other_noise", []))
            self.generator.set_state(state["generator"])
            self.window.load_state_dict(state["window"])
            self._before = state["seconds"]
        parallel.wait_for_all()  # until all have read: old checkpoints may go now
        self.log = MetricsLog(self.run, self.step) if parallel.rank() == 0 else None
        if checkpoint is not None and self.log is not None:
            self.publish(checkpoint, keep_last)
        self._mark()
        self._started = self._window_started = time.perf_counter()

    def save(self, keep_last: int | None) -> None:
        if (written := self.write()) is not None:
            self.publish(written, keep_last)

    def publish(self, checkpoint: Path, keep_last: int | None) -> None:
        publish_checkpoint(checkpoint, keep_last, best_step(self.log.records))

    def write(self) -> Path | None:
        """A checkpoint that is not the last one yet; None in a process that does not write."""
        self._means()  # refuses to save a diverged run
        noise = parallel.gather(self.learner.generator.get_state())
        if self.log is None:
            return None
        state = {
            "learner": self.learner.state_dict(),
            "generator": self.generator.get_state(),
            "window": self.window.state_dict(),
            "seconds": self._seconds(),
            "other_noise": noise[1:],  # the states of the other processes' generators of dropout
        }
        return save_checkpoint(self.run, self._info(), self.learner.exports, state)

    def log_window(self) -> None:
        means = {f"train/{name}": value for name, value in self._means().items()}
        now = time.perf_counter()
        self.latest = means | {
            "speed/updates_per_s": self.window.count / (now - self._window_started),
            "time/seconds": self._seconds(),
        }
        self._append(self.latest)
        self.window.reset()
        self._mark()
        self._window_started = now

    def validate(self, validation: Validation) -> None:
        began = time.perf_counter()
        self._append({f"valid/{name}": value for name, value in validation().items()})
        self.pause(time.perf_counter() - began)

    def pause(self, seconds: float) -> None:
        """Seconds and speed are those of training."""
        self._started += seconds
        self._window_started += seconds

    def _append(self, numbers: dict[str, float]) -> None:
        """A record for the log and for the loggers."""
        if self.log is None:
            return
        record = {"step": self.step} | numbers
        self.log.append(record)
        for logger in self.loggers:
            logger.write(record)

    def _take_noise(self, others: list[torch.Tensor]) -> None:
        """Go on with this process's own dropout; one that was not there before begins a stream of its own."""
        rank = parallel.rank()
        if 0 < rank <= len(others):
            self.learner.generator.set_state(others[rank - 1])
        elif rank:
            stream = f"dropout of process {rank} from update {self.step}"
            self.learner.generator.manual_seed(stream_seed(self.seed, stream))

    def _mark(self) -> None:
        """Remember where the batches of this window, or of what this process makes of it, begin."""
        self._marked = self.window.count, self.generator.get_state()

    def _means(self) -> dict[str, float]:
        try:
            return self.window.means()
        except Diverged as error:
            raise FloatingPointError(f"{error} ({self._explain(error)})") from error

    def _explain(self, error: Diverged) -> str:
        """Write diverged.json, and say what is in it."""
        counted, state = self._marked
        self.sampler.batch_size *= parallel.world()  # the batch of all processes
        self.sampler.share = 0, 1
        generator = Generator(self.generator.device)
        generator.set_state(state)
        began = self.step - self.window.count
        batches = []
        for number in range(counted + 1, error.last + 1):
            drawn = self.sampler.draw(generator)
            if number >= error.first:
                rows = {name: rows.tolist() for name, rows in drawn.items()}
                batches.append({"update": began + number} | rows)
        path = self.run / "diverged.json"
        if self.log is not None:
            write_json(path, {"metric": error.name, "value": str(error.value), "batches": batches})
        updates = " to ".join(dict.fromkeys(str(began + number) for number in (error.first, error.last)))
        return f"at update {updates}, whose batch is in {path}"

    def evaluate_once(self, evaluate: Evaluate) -> None:
        if self.log is None or self.log.has(self.step, "eval/"):
            return
        began = time.perf_counter()
        with torch.autocast(self.learner.device.type, enabled=False):  # acts as its checkpoint will
            result = evaluate(self.step, self.run)
        self.pause(time.perf_counter() - began)
        self._append({f"eval/{name}": value for name, value in result.items()})
        if best_step(self.log.records) == self.step:
            point_link(self.run / "checkpoints" / "best", str(self.step))

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._started

    def _info(self) -> RunInfo:
        learner, data = self.learner, self.learner.data
        keys = ("env_id", "env_spec", "max_episode_steps", "dataset_id", "observation_keys")
        keys += ("ref_min_score", "ref_max_score", "ref_source", "discrete_actions")
        return RunInfo(
            algorithm=learner.name,
            kind=learner.kind,
            step=self.step,
            seed=self.seed,
            state_dim=data.state_dim,
            action_dim=data.action_dim,
            state_mean=data.state_mean.tolist(),
            state_std=data.state_std.tolist(),
            action_low=data.action_low,
            action_high=data.action_high,
            best_return=float(data.returns.max()),
            dataset_fingerprint=self.metadata.get("fingerprint"),
            config=vars(learner.config).copy(),
            versions=library_versions(),
            **{key: self.metadata.get(key) for key in keys},
            **learner.facts(),
        )
