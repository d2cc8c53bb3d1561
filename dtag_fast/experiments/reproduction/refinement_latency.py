"""How long a call of `Refiner` takes against the eager loop of autograd, for actions of many sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, ClassVar

import torch

from dtag_fast.experiments.reproduction.machine import machine
from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work
from dtag_fast.models import TwinCritic
from dtag_fast.ops.refine import Refiner, explain
from dtag_fast.training.files import write_json

TURN = 2e-3  # seconds: what is faster is repeated to fill them, and timed once for all repeats
_ROUND_SECONDS = 0.035  # of a shape and batch: a turn of either and the call before it that is not timed
_EAGER, _OURS = "eager", "refiner"


@dataclass(frozen=True)
class RefinementLatency(Work):
    """Seconds of a call, on one thread, of all shapes and batches in turn, so that drift hits all alike.

    On a CPU they are the process's own seconds, to which others at work on the same core do not add; on a GPU
    those of the clock on the wall. What the machine is stands in the result alone, not in the name: the same
    piece elsewhere is another timing of the same thing.

    Attributes:
        shapes: (S, A) of states and actions. batches: B. steps: n. hidden: of the twin critic (ReLU).
        rounds: of which the median is taken. device: "cpu" or "cuda".
    """

    shapes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...] = (1, 64)
    steps: int = 10
    hidden: tuple[int, ...] = (256, 256)
    rounds: int = 31
    device: str = "cpu"

    folder: ClassVar[str] = "latencies"
    code: ClassVar[tuple[str, ...]] = (
        "ops",
        "models",
        "experiments/reproduction/refinement_latency.py",
        "experiments/reproduction/machine.py",
    )

    @property
    def label(self) -> str:
        return f"refine-{self.device}"

    @property
    def seconds(self) -> float:
        return _ROUND_SECONDS * self.rounds * len(self.shapes) * len(self.batches)

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        found = machine(self.device)
        cells = [
            self._cell(*shape, batch, number)
            for number, shape in enumerate(self.shapes)
            for batch in self.batches
        ]
        calls = {(i, name): call for i, cell in enumerate(cells) for name, call in cell["calls"].items()}
        clock = process_time if self.device == "cpu" else perf_counter
        seconds = interleaved(calls, self.rounds, clock, self._wait, progress)
        rows = [
            {key: value for key, value in cell.items() if key != "calls"}
            | {f"{name}_seconds": seconds[i, name] for name in cell["calls"]}
            for i, cell in enumerate(cells)
        ]
        write_json(path, {"machine": found, "rows": rows})

    def _cell(self, state_dim: int, action_dim: int, batch: int, seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = TwinCritic(state_dim, action_dim, self.hidden).to(self.device).eval()
        states = torch.randn(batch, state_dim, generator=generator).to(self.device)
        actions = (torch.rand(batch, action_dim, generator=generator) - 0.5).to(self.device)
        backend = explain(critic, states, actions, steps=self.steps).backend

        def call_of(name: str | None) -> Callable[[], Any]:
            refiner = Refiner(critic, steps=self.steps, backend=name)
            return lambda: refiner(states, actions)

        return {
            "state_dim": state_dim,
            "action_dim": action_dim,
            "batch": batch,
            "backend": backend,
            "calls": {_EAGER: call_of("torch"), _OURS: call_of(backend)},
        }

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)


def interleaved(
    calls: dict[Any, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = perf_counter,
    wait: Callable[[], None] = lambda: None,
    progress: Progress = lambda share: None,
) -> dict[Any, float]:
    """Median seconds of each call over rounds in which all take turns, every other round backwards.

    Args:
        clock: seconds. wait: for a device, before the clock is read.
    """
    repeats = {key: _repeats(call, wait) for key, call in calls.items()}
    times: dict[Any, list[float]] = {key: [] for key in calls}
    order = list(calls)
    for done in range(1, 1 + rounds):
        for key in order:
            call = calls[key]
            call()  # brings its data back into the caches that the one before has filled
            wait()
            began = clock()
            for _ in range(repeats[key]):
                call()
            wait()
            times[key].append((clock() - began) / repeats[key])
        order.reverse()
        progress(done / rounds)
    return {key: median(found) for key, found in times.items()}


def _repeats(call: Callable[[], Any], wait: Callable[[], None]) -> int:
    for _ in range(2):
        call()  # packs weights, may compile
    wait()
    began = perf_counter()
    call()
    wait()
    return max(1, min(1000, round(TURN / max(perf_counter() - began, 1e-7))))
