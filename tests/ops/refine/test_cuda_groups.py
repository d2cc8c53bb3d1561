"""The latency kernel without clusters: blocks that run together and meet in global memory.

What they compute is the same to the bit as in clusters, whose numbers test_cuda_kernels.py checks. On the CPU
stand-in every word they exchange is watched as well (csrc/simt_host/stamped.h).
"""

import pytest
import torch
from cuda_core import DEVICE, load_core, set_device
from exact_walks import assert_exact
from kernel_cases import make_inputs, make_options, make_program, mixed_members, on_device, refined, traced

from dtag_fast.ops.refine.cuda import CudaExecutor
from dtag_fast.ops.refine.options import Adam


@pytest.fixture(scope="module")
def core():
    set_device(multiprocessors=16)
    yield load_core()
    set_device()


@pytest.fixture
def make(core):
    """make(program, options, rows=, clusters=): the latency kernel's executor."""

    def build(program, options, rows=None, clusters=False):
        return CudaExecutor(
            on_device(program, DEVICE), options, kernel="latency", rows=rows, clusters=clusters, core=core
        )

    return build


def all_bits(result):
    out, info = result
    return [out, *vars(info).values()]


def assert_same_bits(a, b):
    for x, y in zip(all_bits(a), all_bits(b), strict=True):
        assert torch.equal(x.view(torch.int32), y.view(torch.int32))


def left_behind(executor):
    """Bytes of its workspaces that are not zero."""
    return sum(int(w.count_nonzero()) for w in executor._streams._zeros.values())


# state, action, hidden, members, norm, rows, batch, candidates
SHAPES = {
    "one row": (17, 6, (256, 256), 2, None, 1, 1, 1),
    "rows enough for several turns of two groups": (3, 2, (64, 40), 2, None, 2, 11, 1),
    "A=31, 8 rows": (2, 31, (40, 64), 1, None, 8, 5, 1),
    "LayerNorm: two exchanges more": (17, 6, (64, 40), 2, "affine", 8, 19, 1),
    "three hidden layers": (17, 6, (70, 100, 130), 2, "plain", 2, 3, 1),
    "4 members of 256 units": (17, 6, (256, 250), 4, None, 2, 3, 1),
    "5 members, a block each": (17, 3, (64, 60), 5, None, 4, 6, 1),
    "candidates in several rounds": (17, 6, (24, 24), 2, None, 8, 2, 20),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_are_those_of_a_cluster(make, shape):
    state, action, hidden, members, norm, rows, batch, candidates = SHAPES[shape]
    program = make_program(state=state, action=action, hidden=hidden, members=members, norm=norm)
    states, actions = make_inputs(program, batch, candidates)
    options = make_options(action, optimizer=Adam())
    executor = make(program, options, rows)
    assert "that meet in global memory" in executor.describe_call(batch, candidates)[0]
    result = traced(executor, states, actions, 3, 0.02, DEVICE)
    assert_exact(program, states, result[1])
    assert left_behind(executor) == 0
    if DEVICE == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("no clusters here to compare with")
    assert_same_bits(result, traced(make(program, options, rows, True), states, actions, 3, 0.02, DEVICE))


# state, action, hidden, members, norm
LARGE = {
    "[512, 512]": (17, 6, (512, 512), 2, None),
    "[300, 512], LayerNorm": (17, 6, (300, 512), 2, "affine"),
    "3 x 256, 3 members": (17, 3, (256, 256, 256), 3, None),
}


@pytest.mark.parametrize("shape", LARGE)
def test_wide_layers_take_a_group_of_twice_the_size(make, shape):
    state, action, hidden, members, norm = LARGE[shape]
    program = make_program(state=state, action=action, hidden=hidden, members=members, norm=norm)
    states, actions = make_inputs(program, 2)
    executor = make(program, make_options(action))
    assert f"in a group of {16 // members * members} blocks" in executor.describe_call(2)[0]
    assert_exact(program, states, traced(executor, states, actions, 2, 0.01, DEVICE)[1])
    assert left_behind(executor) == 0


@pytest.mark.skipif(DEVICE == "cuda", reason="the GPU's own order of threads is one")
def test_the_order_of_threads_and_late_arrivals_change_no_bit(core, make):
    program = make_program(hidden=(40, 70, 50), norm="affine")
    states, actions = make_inputs(program, 5)
    results = []
    for seed in range(5):
        core.set_device(multiprocessors=16, seed=seed)
        results.append(traced(make(program, make_options(), 2), states, actions, 3, 0.05))
        assert_same_bits(results[0], results[-1])
    core.set_device(multiprocessors=16)


def test_calls_of_any_size_share_a_workspace(make):
    """Larger ones replace it, and each leaves it zero to the next."""
    program = make_program(hidden=(40, 30))
    states, actions = make_inputs(program, 40)
    executor = make(program, make_options())
    whole = refined(executor, states, actions, 3, 0.05, DEVICE)
    assert len(executor._streams._zeros) == 1
    for count in (1, 40, 7):
        assert torch.equal(refined(executor, states[:count], actions[:count], 3, 0.05, DEVICE), whole[:count])
        assert len(executor._streams._zeros) == 1 and left_behind(executor) == 0
    per_row = torch.arange(40, dtype=torch.int32) % 4  # groups end after unlike numbers of rounds
    refined(executor, states, actions, per_row, 0.05, DEVICE)
    assert left_behind(executor) == 0


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_streams_and_graphs_have_workspaces_of_their_own(make):
    program = make_program(hidden=(256, 256))
    states, actions = (x.to(DEVICE) for x in make_inputs(program, 1))
    executor = make(program, make_options())
    expected = refined(executor, states, actions, 10, 0.05, DEVICE)
    streams = [torch.cuda.Stream() for _ in range(4)]
    outs = [torch.empty(1, 6, device=DEVICE) for _ in streams]
    torch.cuda.synchronize()
    for _ in range(50):
        for stream, out in zip(streams, outs, strict=True):
            with torch.cuda.stream(stream):
                executor.run(states, actions, out, steps=10, lr=0.05, info=None)
    torch.cuda.synchronize()
    assert all(torch.equal(out.cpu(), expected) for out in outs)
    assert len(executor._streams._zeros) == 5
    graph, out = torch.cuda.CUDAGraph(), torch.empty(1, 6, device=DEVICE)
    with torch.cuda.graph(graph):
        executor.run(states, actions, out, steps=10, lr=0.05, info=None)
    assert len(executor._streams._zeros) == 5
    for _ in range(3):
        out.zero_()
        graph.replay()
        executor.run(states, actions, outs[0], steps=10, lr=0.05, info=None)
        torch.cuda.synchronize()
        assert torch.equal(out.cpu(), expected) and torch.equal(outs[0].cpu(), expected)


@pytest.mark.skipif(DEVICE == "cuda", reason="hands in addresses that no kernel must see")
def test_a_workspace_too_small_is_refused_in_a_sentence(make):
    program = make_program(hidden=(40, 30))
    states, actions = make_inputs(program, 1)
    executor = make(program, make_options())
    executor._workspace = lambda batch, candidates: torch.empty(0)
    with pytest.raises(ValueError, match=r"workspace: expected \d+ bytes of zeros at .* 128, got 0"):
        refined(executor, states, actions, 1, 0.05)


@pytest.mark.skipif(DEVICE == "cuda", reason="describes another device")
def test_too_few_multiprocessors_for_a_group_are_a_reason(core, make):
    core.set_device(multiprocessors=7)
    how, _ = make(make_program(hidden=(40, 30)), make_options()).describe_call(1)
    core.set_device(multiprocessors=16)
    assert how == "the latency kernel needs 8 multiprocessors at once, the device has 7"


def test_members_of_unlike_depth_stay_refused(make):
    with pytest.raises(ValueError, match="two or three hidden layers"):
        program = mixed_members()
        refined(make(program, make_options(4)), *make_inputs(program, 1), 1, 0.05, DEVICE)
