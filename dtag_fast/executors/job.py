"""What an executor runs, and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

ATTEMPTS = 2  # a job whose worker dies gets a second one

Progress = Callable[[int], None]  # units that were just finished, of jobs that still run


class Job(Protocol):
    """Work that can be sent to another process."""

    @property
    def units(self) -> int:
        """Of progress, in all."""

    def run(self, progress: Progress) -> Any:
        """Do it, in one thread of PyTorch; what it returns can be sent back."""


@dataclass(frozen=True)
class Outcome:
    """What a job returned, or why it returned nothing."""

    job: Any
    result: Any
    error: Exception | None = None


def attempt(job: Job, progress: Progress | None = None) -> Outcome:
    """Run a job whose errors come back as an outcome: other jobs do not depend on them."""
    try:
        return Outcome(job, job.run(progress or (lambda units: None)))
    except Exception as error:
        return Outcome(job, None, _plain(error))


def _plain(error: Exception) -> Exception:
    """An error that can be sent to another process: a user's error as its own kind, others by name."""
    if isinstance(error, (ValueError, OSError)):
        return (ValueError if isinstance(error, ValueError) else OSError)(str(error))
    if type(error).__module__ == "gymnasium.error":
        return ValueError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
