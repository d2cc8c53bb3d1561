"""Numbers per row that a caller keeps on the host, for a call on a GPU."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

KEPT = 8  # per stream, type and shape: settings that a sweep goes through in turn
SHAPES = 16


class _Copy(NamedTuple):
    host: Tensor  # pinned and ours, so that the copying never waits and nobody changes it
    there: Tensor


class DeviceCopies:
    """Host tensors on a device, copied again only when no earlier copy holds the same numbers.

    The numbers are compared, not objects and versions: writing through NumPy or `.data` changes no version.
    A copy belongs to the stream it was made on, so that nobody has to wait for it.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._kept: dict[tuple, list[_Copy]] = {}
        self._in_graphs: dict[tuple, list[_Copy]] = {}
        self._lock = threading.Lock()

    def on(self, device: torch.device, name: str, numbers: Tensor) -> Tensor:
        """`numbers`, the argument `name`, on the device.

        Raises:
            RuntimeError: the stream is being captured and they were not copied before: a graph would copy
                from memory that is gone when it is replayed.
        """
        if device.type == "cpu" or numbers.device.type != "cpu":
            return numbers.to(device)
        kind = device, numbers.dtype, tuple(numbers.shape)
        with self._cuda.device(device):
            stream = self._cuda.current_stream(device).cuda_stream
            capturing = self._cuda.is_current_stream_capturing()
        with self._lock:
            if capturing:
                return self._captured(kind, name, numbers)
            copies = self._kept.pop((stream, *kind), [])
            self._kept[stream, *kind] = copies  # now the newest
            for copy in copies:
                if torch.equal(copy.host, numbers):
                    return copy.there
            copies.append(self._copy(numbers, device))
            del copies[:-KEPT]
            while len(self._kept) > SHAPES:
                self._kept.pop(next(iter(self._kept)))
            return copies[-1].there

    def _captured(self, kind: tuple, name: str, numbers: Tensor) -> Tensor:
        """A copy made on any stream: who captures has waited for it, as for weights. Kept for the graph."""
        held = self._in_graphs.setdefault(kind, [])
        known = [copy for key, copies in self._kept.items() if key[1:] == kind for copy in copies]
        for copy in held + known:
            if torch.equal(copy.host, numbers):
                held[:] = [c for c in held if c is not copy] + [copy]
                return copy.there
        raise RuntimeError(
            f"{name}: on the host, and not copied to {kind[0]} before this CUDA graph is captured; call once "
            "with these numbers before, or give a tensor on the device"
        )

    @torch.inference_mode(False)
    def _copy(self, numbers: Tensor, device: torch.device) -> _Copy:
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers)
        return _Copy(host, host.to(device, non_blocking=True))
