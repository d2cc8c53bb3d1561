"""Ways to compute the same on a device: preparing them, and what each takes there."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

Call = Callable[[], object]


class LeftOut(Exception):
    """Why a variant does not take part."""


def prepare_each(
    makers: dict[str, Callable[[], Call]], limit: float
) -> tuple[dict[str, Call], dict[str, str]]:
    """(name -> call, name -> why it is left out). Each is called once, within `limit` seconds in all.

    Args:
        makers: name -> what prepares that variant, in the order in which they must be prepared.
    """
    calls, left_out = {}, {}
    for name, make in makers.items():
        try:
            with at_most(limit):
                call = make()
                call()
        except Exception as error:  # a peer that fails must not take the others' times with it
            reason = str(error) or type(error).__name__
            left_out[name] = (
                reason if isinstance(error, LeftOut) else f"{type(error).__name__}: {reason}"[:500]
            )
        else:
            calls[name] = call
    return calls, left_out


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupts what takes longer, such as a search over kernels by the compiler."""

    def stop(*_):
        raise TimeoutError(f"not ready after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def device_time(call: Call, *, rounds: int = 15, seconds: float = 2e-3) -> dict[str, float]:
    """Seconds per call between two events with k calls between them, k so that they fill `seconds`."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    samples, k = [], 1
    for i in range(rounds + 2):
        torch.cuda.synchronize()
        begin.record()
        for _ in range(k):
            call()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) * 1e-3 / k)
        if i == 1:
            k = max(1, min(1000, round(seconds / max(samples[-1], 1e-7))))
    q25, median, q75 = np.quantile(samples[2:], [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": q25, "q75": q75, "calls": k}
