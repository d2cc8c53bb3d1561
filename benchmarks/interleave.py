"""Fair timing on a machine that is never quite quiet: variants take turns, so that drift hits all alike."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

Call = Callable[[], object]


def measure(
    variants: dict[str, Call],
    *,
    seconds: float,
    turn: float = 2e-3,
    min_rounds: int = 9,
    finish: Call = lambda: None,
) -> dict[str, dict[str, float]]:
    """Time per call of each variant, in seconds.

    Args:
        variants: name -> a call without arguments; called a few times first, so compilation is not counted.
        seconds: how long to go on (longer where `min_rounds` needs it).
        turn: shortest time one variant runs before the next has its turn; fast calls repeat to fill it.
        finish: called before the clock is read, to wait for a device.

    Returns:
        name -> {"median", "q25", "q75" (s per call), "rounds", "calls" (per round)}.
    """
    calls = {name: _calls_per_turn(call, turn, finish) for name, call in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = perf_counter() + seconds
        while perf_counter() < end or len(times[order[0]]) < min_rounds:
            for name in order:
                call = variants[name]
                call()  # brings its data back into the caches the one before has filled
                finish()
                began = perf_counter()
                for _ in range(calls[name]):
                    call()
                finish()
                times[name].append((perf_counter() - began) / calls[name])
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return {name: _summary(times[name], calls[name]) for name in variants}


def _calls_per_turn(call: Call, turn: float, finish: Call) -> int:
    for _ in range(3):
        call()
    finish()
    began = perf_counter()
    call()
    finish()
    once = perf_counter() - began
    return max(1, min(10_000, round(turn / max(once, 1e-7))))


def _summary(times: list[float], calls: int) -> dict[str, float]:
    q25, median, q75 = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": q25, "q75": q75, "rounds": len(times), "calls": calls}


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Runs the whole process, the thread pools of every library in it included, on `count` cores."""
    before = torch.get_num_threads()
    allowed = sorted(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    _set_affinity(allowed[:count])
    try:
        yield
    finally:
        _set_affinity(allowed)
        torch.set_num_threads(before)


def _set_affinity(allowed: list[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), allowed)
        except ProcessLookupError:  # the thread has ended since it was listed
            continue
