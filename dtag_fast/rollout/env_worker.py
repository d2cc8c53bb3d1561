"""One worker process of environments, as its parent sees it: the memory they share and what they say.

A child is a Python of its own that runs one `Environments` over its share of the slots. Observations,
actions, rewards and flags lie in memory that parent and children have mapped; a step is one byte to each
child through a socket and one byte back. A child that dies closes its socket, which its parent sees at once;
a parent that dies closes its own, upon which the children end. Semaphores would halve the hand-shake (2 us in
place of 5 where nothing is stepped, 2-core Intel Xeon with AMX) and tell neither.

Children are started by their command line and not by `multiprocessing`, which would run the user's script in
each of them once more.
"""

import contextlib
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import NamedTuple

import numpy as np

from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.environments import Seen
from dtag_fast.rollout.faults import Fault

STEP, RESET = b"s", b"r"  # to a child; after RESET a message, [(row, seed), ...], each answered on its own
DONE, MESSAGE = b"d", b"m"  # from a child; after MESSAGE one: faults by slot, or an exception
# Seconds after which a silent child is looked at: a process it forked may keep its socket open.
LOOK_EVERY = 1.0
END_WITHIN = 5.0  # seconds that a child has to close its environments


class ProcessDied(ChildProcessError):
    """A child process ended while it was needed."""


class TookTooLong(TimeoutError):
    """One reset or step took longer than it may; its child process has been ended.

    Attributes:
        row: the slot.
    """

    def __init__(self, row: int, timeout: float):
        super().__init__(
            f"the environment took longer than the {timeout:g} s that env_timeout allows a reset or a step; "
            "its worker process was ended"
        )
        self.row = row


class SharedArrays(NamedTuple):
    """Views on the shared memory of N environments, M of them in a child's view.

    seen: as `Environments` fills it. actions (M, A) float32; stepped (M,) bool, which slots to step.
    """

    seen: Seen
    actions: np.ndarray
    stepped: np.ndarray

    @classmethod
    def layout(cls, num_envs: int, kind: EnvironmentKind) -> list[tuple[int, type, tuple[int, ...]]]:
        """(offset, dtype, shape) of each array, and last the size of them all with shape ()."""
        n, places, offset = num_envs, [], 0
        shapes = [(np.float32, (n, kind.state_dim)), (np.float64, (n,)), (np.bool_, (n,)), (np.bool_, (n,))]
        shapes += [(np.float64, (n,))]
        shapes += [(np.float32, (n, kind.action_dim)), (np.bool_, (n,))]
        for dtype, shape in shapes:
            places.append((offset, dtype, shape))
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            offset += -(-size // 64) * 64  # arrays start on cache lines of their own
        return [*places, (offset, np.uint8, ())]

    @classmethod
    def of(cls, memory: int, num_envs: int, kind: EnvironmentKind, rows: slice) -> "SharedArrays":
        """The slots `rows` in the memory of this file descriptor."""
        *places, (size, _, _) = cls.layout(num_envs, kind)
        mapped = mmap.mmap(memory, size)
        arrays = [np.ndarray(shape, dtype, mapped, offset)[rows] for offset, dtype, shape in places]
        return cls(Seen(*arrays[:5]), *arrays[5:])


class Child:
    """One child process and its share of the slots.

    Args:
        kind: of the environments. num_envs: N of the parent. rows: the share. memory: file descriptor.
        busy_since: (N,) as in `Seen`. timeout: seconds that one reset or step may take; None: any time.
    """

    def __init__(
        self,
        kind: EnvironmentKind,
        num_envs: int,
        rows: slice,
        memory: int,
        busy_since: np.ndarray,
        timeout: float | None = None,
    ):
        self.rows, self._busy_since, self._timeout = rows, busy_since[rows], timeout
        self._look_every = LOOK_EVERY if timeout is None else min(LOOK_EVERY, timeout / 4)
        self.link, theirs = Pipe()
        # sys.path as it is here: a module that this process can import the child can, too.
        code = f"import sys; sys.path[:] = {[p for p in sys.path if isinstance(p, str)]!r}; "
        code += f"from dtag_fast.rollout.env_child import main; main({theirs.fileno()}, {memory})"
        # Ctrl-C in a terminal reaches every process: it is this one's business. A blocked signal stays so.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # the processes are the parallelism
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._watch = select.poll()
        self._watch.register(self.link.fileno(), select.POLLIN)
        with contextlib.suppress(BrokenPipeError):  # `answer` says what became of it
            self.link.send((kind, num_envs, rows))

    def ask(self, command: bytes, message: Sequence[tuple[int, int]] | None = None) -> None:
        """Send a command; `answer` waits for what it does, once for each entry of a message."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            os.write(self.link.fileno(), command)
            if message is not None:
                self.link.send(message)

    def answer(self) -> dict[int, Fault]:
        """Wait until the child has done what it was asked for.

        Returns:
            Faults by slot, mostly none.

        Raises:
            ProcessDied: the child ended. TookTooLong: it has been, since an environment took too long. Any
            other: raised there, and no fault of an episode.
        """
        while not self._watch.poll(1000 * self._look_every):
            if self.process.poll() is not None:
                raise ProcessDied(self._ended())
            self._expect_in_time()
        try:
            word = os.read(self.link.fileno(), 1)
            if word == DONE:
                return {}
            if word == MESSAGE:
                found = self.link.recv()
                if isinstance(found, BaseException):
                    raise found
                return found
        except (EOFError, ConnectionResetError):
            pass
        raise ProcessDied(self._ended())

    def close(self, within: float = END_WITHIN) -> None:
        """Let the child close its environments and end; it is killed after `within` seconds."""
        self.link.close()
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _expect_in_time(self) -> None:
        if self._timeout is None:
            return
        began = self._busy_since
        late = np.flatnonzero((began > 0) & (time.monotonic() - began > self._timeout))
        if late.size:
            self.process.kill()
            self.close()
            raise TookTooLong(self.rows.start + int(late[0]), self._timeout)

    def _ended(self) -> str:
        """How the child ended: its socket is closed."""
        self.close()
        code = self.process.returncode
        if code >= 0:
            return f"the environment's worker process ended with exit code {code}"
        return f"the environment's worker process was killed by signal {-code} ({signal.Signals(-code).name})"


def anonymous_file(size: int) -> int:
    """File descriptor of `size` bytes in memory that no name leads to: it goes with its last process."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("dtag environments")
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.ftruncate(memory, size)
    return memory
