"""Order between CUDA streams: what writes an executor's packed weights, and what reads them.

Packing happens once, on whatever stream the call that needs it is on; later calls come from any stream and
thread. Nothing here waits on the host. A call that a CUDA graph captures is ordered by whoever replays it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .clean_thread import in_clean_thread

CUDA = 2  # as DLPack numbers devices


class Streams:
    """The streams that use one executor's weights. Its methods are called under the executor's lock.

    Args:
        device: the executor's.
        cuda: `torch.cuda`, or what stands for it in tests.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device, self._cuda = device, cuda
        self._packed: Any = None  # event: everything written so far
        self._ready: set[int] = set()  # streams that need not wait for it any more
        self._readers: dict[int, Any] = {}  # streams with kernels since the last repack
        self._zeros: dict[int, Tensor] = {}
        self._told: bool | None = None
        if not self.capturing():  # the program an executor is made from may have been computed just now
            with self._writing(cuda.current_stream(device)):
                pass

    def capturing(self) -> bool:
        """Whether the current stream is being captured into a CUDA graph."""
        with self._cuda.device(self.device):  # which it asks about, whatever device is current
            return self._cuda.is_current_stream_capturing()

    def refuse_capture(self, reason: str) -> None:
        """Raises where the work that follows would be recorded in a CUDA graph instead of done."""
        if self.capturing():
            raise RuntimeError(f"refine: not while a CUDA graph is captured, because {reason}")

    def pack_new(self, make: Callable[[], Any], read: Iterable[Tensor]) -> Any:
        """What make() returns: newly allocated memory that outlives this call, with its first numbers, taken
        from the tensors `read`.

        It runs in a thread of its own and on the default stream, because the caller may be allocating from
        a pool of its own or a CUDA graph's, which takes back what it knows nothing of, or be in inference
        mode, whose tensors can be written in that mode alone.
        """
        here, home = self._cuda.current_stream(self.device), self._cuda.default_stream(self.device)
        if here != home:
            home.wait_stream(here)  # where the critic may have been written
            _keep_for(home, read)

        def run() -> Any:
            with self._cuda.device(self.device), torch.no_grad():
                return make()

        with self._writing(home):
            return in_clean_thread(run)

    @contextmanager
    def repacking(self) -> Iterator[None]:
        """Around writing new numbers on the current stream over old ones, once kernels have read those."""
        self.refuse_capture("the critic's weights changed: call the Refiner or refresh() before the capture")
        here = self._cuda.current_stream(self.device)
        for reader in self._readers.values():
            with self._cuda.device(self.device), self._cuda.stream(reader):
                if self._cuda.is_current_stream_capturing():
                    raise RuntimeError(
                        "refine: the critic's weights changed while a CUDA graph is captured on a stream "
                        "that used them; call the Refiner or refresh() before the capture"
                    )
        for reader in self._readers.values():
            if reader != here:
                here.wait_stream(reader)
        self._readers.clear()
        with self._writing(here):
            yield

    @contextmanager
    def _writing(self, stream: Any) -> Iterator[None]:
        self._wait(stream)  # so that the next event covers what the last one did
        try:
            yield
        finally:  # also of numbers written before an error
            self._packed, self._ready = stream.record_event(), {stream.cuda_stream}

    def _wait(self, stream: Any) -> None:
        if self._packed is not None and stream.cuda_stream not in self._ready:
            stream.wait_event(self._packed)

    def reading(self, packed: Iterable[Tensor]) -> int:
        """Before a kernel reads `packed`: the current stream's handle, which is to take the kernel."""
        stream = self._cuda.current_stream(self.device)
        handle = stream.cuda_stream
        if (handle in self._ready and handle in self._readers) or self.capturing():
            return handle
        self._wait(stream)
        if stream != self._cuda.default_stream(self.device):
            _keep_for(stream, packed)
        self._ready.add(handle)
        self._readers[handle] = stream
        return handle

    def ready(self) -> int | None:
        """The current stream's handle, if a kernel on it may start without `reading`."""
        handle = self._cuda.current_stream(self.device).cuda_stream
        return handle if handle in self._ready and handle in self._readers and not self.capturing() else None

    def teller(self, core: Any) -> Callable[[], int] | None:
        """What tells compiled code the current stream; None where torch's table of DLPack functions does."""
        if self._told is None:
            side = self._cuda.Stream(self.device)
            with self._cuda.device(self.device), self._cuda.stream(side):
                index = self.device.index or 0
                answer = core.current_stream(tensor_type=Tensor, device_type=CUDA, device_id=index)
            self._told = answer == side.cuda_stream
        return None if self._told else lambda: self._cuda.current_stream(self.device).cuda_stream

    def zeros(self, count: int) -> Tensor:
        """Bytes that no other stream uses, zero at first; kernels that use them leave zeros behind.

        In a CUDA graph they are the graph's own, and zeroed by it.
        """
        if self.capturing():
            return torch.zeros(count, dtype=torch.uint8, device=self.device)
        stream = self._cuda.current_stream(self.device)
        kept = self._zeros.get(stream.cuda_stream)
        if kept is None or kept.numel() < count:

            def make() -> Tensor:
                with self._cuda.device(self.device), self._cuda.stream(stream):
                    return torch.zeros(count, dtype=torch.uint8, device=self.device)

            kept = self._zeros[stream.cuda_stream] = in_clean_thread(make)
        return kept


def _keep_for(stream: Any, tensors: Iterable[Tensor]) -> None:
    """Let nobody have the tensors' memory while what this stream has queued for them is not done."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(stream)


class NoStreams:
    """The same for the host, where one call follows the other."""

    def __init__(self) -> None:
        self._zeros: dict[int, Tensor] = {}

    def capturing(self) -> bool:
        """No."""
        return False

    def refuse_capture(self, reason: str) -> None:
        """Does nothing."""

    def pack_new(self, make: Callable[[], Any], read: Iterable[Tensor]) -> Any:
        """What make() returns, in a thread without the caller's inference mode."""
        return in_clean_thread(torch.no_grad()(make))

    @contextmanager
    def repacking(self) -> Iterator[None]:
        """Around writing new numbers over the old ones."""
        yield

    def reading(self, packed: Iterable[Tensor]) -> int:
        """The one stream's handle."""
        return 0

    def ready(self) -> int | None:
        """The one stream's handle."""
        return 0

    def teller(self, core: Any) -> Callable[[], int] | None:
        """None: there is nothing to tell."""

    def zeros(self, count: int) -> Tensor:
        """Bytes, zero at first; whoever uses them leaves zeros behind."""
        if 0 not in self._zeros or self._zeros[0].numel() < count:
            self._zeros[0] = torch.zeros(count, dtype=torch.uint8)
        return self._zeros[0]


def streams_of(device: torch.device) -> Streams | NoStreams:
    """The order of streams on a device."""
    return Streams(device) if device.type == "cuda" else NoStreams()
