"""Where jobs are run: in this process, in worker processes of this machine, or on a Ray cluster.

An executor is a context manager with `workers` and `run(jobs, progress)`, which yields an Outcome for every
job as soon as it is done, in any order. Leaving the context ends what still runs.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from dtag_fast.executors.job import Job, Outcome, Progress, attempt
from dtag_fast.rollout.settings import expect_whole


class Executor(Protocol):
    workers: int

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, jobs: Sequence[Job], progress: Progress) -> Iterator[Outcome]: ...


class InThisProcess:
    """One job after the other."""

    workers = 1

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, jobs: Sequence[Job], progress: Progress) -> Iterator[Outcome]:
        for job in jobs:
            yield attempt(job, progress)


def make_executor(
    kind: Literal["local", "ray"], jobs: int | None, device: str, ray_address: str | None
) -> Executor:
    """An executor, not started yet.

    Args:
        kind: "local" for processes of this machine.
        jobs: how many at once; 1 of "local" is this process. None: one per core this process may use, or 1 on
            a GPU; for Ray, the cluster's CPUs.
        ray_address: of a running cluster; None: RAY_ADDRESS or a cluster of this machine, else one that is
            started here and stopped in the end.

    Raises:
        ValueError: an unknown kind, a number below 1, or Ray is not installed.
    """
    if jobs is not None:
        expect_whole("jobs", jobs, 1)
    if kind == "ray":
        from dtag_fast.executors.ray_cluster import RayCluster

        return RayCluster(jobs, ray_address, device)
    if kind != "local":
        raise ValueError(f'executor: expected "local" or "ray", got {kind!r}')
    if ray_address is not None:
        raise ValueError(f'ray_address: is for executor "ray", got {ray_address!r} with "local"')
    if jobs is None:
        jobs = len(os.sched_getaffinity(0)) if device == "cpu" else 1
    if jobs == 1:
        return InThisProcess()
    from dtag_fast.executors.processes import Processes

    return Processes(jobs)
