"""Ctrl-C that never falls into a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts:
    """While its context lasts, the first SIGINT waits for the end of `held` blocks, a second one does not.

    Either becomes KeyboardInterrupt. Outside the main thread, which gets no signals, nothing changes; nor
    where the process ignores SIGINT, as what a shell script runs in its background does.
    """

    def __init__(self):
        self._count, self._holding, self._pending = 0, False, False

    def __enter__(self) -> "Interrupts":
        self._before = None
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Finish this block first."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _handle(self, _signal: int, _frame: object) -> None:
        self._count += 1
        if self._holding and self._count == 1:
            self._pending = True
            return
        raise KeyboardInterrupt
