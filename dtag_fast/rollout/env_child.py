"""What a child process of `EnvironmentProcesses` runs."""

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import threading
import time
from functools import partial
from multiprocessing.connection import Connection

import numpy as np

from dtag_fast.rollout.env_worker import DONE, END_WITHIN, MESSAGE, RESET, SharedArrays
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.faults import Fault


def main(socket: int, memory: int) -> None:
    """Serve the parent at the other end of `socket`, in the shared `memory`, until it closes its end.

    Args:
        socket, memory: file descriptors that were passed on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()  # a crash in compiled code says where
    link = Connection(socket)
    threading.Thread(target=_end_with_parent, args=(socket,), daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has gone
        _serve(link, memory, *link.recv())


def _end_with_parent(socket: int) -> None:
    """End this process some time after its parent has gone, even if an environment never comes back."""
    watch = select.poll()
    watch.register(socket, 0)  # that the other end was closed is told unasked
    watch.poll()
    time.sleep(END_WITHIN)
    os._exit(1)


def _serve(link: Connection, memory: int, kind: EnvironmentKind, num_envs: int, rows: slice) -> None:
    shared = SharedArrays.of(memory, num_envs, kind, rows)
    try:
        environments = kind.build(rows.stop - rows.start, shared.seen)
    except Exception as error:
        _send(link, _portable(error))
        return
    with environments:
        os.write(link.fileno(), DONE)
        while command := os.read(link.fileno(), 1):
            if command == RESET:
                calls = [([row], partial(environments.reset, [row], [seed])) for row, seed in link.recv()]
            else:
                stepped = np.flatnonzero(shared.stepped)
                calls = [(stepped.tolist(), partial(environments.step, stepped, shared.actions[stepped]))]
            for touched, call in calls:
                try:
                    call()
                except Exception as error:
                    _send(link, _portable(error))
                    break
                faults = {r + rows.start: environments.faults[r] for r in touched if r in environments.faults}
                if faults:
                    _send(link, faults)
                else:
                    os.write(link.fileno(), DONE)


def _send(link: Connection, message) -> None:
    os.write(link.fileno(), MESSAGE)
    link.send(message)


def _portable(error: Exception) -> Exception:
    """The error with its traceback noted; a RuntimeError that says the same where it cannot be pickled."""
    fault = Fault.of(error)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{fault.error}: {fault.message}")
    error.add_note(f"In a worker process:\n{fault.traceback}")
    return error
