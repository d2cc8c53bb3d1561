"""A run in progress: its learner, batches, log and checkpoints, saved and restored together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator

from dtag_fast.algorithms import Algorithm, parallel, stream_seed
from dtag_fast.data import TrajectoryStore
from dtag_fast.training.checkpoint import (
    RunInfo,
    library_versions,
    load_training_state,
    newest_checkpoint,
    publish_checkpoint,
    save_checkpoint,
)
from dtag_fast.training.files import point_link, write_json
from dtag_fast.training.loggers import Logger
from dtag_fast.training.metrics import Diverged, MetricsLog, WindowMeans
from dtag_fast.training.validation import Validation

Evaluate = Callable[[int, Path], dict[str, float]]


class Progressing(Protocol):
    """What `make_updates` needs of a run, or of several that are trained together."""

    window: WindowMeans
    latest: dict[str, float]

    @property
    def step(self) -> int: ...

    def log_window(self) -> None: ...

    def save(self, keep_last: int | None) -> None: ...

    def evaluate_once(self, evaluate: Evaluate) -> None: ...


class Steps(Protocol):
    """What makes the updates: `TrainingSteps`, or `SeedTurns` of several runs."""

    def make(self, most: int, window: WindowMeans) -> None: ...


class Stateful(Protocol):
    """What else a run consists of: its state is saved in every checkpoint and given back by `restore`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Session:
    """The parts of a run in progress, and how they are saved and restored together.

    Args:
        companion: what changes besides the learner, the experience of an agent say; None: nothing does.
    """

    def __init__(
        self,
        run: Path,
        learner: Algorithm,
        sampler,
        store: TrajectoryStore,
        seed: int,
        companion: Stateful | None = None,
    ):
        self.run, self.learner, self.sampler, self.companion = run, learner, sampler, companion
        self.seed, self.metadata = seed, store.metadata
        self.generator = Generator(learner.device).manual_seed(stream_seed(seed, "batches"))
        self.window = WindowMeans()
        self.latest: dict[str, float] = {}
        self._loggers: list[Logger] = []
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
            if self.companion is not None:
                self.companion.load_state_dict(state["companion"])
        parallel.wait_for_all()  # until all have read: old checkpoints may go now
        self.log = MetricsLog(self.run, self.step) if parallel.rank() == 0 else None
        if checkpoint is not None and self.log is not None:
            self.publish(checkpoint, keep_last)
        self._mark()
        self._started = self._window_started = time.perf_counter()

    @contextmanager
    def heard_by(self, loggers: Iterable[Logger], description: dict[str, Any]) -> Iterator[None]:
        """Records go to these loggers too, which are closed at the end; description: config.json."""
        with ExitStack() as held:
            for logger in loggers:
                logger.begin(self.run, self.step, description)
                held.callback(logger.close)
                self._loggers.append(logger)
            yield

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
        if self.companion is not None:
            state["companion"] = self.companion.state_dict()
        return save_checkpoint(self.run, self.info(), self.learner.exports, state)

    def log_window(self, more: dict[str, float] | None = None) -> None:
        """Log the means of the updates since the last record, and `more`."""
        means = {f"train/{name}": value for name, value in self._means().items()} | (more or {})
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
        for logger in self._loggers:
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

    def info(self) -> RunInfo:
        """What a checkpoint of this moment says about itself."""
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
