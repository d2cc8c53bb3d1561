"""Jobs as tasks of a Ray cluster, which must see folders of runs and of data under the same paths."""

import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from dtag_fast.data.cache import CACHE_VARIABLE
from dtag_fast.data.catalog import ROOT_VARIABLE
from dtag_fast.executors.job import ATTEMPTS, Job, Outcome, Progress, attempt

KNOCK_SECONDS = 10.0
POLL_EVERY = 0.5  # seconds after which Python looks at pending signals
_PLACES = (ROOT_VARIABLE, CACHE_VARIABLE)
MISSING = "executor: ray needs the package ray, which is missing; pip install 'dtag_fast[cluster]'"


class RayCluster:
    """A running cluster, or a local one that is started and stopped here.

    Args:
        jobs: CPUs of a cluster that is started here; None for one per core. A running one has its own.
        address: see `make_executor`.
        device: "cpu", or "cuda" for tasks of one GPU each.

    Raises:
        ValueError: ray is not installed.
    """

    def __init__(self, jobs: int | None, address: str | None, device: str):
        if importlib.util.find_spec("ray") is None:
            raise ValueError(MISSING)
        self.workers, self._cpus, self._address, self._device = jobs or 1, jobs, address, device
        self._running: dict = {}  # object reference -> job
        self._ours = False

    def __enter__(self) -> "RayCluster":
        import ray

        if not ray.is_initialized():
            self._ours = True
            self._connect(ray)
        self.workers = max(1, int(ray.cluster_resources().get("GPU" if self._on_gpu else "CPU", 1)))
        # Of the tasks, not of the connection: a cluster may have been connected to before.
        needs = {"num_cpus": 1, "num_gpus": int(self._on_gpu), "runtime_env": {"env_vars": _places_of_data()}}
        # Errors of a job are outcomes; what Ray repeats is a job whose worker has died.
        self._task = ray.remote(**needs, max_retries=ATTEMPTS - 1)(attempt)
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()
        if self._ours:
            ray.shutdown()

    def run(self, jobs: Sequence[Job], progress: Progress) -> Iterator[Outcome]:
        import ray

        self._running = {self._task.remote(job): job for job in jobs}
        while self._running:
            done, _ = ray.wait(list(self._running), timeout=POLL_EVERY)
            for reference in done:
                job = self._running.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[0]
                    yield Outcome(job, None, RuntimeError(f"its Ray worker was lost, twice: {reason}"))
                else:
                    progress(job.units)
                    yield outcome

    @property
    def _on_gpu(self) -> bool:
        return self._device != "cpu"

    def _connect(self, ray) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        where = self._address or os.environ.get("RAY_ADDRESS")
        try:
            if where is not None:
                _knock(where)
            ray.init(address=where or "auto", **quiet)
        except OSError as error:
            if where is not None:
                raise OSError(
                    f"ray_address: no Ray cluster answers at {where!r} ({error}); start one, or leave the "
                    "address out"
                ) from error
            # Ray counts starts of clusters on a server of its maker, unless told not to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(num_cpus=self._cpus, include_dashboard=False, **quiet)


def _places_of_data() -> dict[str, str]:
    """Variables that say where datasets lie, as far as they are set here; workers have another environment
    and may have another working directory."""
    return {name: str(Path(os.environ[name]).absolute()) for name in _PLACES if os.environ.get(name)}


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at host:port; Ray itself tries for minutes. Other forms pass."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
