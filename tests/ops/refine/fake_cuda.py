"""What `torch.cuda` tells of streams, without a GPU: which work is known to be done before which.

A stream's `past` holds what its next piece of work comes after. Events carry it to other streams, which is
all that orders them. The current stream belongs to the thread, as torch's does.
"""

import itertools
import threading
from contextlib import contextmanager, nullcontext


class Stream:
    def __init__(self, handle):
        self.cuda_stream, self.past, self.capturing = handle, frozenset(), False

    def do(self, work):
        """Queue `work`; what it comes after."""
        before = self.past
        self.past = before | {work}
        return before

    def record_event(self):
        assert not self.capturing, "the event would be part of the graph"
        return self.past

    def wait_event(self, event):
        assert not self.capturing, "CUDA refuses to wait in a capture for what is outside"
        self.past |= event

    def wait_stream(self, other):
        self.wait_event(other.record_event())


class FakeCuda:
    def __init__(self):
        self._handles = itertools.count(0x100)
        self._default = Stream(0)
        self._thread = threading.local()

    def Stream(self, device=None):
        return Stream(next(self._handles))

    def default_stream(self, device):
        return self._default

    def current_stream(self, device=None):
        return getattr(self._thread, "stream", self._default)

    def is_current_stream_capturing(self):
        return self.current_stream().capturing

    def device(self, device):
        return nullcontext()

    @contextmanager
    def stream(self, stream):
        before = self.current_stream()
        self._thread.stream = stream
        try:
            yield
        finally:
            self._thread.stream = before
