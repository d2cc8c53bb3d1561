"""Threads that an interrupt does not lose."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that is not joined here: await what it was given.

    Python 3.11 takes a thread for ended when an interrupt falls into its join, and aborts if that thread is
    still running when the interpreter ends.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)
