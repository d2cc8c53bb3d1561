"""Environments stepped by child processes, side by side.

A child is a Python of its own that runs one `Environments` over its share of the slots. Observations,
actions, rewards and flags lie in memory that parent and children have mapped; a step is one byte to each
child through a socket and one byte back. A child that dies closes its socket, which its parent sees at once;
a parent that dies closes its own, upon which the children end. Semaphores would halve the hand-shake (2 us in
place of 5 where nothing is stepped, 2-core Intel Xeon, Sapphire Rapids) and tell neither.

Children are started by their command line and not by `multiprocessing`, which would run the user's script in
each of them once more.
"""

import contextlib
import itertools
import mmap
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from typing import NamedTuple

import gymnasium
import numpy as np

from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.environments import Seen, expect_running
from dtag_fast.rollout.faults import Fault

STEP, RESET = b"s", b"r"  # to a child; after RESET a message (row, seed)
DONE, MESSAGE = b"d", b"m"  # from a child; after MESSAGE one: faults by slot, or an exception
LOOK_EVERY = (
    1.0  # seconds after which a silent child is looked at: a process it forked may keep its socket open
)
END_WITHIN = 5.0  # seconds that a child has to close its environments


class NotInChildren(ValueError):
    """The environment can be built in this process alone."""


class ProcessDied(ChildProcessError):
    """A child process ended while it was needed."""


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
        return cls(Seen(*arrays[:4]), *arrays[4:])


class Child:
    """One child process and its share of the slots.

    Args:
        kind: of the environments. num_envs: N of the parent. rows: the share. memory: file descriptor.
    """

    def __init__(self, kind: EnvironmentKind, num_envs: int, rows: slice, memory: int):
        self.rows = rows
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

    def ask(self, command: bytes, message: tuple | None = None) -> None:
        """Send a command; `answer` waits for it."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            os.write(self.link.fileno(), command)
            if message is not None:
                self.link.send(message)

    def answer(self) -> dict[int, Fault]:
        """Wait until the child has done what it was asked for.

        Returns:
            Faults by slot, mostly none.

        Raises:
            ProcessDied: the child ended. Any other: raised there, and no fault of an episode.
        """
        while not self._watch.poll(1000 * LOOK_EVERY):
            if self.process.poll() is not None:
                raise ProcessDied(self._ended())
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

    def _ended(self) -> str:
        """How the child ended: its socket is closed."""
        self.close()
        code = self.process.returncode
        if code >= 0:
            return f"the environment's worker process ended with exit code {code}"
        return f"the environment's worker process was killed by signal {-code} ({signal.Signals(-code).name})"


class EnvironmentProcesses:
    """As `Environments`, the slots shared out to `processes` child processes that step them side by side.

    A child that dies ends the episodes of its slots; the next reset of one starts a new child.

    Args:
        kind: of the environments. num_envs: N >= 1. processes: 1 <= P <= N.

    Raises:
        NotInChildren: the environment is not to be had in another process.
        ValueError, gymnasium.error.Error: as `Environments` and `make_env`.
        ProcessDied: a child did not come up.
    """

    def __init__(self, kind: EnvironmentKind, num_envs: int, processes: int):
        self._kind, self._num_envs = kind, num_envs
        try:
            pickle.dumps(kind)
        except Exception as error:
            raise NotInChildren(
                f"env_processes: the description of {kind.env_id} cannot be sent to another process "
                f"({error}); evaluate in this one (env_processes=0)"
            ) from error
        self._memory = _anonymous_file(SharedArrays.layout(num_envs, kind)[-1][0])
        self._shared = SharedArrays.of(self._memory, num_envs, kind, slice(0, num_envs))
        self.observations, self.rewards, self.terminated, self.truncated = self._shared.seen
        self.faults: dict[int, Fault] = {}
        self._lost: dict[int, Fault] = {}  # slots whose episode went with its child
        edges = np.linspace(0, num_envs, processes + 1).astype(int).tolist()
        self._shares = [slice(*pair) for pair in itertools.pairwise(edges)]
        self._children: list[Child | None] = [None] * processes
        try:
            for number in range(processes):
                self._children[number] = self._child(number)
            for child in self._children:
                self._await(child)
        except BaseException:
            self.close()
            raise

    def reset(self, row: int, seed: int) -> None:
        """Start a new episode in slot `row`; raises as `Environments.reset`."""
        self.faults.pop(row, None)
        self._lost.pop(row, None)
        number = next(i for i, share in enumerate(self._shares) if share.start <= row < share.stop)
        if self._children[number] is None:
            child = self._child(number)
            try:
                self._await(child)
            except Exception as error:
                self.faults[row] = Fault.of(error)
                return
            self._children[number] = child
        child = self._children[number]
        child.ask(RESET, (row - child.rows.start, seed))
        try:
            self.faults.update(child.answer())
        except ProcessDied as error:
            self._lose(number, error)
            self.faults[row] = self._lost.pop(row)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Step the slots `rows` (R,) with `actions` (R, A); raises as `Environments.step`."""
        expect_running(rows, self.terminated, self.truncated, self.faults)
        shared = self._shared
        shared.stepped[:] = False
        shared.stepped[rows] = True
        shared.stepped[list(self._lost)] = False
        shared.actions[rows] = actions
        asked = [
            (number, child)
            for number, child in enumerate(self._children)
            if child is not None and shared.stepped[child.rows].any()
        ]
        for _, child in asked:
            child.ask(STEP)
        for number, child in asked:
            try:
                self.faults.update(child.answer())
            except ProcessDied as error:
                self._lose(number, error)
        for row in rows.tolist() if self._lost else ():
            if row in self._lost:
                self.faults[row] = self._lost.pop(row)

    def close(self) -> None:
        """Close every environment and end the children."""
        children, self._children = [c for c in self._children if c is not None], []
        for child in children:
            child.link.close()  # all of them first: they end side by side
        for child in children:
            child.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def __enter__(self) -> "EnvironmentProcesses":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _child(self, number: int) -> Child:
        return Child(self._kind, self._num_envs, self._shares[number], self._memory)

    def _await(self, child: Child) -> None:
        """Wait until a new child has built its environments."""
        try:
            child.answer()
        except (gymnasium.error.UnregisteredEnv, ImportError) as error:
            child.close()
            env_id = self._kind.env_id
            if env_id.partition(":")[2] not in gymnasium.registry and env_id not in gymnasium.registry:
                raise
            raise NotInChildren(
                f"env_processes: {env_id} is registered in this process alone, a worker process cannot build "
                f"it; give it as 'module:{env_id}' with a module that registers it, or evaluate in this "
                "process (env_processes=0)"
            ) from error
        except BaseException:
            child.close()
            raise

    def _lose(self, number: int, error: ProcessDied) -> None:
        """Give up a child that died, and with it what its slots were at."""
        self._children[number] = None
        for row in range(*self._shares[number].indices(self._num_envs)):
            self._lost[row] = Fault.of(error)
            self.observations[row], self.rewards[row] = 0.0, 0.0
            self.terminated[row] = self.truncated[row] = False


def _anonymous_file(size: int) -> int:
    """File descriptor of `size` bytes in memory that no name leads to: it goes with its last process."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("dtag environments")
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.ftruncate(memory, size)
    return memory
