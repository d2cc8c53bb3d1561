"""Trains several models at once, one process and one thread each.

Small networks gain more from that than from threads inside their matrix products.
"""

import multiprocessing
import queue
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRESS_EVERY = 0.2  # seconds between two reports of a worker
POLL_EVERY = 0.5  # seconds after which a silent worker is looked at


@dataclass(frozen=True)
class TrainJob:
    """One call of `training.train`, sent to a worker process. `config` is the algorithm's Config."""

    name: str
    algorithm: str
    dataset: str
    cache_dir: Path
    out: Path
    config: Any
    updates: int
    seed: int
    resume: bool


def train_all(jobs: Sequence[TrainJob], progress: Callable[[str, int, int], None]) -> None:
    """Run all jobs side by side and wait for them.

    Args:
        jobs: independent trainings with distinct names.
        progress: called in this process with (name, updates done, updates in all).

    Raises:
        RuntimeError: a job failed; the others are stopped. Its run folder can be resumed.
    """
    context = multiprocessing.get_context("spawn")  # fork would copy the threads' locks of this process
    reports = context.Queue()
    workers = {
        job.name: context.Process(target=_work, args=(job, reports), name=job.name, daemon=True)
        for job in jobs
    }
    try:
        for worker in workers.values():
            worker.start()
        waiting = set(workers)
        while waiting:
            try:
                name, kind, value = reports.get(timeout=POLL_EVERY)
            except queue.Empty:
                for name in waiting:
                    if workers[name].exitcode is not None and reports.empty():
                        raise RuntimeError(
                            f"{name}: its process ended with code {workers[name].exitcode} before it was done"
                        ) from None
                continue
            if kind == "progress":
                progress(name, *value)
            elif kind == "done":
                waiting.discard(name)
            else:
                raise RuntimeError(f"{name}: training failed\n{value}")
        for worker in workers.values():
            worker.join()
    finally:
        for worker in workers.values():
            if worker.pid is not None and worker.is_alive():
                worker.terminate()
                worker.join()


def _work(job: TrainJob, reports) -> None:
    """Body of a worker process."""
    import torch

    from dtag_fast.data import load_dataset
    from dtag_fast.training import train

    last = 0.0

    def progress(done: int, total: int, _metrics: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY or done >= total:
            last = now
            reports.put((job.name, "progress", (done, total)))

    try:
        torch.set_num_threads(1)
        store = load_dataset(job.dataset, cache_dir=job.cache_dir)
        train(
            job.algorithm,
            store,
            out=job.out,
            config=job.config,
            updates=job.updates,
            seed=job.seed,
            resume=job.resume,
            progress=progress,
        )
        reports.put((job.name, "done", None))
    except KeyboardInterrupt:
        pass  # the parent got the same signal and stops everyone
    except Exception:
        reports.put((job.name, "failed", traceback.format_exc()))
