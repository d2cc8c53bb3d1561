"""The order of streams around packed weights. What a GPU does with it is in test_gpu_tensors.py."""

import random
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import FakeCuda

from dtag_fast.ops.refine.streams import NoStreams, Streams, streams_of

HOST = torch.device("cpu")


@pytest.fixture
def cuda():
    return FakeCuda()


class Weights:
    """Stands for an executor: who wrote and read its memory, each new or repacked form under its name."""

    def __init__(self, cuda):
        self.cuda, self.streams = cuda, Streams(HOST, cuda)
        self.writes, self.reads = set(), set()

    def _write(self, name):
        before = self.cuda.current_stream().do(name)
        self.writes.add(name)
        return before

    def pack_new(self, name):
        return self.streams.pack_new(lambda: self._write(name), [])

    def repack(self, name):
        with self.streams.repacking():
            assert self._write(name) >= self.reads, "kernels that read the old numbers are not done"

    def read(self, name):
        stream = self.cuda.current_stream()
        assert self.streams.reading([]) == stream.cuda_stream
        assert stream.do(name) >= self.writes, "numbers are not all written"
        self.reads.add(name)


@pytest.mark.parametrize("seed", range(20))
def test_readers_come_after_writers_and_writers_after_readers(cuda, seed):
    rng, weights = random.Random(seed), Weights(cuda)
    streams = [cuda.default_stream(HOST), *(cuda.Stream() for _ in range(3))]
    weights.pack_new("first")
    for i in range(200):
        with cuda.stream(rng.choice(streams)):
            if rng.random() < 0.8:
                weights.read(f"read {i}")
            elif rng.random() < 0.5:
                weights.repack(f"repack {i}")
            else:
                weights.pack_new(f"form {i}")


def test_new_numbers_come_after_what_the_caller_has_queued(cuda):
    weights = Weights(cuda)
    with cuda.stream(cuda.Stream()):
        cuda.current_stream().do("an optimizer's step")
        assert "an optimizer's step" in weights.pack_new("first")


def test_new_memory_is_made_outside_of_the_callers_stream_and_inference_mode(cuda):
    for streams in (Streams(HOST, cuda), NoStreams()):
        with cuda.stream(cuda.Stream()), torch.inference_mode():
            made = streams.pack_new(lambda: (torch.zeros(3), cuda.current_stream()), [])
        assert not made[0].is_inference() and made[1] is cuda.default_stream(HOST)


def test_a_second_call_on_a_stream_waits_for_nothing(cuda):
    weights, stream = Weights(cuda), cuda.Stream()
    weights.pack_new("first")
    with cuda.stream(stream):
        assert weights.streams.ready() is None
        weights.read("one")
        assert weights.streams.ready() == stream.cuda_stream
        past = stream.past
        weights.streams.reading([])
    assert stream.past == past and weights.streams.ready() is None, "the default stream has read nothing"
    weights.repack("other numbers")
    with cuda.stream(stream):
        assert weights.streams.ready() is None


def test_numbers_half_written_are_waited_for_too(cuda):
    weights = Weights(cuda)
    with cuda.stream(cuda.Stream()), pytest.raises(MemoryError), weights.streams.repacking():
        weights._write("half")
        raise MemoryError
    weights.read("read")


def test_a_capture_neither_waits_nor_is_waited_for(cuda):
    weights, stream = Weights(cuda), cuda.Stream()
    with cuda.stream(cuda.Stream()):
        weights.pack_new("first")
    stream.capturing = True
    with cuda.stream(stream):
        assert weights.streams.reading([]) == stream.cuda_stream
        assert weights.streams.ready() is None
        with pytest.raises(RuntimeError, match="not while a CUDA graph is captured, because the critic's"):
            weights.repack("never")
        with pytest.raises(RuntimeError, match="because of a test"):
            weights.streams.refuse_capture("of a test")
    weights.repack("other numbers")
    assert weights.writes == {"first", "other numbers"}


def test_a_repack_beside_a_capture_on_a_stream_that_has_read_is_refused(cuda):
    weights, stream = Weights(cuda), cuda.Stream()
    with cuda.stream(stream):
        weights.pack_new("first")
        weights.read("read")
    stream.capturing = True
    with pytest.raises(RuntimeError, match="on a stream that used them"):
        weights.repack("never")
    stream.capturing = False
    weights.repack("other numbers")


def test_compiled_code_is_told_the_stream_where_torch_does_not_tell_it(cuda):
    def core(told):
        return SimpleNamespace(current_stream=lambda **_: told(cuda.current_stream().cuda_stream))

    assert Streams(HOST, cuda).teller(core(lambda stream: stream)) is None
    for wrong in (lambda stream: 0, lambda stream: None):
        teller = Streams(HOST, cuda).teller(core(wrong))
        with cuda.stream(cuda.Stream()):
            assert teller() == cuda.current_stream().cuda_stream != 0


def test_zeroed_memory_belongs_to_one_stream(cuda):
    streams, one, other = Streams(HOST, cuda), cuda.Stream(), cuda.Stream()
    with cuda.stream(one):
        kept = streams.zeros(16)
        assert kept.count_nonzero() == 0 and kept.dtype == torch.uint8
        assert streams.zeros(8) is kept, "what is there suffices"
        assert streams.zeros(17).numel() == 17
    with cuda.stream(other):
        assert streams.zeros(16) is not kept
        other.capturing = True
        assert streams.zeros(16) is not streams.zeros(16), "a graph has its own"


def test_the_host_has_no_streams():
    assert isinstance(streams_of(HOST), NoStreams) and NoStreams().ready() == 0
