"""The Triton backend beside its kernel: choice, packing, launch sizes, streams and graphs."""

import copy
import importlib.util
import subprocess
import sys
import threading

import pytest
import torch
from exact_walks import assert_exact
from kernel_cases import make_inputs, make_options, make_program, on_device, refined, traced
from torch import nn

import dtag_fast
from dtag_fast.ops.refine import backends, triton
from dtag_fast.ops.refine.triton import TritonExecutor
from dtag_fast.ops.refine.triton_layout import layout_of
from dtag_fast.ops.refine.triton_tiles import SCRATCH_LIMIT, column_block, padded, tiles_for

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HOST = torch.device("cpu")
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


def make_critic():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(23, 40), nn.SiLU(), nn.Linear(40, 1)).to(DEVICE)


def test_importing_the_package_leaves_triton_alone():
    code = "import sys, dtag_fast; dtag_fast.refine; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_why_not_names_the_reason(monkeypatch):
    program, options = make_program(), make_options()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.why_not(program, options, HOST, "fp32") is None
    assert "fp16" in triton.why_not(program, options, HOST, "fp16")
    monkeypatch.setattr(triton, "MAX_ELEMENTS", 1000)
    assert "too large" in triton.why_not(program, options, HOST, "fp32")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in triton.why_not(program, options, HOST, "fp32")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "not on a CUDA device" in triton.why_not(program, options, HOST, "fp32")
    assert "on meta" in triton.why_not(program, options, torch.device("meta"), "fp32")


def test_the_interpreter_is_taken_only_when_asked_for(monkeypatch):
    program, options = make_program(), make_options()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backends.choose(program, options, HOST, "highest", None).backend != "triton"
    choice = backends.choose(program, options, HOST, "highest", "triton")
    assert choice.backend == "triton" and "asked for" in choice.reasons["cpu"]
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="'triton' cannot run this call: tensors are on cpu"):
        backends.choose(program, options, HOST, "highest", "triton")


@pytest.mark.parametrize(
    ("setting", "precision"), [("highest", "fp32"), ("high", "tf32"), ("medium", "bf16")]
)
def test_precisions(monkeypatch, setting, precision):
    monkeypatch.setattr(torch.version, "hip", None)
    assert backends.precision_of("triton", setting)[0] == precision
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert backends.precision_of("triton", setting)[0] == ("fp32" if precision == "tf32" else precision)


def test_a_wrong_member_is_refused():
    with pytest.raises(ValueError, match=r"expected a member in 0\.\.1, got 2"):
        TritonExecutor(make_program(), make_options(reduce=2))


def test_refine_and_its_details_through_the_front_door():
    critic = make_critic()
    states, actions = torch.randn(5, 17, device=DEVICE), torch.rand(5, 3, 6, device=DEVICE) * 2 - 1
    settings = {"steps": 4, "lr": 0.1, "optimizer": "adam"}
    out, info = dtag_fast.refine(critic, states, actions, backend="triton", return_info="trace", **settings)
    expected, reference = dtag_fast.refine(
        critic, states, actions, backend="torch", return_info="trace", **settings
    )
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(info.trace_q, reference.trace_q, rtol=1e-4, atol=1e-4)
    assert torch.equal(info.best_candidate, reference.best_candidate)
    half = dtag_fast.refine(critic, states, actions.half(), backend="triton", **settings)
    assert half.dtype == torch.float16
    text = str(dtag_fast.explain(critic, states, actions, backend="triton", precision="medium"))
    assert text.startswith("backend triton, bf16 (precision")


def test_new_weights_are_taken_at_the_same_addresses():
    critic = make_critic()
    refiner = dtag_fast.Refiner(critic, backend="triton", steps=2, lr=0.1)
    states, actions = torch.randn(3, 17, device=DEVICE), torch.rand(3, 6, device=DEVICE) * 2 - 1
    before = refiner(states, actions)
    (binding,) = refiner._bindings
    weights = binding.executor._weights
    addresses = weights.vectors.data_ptr(), weights.matrices.data_ptr()
    with torch.no_grad():
        critic[0].weight.mul_(2.0)
    after = refiner(states, actions)
    assert (weights.vectors.data_ptr(), weights.matrices.data_ptr()) == addresses
    assert not torch.equal(before, after)
    fresh = dtag_fast.refine(copy.deepcopy(critic), states, actions, backend="triton", steps=2, lr=0.1)
    assert torch.equal(after, fresh)


def test_padding_stays_zero_and_every_part_has_its_own_place():
    """Packing numbers that are all 1 writes as many ones as the program has numbers."""
    program = make_program(state=5, action=3, hidden=(20, 33), members=3, norm="affine")
    for t in program.tensors():
        t.fill_(1.0)
    executor = TritonExecutor(on_device(program, DEVICE), make_options(3), "fp32")
    packed = executor._weights.vectors.sum() + executor._weights.matrices.sum()
    assert int(packed) == sum(t.numel() for t in program.tensors())


def test_one_member_alone_is_packed():
    program = make_program(members=3)
    one, all_of_them = (layout_of(program, reduce, "fp32") for reduce in (1, "mean"))
    assert one.structure.members == 1 and one.matrices * 3 == all_of_them.matrices


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_column_blocks_divide_what_they_pad_to(precision):
    for width in (1, 16, 17, 40, 64, 65, 100, 256, 300, 400, 2047, 2048):
        block = column_block(width, precision, 6)
        assert 16 <= block <= (64 if precision == "fp32" else 128) and block & (block - 1) == 0
        assert padded(width, block) <= max(16, width * 9 / 8, width + 31)


@pytest.mark.parametrize("candidates", [1, 2, 5, 100])
@pytest.mark.parametrize("batch", [1, 2, 33, 4096, 65536])
def test_tiles_cover_all_rows_within_their_scratch(batch, candidates):
    tiles = tiles_for(batch, candidates, 6, 132, 1000)
    states = tiles.rows // tiles.slots
    assert tiles.count * states >= batch > (tiles.count - 1) * states
    assert 1 <= tiles.programs <= min(tiles.count, 132)
    crowded = tiles_for(batch, candidates, 6, 132, 2**22)
    assert crowded.programs * crowded.rows * 2**22 <= SCRATCH_LIMIT


@pytest.mark.parametrize(("batch", "rows"), [(1, 16), (2112, 16), (4096, 32), (8448, 64), (65536, 64)])
def test_tiles_are_as_tall_as_keeps_the_device_busy(batch, rows):
    assert tiles_for(batch, 1, 6, 132, 1000).rows == rows


def test_several_tiles_per_program():
    program = make_program(hidden=(24,))
    executor = TritonExecutor(on_device(program, DEVICE), make_options())
    executor._multiprocessors = 1
    states, actions = make_inputs(program, 150)
    assert executor.tiles(150, 1).count == 3 and executor.tiles(150, 1).programs == 1
    _, info = traced(executor, states, actions, 1, 0.05, DEVICE)
    assert_exact(program, states, info)


def test_threads_share_an_executor():
    """Runs beside repacks give the result of one set of weights or the other, never a mix."""
    programs = [on_device(make_program(seed, hidden=(24,)), DEVICE) for seed in (0, 1)]
    states, actions = make_inputs(programs[0], 4)
    executor = TritonExecutor(programs[0], make_options())
    expected = [refined(TritonExecutor(p, make_options()), states, actions, 2, 0.1, DEVICE) for p in programs]
    results = []

    def work():
        results.extend(refined(executor, states, actions, 2, 0.1, DEVICE) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(10):
        executor.repack(programs[i % 2])
    for thread in threads:
        thread.join()
    assert len(results) == 10
    assert all(any(torch.equal(result, e) for e in expected) for result in results)


@needs_gpu
def test_a_graph_captures_a_call_and_sees_new_weights():
    critic = make_critic()
    refiner = dtag_fast.Refiner(critic, backend="triton", steps=3, lr=0.1)
    states, actions = torch.randn(9, 17, device=DEVICE), torch.rand(9, 6, device=DEVICE) * 2 - 1
    out = torch.empty_like(actions)
    refiner(states, actions, out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        refiner(states, actions, out)
    graph.replay()
    torch.testing.assert_close(out, refiner(states, actions), rtol=0, atol=0)
    with torch.no_grad():
        critic[0].weight.mul_(1.5)
    refiner.refresh()
    graph.replay()
    assert torch.equal(out, refiner(states, actions))


@needs_gpu
def test_no_call_waits_for_the_device():
    refiner = dtag_fast.Refiner(make_critic(), backend="triton", return_info=True)
    states, actions = torch.randn(9, 17, device=DEVICE), torch.rand(9, 6, device=DEVICE) * 2 - 1
    steps = torch.arange(9, dtype=torch.int32, device=DEVICE)
    for _ in range(2):
        refiner.run(states, actions, steps=steps)
        torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_another_stream_sees_the_repacked_weights():
    programs = [on_device(make_program(seed), DEVICE) for seed in (0, 1)]
    states, actions = make_inputs(programs[0], 4)
    executor = TritonExecutor(programs[0], make_options())
    expected = [refined(TritonExecutor(p, make_options()), states, actions, 2, 0.1, DEVICE) for p in programs]
    for i in range(20):
        executor.repack(programs[i % 2])
        with torch.cuda.stream(torch.cuda.Stream()):
            assert torch.equal(refined(executor, states, actions, 2, 0.1, DEVICE), expected[i % 2])
