"""Training steps as CUDA graphs: sampling, forward, backward, clipping, optimizer, schedule, target updates.

A small network's update is hundreds of kernels of a few microseconds, and issuing them from Python takes
several times as long as running them. A graph of several updates is issued in one call.

The first updates of a process run as they are, on the stream of the capture: they compile kernels, allocate
the optimizers' state and warm the libraries up. They are updates of the training like any other, so nothing
needs to be put back. Two graphs are then captured, of `steps_per_replay` updates and of one, so that every
number of updates up to a checkpoint can be made of replays; they share their memory, for nothing in it
outlives a replay. Where updates alternate (`Algorithm.period`, 2 for TD3's policy delay), there are two such
graphs for every place in the period, and the next replay is the one that starts where the last one ended.
Random numbers go on where they were: a generator that is registered with a graph is advanced by each replay
as by the updates themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import product

import torch
from torch import Generator, Tensor

from dtag_fast.algorithms import Algorithm
from dtag_fast.ops.per_seed import Generators, members
from dtag_fast.training.metrics import WindowMeans

STEPS_PER_REPLAY = 10  # divides the default periods of logs and checkpoints
WARM_UPDATES = 3  # before a capture, as PyTorch advises

Work = Callable[[], object]
Replay = Callable[[], None]


def why_not_capture(device: str | torch.device) -> str | None:
    """Why updates on this device cannot be captured in a CUDA graph, or None."""
    device = torch.device(device)
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, the device is {device}"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    return None


class TrainingSteps:
    """Makes the updates of a learner, by replays of CUDA graphs where they can be captured.

    The losses follow those of updates made one by one within rounding, as the random numbers are the same.

    Args:
        learner: created with capturable=True if it shall be captured.
        sampler: from `learner.make_sampler`; draws its batches on the device.
        generator: of the batches, on the device of the learner.
        eager: why updates shall be made one by one; None to capture them.
        insist: raise where a capture fails, instead of going on one by one with a warning.
        steps_per_replay: updates in the larger graph, at least 1.
        report: called with `execution` when it is decided, by the constructor or the first capture.

    Attributes:
        execution: how updates are made, in words: "in CUDA graphs of 10 and 1", or "one by one: " and why.
    """

    def __init__(
        self,
        learner: Algorithm,
        sampler,
        generator: Generator | Generators,
        *,
        eager: str | None = None,
        insist: bool = False,
        steps_per_replay: int = STEPS_PER_REPLAY,
        report: Callable[[str], None] | None = None,
    ):
        self._learner, self._sampler, self._generator = learner, sampler, generator
        self._insist, self._report = insist, report
        self._parameters = [p for module in learner.modules.values() for p in module.parameters()]
        self._sizes = sorted({steps_per_replay, 1}, reverse=True)
        self._warm = 0  # updates made before the capture
        # by size and place in the learner's period: a replay and the sums it leaves
        self._graphs: dict[tuple[int, int], tuple[Replay, Tensor]] = {}
        self._names: list[str] = []
        self._shape = torch.Size()  # of the sums
        self._recorder: GraphRecorder | None = None
        if eager is None and not learner.capturable:
            eager = "the learner was created without capturable=True"
        if eager is None:
            self.execution = "one by one, to be captured"
            self._recorder = GraphRecorder(learner.device, [*members(learner.generator), *members(generator)])
        else:
            self._decide(f"one by one: {eager}")

    def advance(self, most: int) -> tuple[int, dict[str, Tensor]]:
        """Make between 1 and `most` updates without waiting for the device.

        Returns:
            Their number, and the sums of their metrics: 0-dim tensors, (N,) of N stacked seeds, that the
            next call overwrites.
        """
        warm = max(WARM_UPDATES, self._learner.period)
        if self._recorder is not None and not self._graphs and self._warm >= warm:
            self._capture(self._recorder)
        if not self._graphs:
            with self._recorder.side_stream() if self._recorder is not None else nullcontext():
                metrics = self._update() if self._recorder is None else self._named(self._sum(1))
            self._warm += 1
            return 1, metrics
        size = next(size for size in self._sizes if size <= most)
        replay, sums = self._graphs[size, self._learner.updates_done % self._learner.period]
        replay()
        # Who keeps things made from the parameters, as refine does, looks at their versions.
        torch.autograd.graph.increment_version(self._parameters)
        self._learner.updates_done += size
        return size, self._named(sums)

    def make(self, most: int, window: WindowMeans) -> None:
        """`advance`, and add the metrics."""
        count, sums = self.advance(most)
        window.add(sums, count)

    def _update(self) -> dict[str, Tensor]:
        return self._learner.update(self._sampler.sample(self._generator))

    def _sum(self, size: int) -> Tensor:
        """Make `size` updates; the sums of their metrics, (M,) or (M, N) float64."""
        rows = []
        for _ in range(size):
            metrics = self._update()
            rows.append(torch.stack([value.double() for value in metrics.values()]))
        self._names = list(metrics)
        sums = torch.stack(rows).sum(dim=0)
        self._shape = sums.shape
        return sums

    def _named(self, sums: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, sums.unbind(), strict=True))

    def _capture(self, recorder: GraphRecorder) -> None:
        learner = self._learner
        done, graphs = learner.updates_done, {}
        try:
            for size, place in product(self._sizes, range(learner.period)):
                # allocated out here, for the graphs may write over each other's memory
                sums = torch.zeros(self._shape, dtype=torch.float64, device=learner.device)
                learner.updates_done = place
                replay = recorder.record(lambda size=size, sums=sums: sums.copy_(self._sum(size)))
                graphs[size, place] = replay, sums
        except RuntimeError as error:
            recorder.recover()
            for optimizer in learner.optimizers.values():
                optimizer.zero_grad()  # those of the capture were never computed
            reason = f"the capture failed, {(str(error) or type(error).__name__).splitlines()[0]}"
            if self._insist:
                raise RuntimeError(f"capture: {reason}; leave it out to train without CUDA graphs") from error
            warnings.warn(f"updates are made one by one: {reason}", RuntimeWarning, stacklevel=3)
            self._recorder = None
            self._decide(f"one by one: {reason}")
        else:
            self._graphs = graphs
            sizes = " and ".join(f"{size}" for size in self._sizes)
            self._decide(f"in CUDA graphs of {sizes}")
        finally:
            learner.updates_done = done  # a capture makes no updates, though Python ran through them

    def _decide(self, execution: str) -> None:
        self.execution = execution
        if self._report is not None:
            self._report(execution)


class GraphRecorder:
    """Captures CUDA graphs on one side stream, with one memory pool for all of them.

    Args:
        device: a CUDA device.
        generators: of all random numbers the graphs draw, on that device.
    """

    def __init__(self, device: torch.device, generators: list[Generator]):
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._generators = generators
        self._before: list[Tensor] = []  # their states when the last capture began

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        """Work inside runs on the side stream, after what came before and before what comes after."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def record(self, work: Work) -> Replay:
        """Capture `work`; the call that is returned runs it on the current stream.

        Raises:
            RuntimeError: it cannot be captured; call `recover` before anything else.
        """
        self._before = [generator.get_state() for generator in self._generators]
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # the context of the stream puts the old one back even where the end of a capture raises
        captured = torch.cuda.graph(graph, pool=self._pool, stream=self._stream)
        failure: RuntimeError | None = None
        try:
            with torch.cuda.stream(self._stream), captured:
                try:
                    work()
                except RuntimeError as error:
                    failure = error
                    raise
        except RuntimeError as error:
            if failure is None:
                raise
            raise failure from error  # the end of a capture that failed raises too, and says less
        return graph.replay

    def recover(self) -> None:
        """Leave a failed capture behind: the memory pool and the generators may believe it still goes on."""
        with suppress(RuntimeError):  # raised where PyTorch did it, as it does since its pull request 180395
            torch._C._cuda_endAllocateToPool(self._stream.device.index, self._pool)
        for generator, before in zip(self._generators, self._before, strict=True):
            fresh = Generator(generator.device)
            fresh.set_state(before)
            generator.graphsafe_set_state(fresh)
