"""Which processes there are, as Linux tells it, and what they hear."""

import signal
import time
from pathlib import Path


def parent_of(pid: int) -> int | None:
    """Its parent; None for a process that has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else int(parent)


def children_of(pid: int) -> list[int]:
    """Processes that step environments, whose parent this is and that have not ended."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and parent_of(int(folder.name)) == pid:
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:  # ended meanwhile
                continue
            if b"env_child" in command:
                found.append(int(folder.name))
    return found


def wait_until(condition, seconds=30.0):
    """Wait for `condition()`; an AssertionError if it does not come within `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


def hear_interrupts() -> None:
    """For `preexec_fn`: a script ignores Ctrl-C for what it runs in its background, tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
