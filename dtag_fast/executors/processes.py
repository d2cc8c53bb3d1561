"""Worker processes of this machine, one thread of PyTorch each; one that dies takes no other job along."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from dtag_fast.executors.job import ATTEMPTS, Job, Outcome, Progress, attempt

POLL_EVERY = 0.5  # seconds after which Python looks at pending signals


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    job: Job | None = None  # what it does


class Processes:
    """Up to `workers` processes, started when there are jobs for them and kept for later ones."""

    def __init__(self, workers: int):
        self.workers = workers
        self._crew: list[_Worker] = []
        # fork would copy the threads' locks of this process
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._crew:
            worker.process.kill()
        for worker in self._crew:
            worker.process.join()
            worker.pipe.close()
        self._crew.clear()

    def run(self, jobs: Sequence[Job], progress: Progress) -> Iterator[Outcome]:
        waiting = deque((job, 1) for job in jobs)
        attempts: dict[int, int] = {}  # id of a worker -> attempt of its job
        while waiting or any(worker.job for worker in self._crew):
            while waiting and (worker := self._idle()) is not None:
                job, attempts[id(worker)] = waiting.popleft()
                worker.job = job
                with suppress(BrokenPipeError):  # it has died; seen below
                    worker.pipe.send(job)
            busy = [worker for worker in self._crew if worker.job]
            ready = wait([worker.pipe for worker in busy], timeout=POLL_EVERY)
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    job, code = self._bury(worker)
                    attempt = attempts.pop(id(worker))
                    if attempt < ATTEMPTS:
                        waiting.appendleft((job, attempt + 1))
                    else:
                        yield Outcome(job, None, RuntimeError(f"its process ended with code {code}, twice"))
                    continue
                if isinstance(message, int):
                    progress(message)
                else:
                    worker.job = None
                    yield message

    def _idle(self) -> _Worker | None:
        """A worker without a job, a new one if all have some, None if there are enough."""
        for worker in self._crew:
            if worker.job is None:
                return worker
        if len(self._crew) == self.workers:
            return None
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()  # so that its end is noticed here
        self._crew.append(_Worker(process, ours))
        return self._crew[-1]

    def _bury(self, worker: _Worker) -> tuple[Job, int | None]:
        self._crew.remove(worker)
        worker.pipe.close()
        worker.process.join()
        return worker.job, worker.process.exitcode


def _work(pipe: Connection) -> None:
    """Body of a worker process: jobs come, finished units and outcomes go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    import torch

    torch.set_num_threads(1)
    try:
        while True:
            job = pipe.recv()
            pipe.send(attempt(job, pipe.send))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent has gone
