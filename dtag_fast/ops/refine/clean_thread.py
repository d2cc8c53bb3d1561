"""A thread of its own for tracing a critic, in which nothing of the caller's is in force.

Autocast, inference mode and tracing are per thread: a critic traced inside an operator of a compiled graph
would otherwise meet that graph's machinery. The thread ends with the trace: one that stayed would keep OpenMP
workers of its own, and with more of those than cores every parallel loop of torch takes three times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

_guard = threading.Lock()
_holder: threading.Thread | None = None


def in_clean_thread(function: Callable[[], Any]) -> Any:
    """What `function()` returns or raises in a new thread."""
    _keep_device_guard()
    outcome: list = []

    def call() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:  # raised again below, in the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _keep_device_guard() -> None:
    """Torch built with CUDA but run without a GPU keeps a pointer into the first thread that traced anything.

    When that thread has ended the next trace, in any thread, ends the process (seen with torch 2.11). So a
    thread that never ends goes first.
    """
    global _holder
    register = getattr(torch._C, "_ensureCUDADeviceGuardSet", None)
    if _holder is not None or register is None or not torch.backends.cuda.is_built():
        return
    with _guard:
        if _holder is not None or torch.cuda.is_available():
            return
        done = threading.Event()

        def hold() -> None:
            register()
            done.set()
            threading.Event().wait()

        _holder = threading.Thread(target=hold, name="dtag-device-guard", daemon=True)
        _holder.start()
        done.wait()
