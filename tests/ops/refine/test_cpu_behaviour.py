"""The compiled CPU backend as a citizen of the process: threads, fork, dispatch, re-packing, wrong calls."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from dtag_fast.ops.openmp import loaded_runtime, share_threads
from dtag_fast.ops.refine.cpu import CpuExecutor, why_not
from dtag_fast.ops.refine.options import RefineOptions
from dtag_fast.ops.refine.program import Activation, CriticProgram, LayerNorm, Linear

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")

HIDDEN = (256, 256)


def make_program(seed=0, members=2, hidden=HIDDEN, norm=False):
    generator = torch.Generator().manual_seed(seed)
    every = []
    for _ in range(members):
        layers, inputs = [], 23
        for width in hidden:
            layers.append(Linear(torch.randn(width, inputs, generator=generator) * (2 / inputs) ** 0.5))
            layers += [LayerNorm(width)] * norm + [Activation("relu")]
            inputs = width
        layers.append(Linear(torch.randn(1, inputs, generator=generator) / inputs**0.5))
        every.append(tuple(layers))
    return CriticProgram(17, 6, tuple(every))


def make_executor(program, **kwargs):
    bounds = {"low": np.full(6, -1, np.float32), "high": np.full(6, 1, np.float32)}
    return CpuExecutor(program, RefineOptions(**bounds, **kwargs.pop("options", {})), **kwargs)


def make_inputs(batch, candidates=1):
    generator = torch.Generator().manual_seed(batch)
    states = torch.randn(batch, 17, generator=generator)
    return states, torch.rand(batch, candidates, 6, generator=generator) * 2 - 1


def run(executor, states, actions, steps=5, lr=0.05):
    out = torch.empty(len(states), 6)
    executor.run(states, actions, out, steps=steps, lr=lr, info=None)
    return out


@pytest.fixture(params=["torch", "own"])
def threads(request):
    """Sets torch's thread count for one test, which runs on torch's threads, then on those of the package."""
    before, library = torch.get_num_threads(), loaded_runtime()
    if request.param == "own":
        _C.use_openmp("")
    elif library is None:
        pytest.skip("this torch has no OpenMP library that can be told")
    yield torch.set_num_threads
    torch.set_num_threads(before)
    if library is not None:
        assert _C.use_openmp(str(library))


@pytest.mark.parametrize("kernel", ["rows", "tiles"])
@pytest.mark.parametrize(
    ("batch", "members", "reduce", "hidden"),
    [
        (1, 2, "min", (512, 512)),  # members divided among threads
        (1, 3, "mean", (512, 512)),
        (1, 5, "min", (512, 512)),
        (7, 2, "min", HIDDEN),
        (300, 2, "min", HIDDEN),
        (300, 3, "mean", HIDDEN),
    ],
)
def test_the_number_of_threads_changes_no_bit(threads, kernel, batch, members, reduce, hidden):
    executor = make_executor(
        make_program(members=members, hidden=hidden), options={"reduce": reduce}, kernel=kernel
    )
    states, actions = make_inputs(batch)
    threads(1)
    alone = run(executor, states, actions, steps=20)
    for n in (2, 3):
        threads(n)
        for _ in range(3):
            assert torch.equal(run(executor, states, actions, steps=20), alone)


@pytest.mark.parametrize("batch", [1, 5, 200])
def test_calls_from_several_python_threads_at_once(threads, batch):
    threads(2)
    executor = make_executor(make_program())
    inputs = [make_inputs(batch + i) for i in range(4)]
    expected = [run(executor, *x) for x in inputs]
    wrong = []

    def work(i):
        wrong.append(sum(not torch.equal(run(executor, *inputs[i]), expected[i]) for _ in range(10)))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == [0] * 4


def test_repacking_while_others_call_gives_old_or_new_numbers(threads):
    threads(2)
    programs = [make_program(seed) for seed in (0, 1)]
    executor = make_executor(programs[0])
    states, actions = make_inputs(100)
    expected = [run(make_executor(p), states, actions) for p in programs]
    seen, stop = set(), threading.Event()

    def work():
        while not stop.is_set():
            out = run(executor, states, actions)
            seen.add(next((i for i, e in enumerate(expected) if torch.equal(out, e)), "neither"))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for i in range(20):
        executor.repack(programs[(i + 1) % 2])
    stop.set()
    for worker in workers:
        worker.join()
    assert seen <= {0, 1}
    assert torch.equal(run(executor, states, actions), expected[0])


def test_repack_takes_the_same_structure_only():
    executor = make_executor(make_program())
    with pytest.raises(ValueError, match="same structure"):
        executor.repack(make_program(hidden=(256, 255)))
    with pytest.raises(ValueError, match="same structure"):
        executor.repack(make_program(norm=True))


_FORK = """
import os, sys, torch
sys.path.insert(0, {here!r})
os.environ["DTAG_THREADS"] = {threads!r}
from test_cpu_behaviour import make_executor, make_inputs, make_program, run
torch.set_num_threads(2)
executor, inputs = make_executor(make_program()), make_inputs(300)
expected = run(executor, *inputs, steps=20)
for _ in range(3):
    child = os.fork()
    if child == 0:
        same = all(torch.equal(run(executor, *inputs, steps=20), expected) for _ in range(3))
        os._exit(0 if same else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(run(executor, *inputs, steps=20), expected)
print("both work")
"""


@pytest.mark.parametrize("threads", ["torch", "own"])
def test_parent_and_child_work_after_fork_and_the_interpreter_ends_cleanly(threads):
    """In a process of its own, with its pool's threads running before the fork and at the exit."""
    script = _FORK.format(here=os.path.dirname(__file__), threads=threads)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "both work"), done.stderr


def test_whose_threads_it_runs_on(monkeypatch):
    library = loaded_runtime()
    if library is not None:
        assert share_threads(_C) == f"torch's ({library.name})"
        assert not _C.use_openmp(_C.__file__), "not an OpenMP library"
        assert not _C.use_openmp("/no/such/library.so")
        assert _C.use_openmp(str(library))
    monkeypatch.setenv("DTAG_THREADS", "own")
    assert share_threads(_C) == "its own (DTAG_THREADS=own)"
    monkeypatch.setenv("DTAG_THREADS", "mine")
    with pytest.raises(ValueError, match=r"DTAG_THREADS: expected one of \('torch', 'own'\), got 'mine'"):
        share_threads(_C)


@pytest.mark.parametrize("kernel", ["rows", "tiles"])
def test_strided_and_broadcast_states_are_read_in_place(kernel):
    executor = make_executor(make_program(), kernel=kernel)
    wide, (_, actions) = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)), make_inputs(9)
    view = wide[:, 5:22]
    assert torch.equal(run(executor, view, actions), run(executor, view.contiguous(), actions))
    one = wide[:1, :17].expand(9, 17)
    assert torch.equal(run(executor, one, actions), run(executor, one.contiguous(), actions))


@pytest.mark.parametrize("kernel", ["rows", "tiles"])
def test_candidates_are_independent_and_the_best_wins(kernel):
    executor = make_executor(make_program(), kernel=kernel)
    states, actions = make_inputs(13, candidates=3)
    together = run(executor, states, actions)
    alone = torch.stack([run(executor, states, actions[:, m : m + 1].contiguous()) for m in range(3)], 1)
    assert (together[:, None] == alone).all(2).any(1).all()
    assert not torch.equal(together, alone[:, 0])


def test_inputs_are_left_alone():
    executor = make_executor(make_program())
    states, actions = make_inputs(50)
    actions = actions * 3  # outside the box: a_0 is the projection, the argument stays
    before = states.clone(), actions.clone()
    run(executor, states, actions)
    assert torch.equal(states, before[0]) and torch.equal(actions, before[1])


def test_dispatch_follows_dtag_isa(monkeypatch):
    monkeypatch.delenv("DTAG_ISA", raising=False)
    assert _C.default_isa() == _C.isas()[-1]
    assert _C.isas()[0] == "baseline"
    assert set(_C.isas()) <= set(_C.build_info()["isas"])
    program = make_program()
    for isa in [*_C.isas(), "emulated512"]:
        monkeypatch.setenv("DTAG_ISA", isa)
        assert _C.default_isa() == isa and make_executor(program).isa == isa
    monkeypatch.setenv("DTAG_ISA", "sse9")
    with pytest.raises(ValueError, match=r'DTAG_ISA: .*one of .*baseline.*, got "sse9"'):
        make_executor(program)
    emulated = {"emulated512", "emulated512bf16", "emulated512amx"}
    for isa in set(_C.build_info()["isas"]) - set(_C.isas()) - emulated:
        monkeypatch.setenv("DTAG_ISA", isa)
        with pytest.raises(ValueError, match="this machine does not run it"):
            make_executor(program)


def test_the_batch_size_chooses_the_kernel():
    executor = make_executor(make_program())
    kernels = [executor.kernel_for(rows, 10) for rows in (1, 2, 64, 4096)]
    assert kernels == ["rows", "rows", "tiles", "tiles"]


def of_layers(width, *between):
    """One member of two hidden layers, each followed by the layers `between`."""
    first, second = Linear(torch.zeros(width, 23)), Linear(torch.zeros(width, width))
    layers = (first, *between, second, *between, Linear(torch.zeros(1, width)))
    return CriticProgram(17, 6, (layers,))


RELU = Activation("relu")
TILE_REGISTERS = {
    "ReLU": (of_layers(256, RELU), 4),
    "more weights than the cache holds": (of_layers(1024, RELU), 8),
    "smooth": (of_layers(64, Activation("tanh")), 8),
    "LayerNorm": (of_layers(64, LayerNorm(64), RELU), 8),
    "too narrow for bf16": (of_layers(31, RELU), 16),
}


@pytest.mark.parametrize("name", TILE_REGISTERS)
def test_in_tile_registers_fewer_rows_are_worth_a_tile(name):
    program, most = TILE_REGISTERS[name]
    otherwise = 8 if name == "smooth" else 16
    for precision, isa, rows in (
        ("bf16", "emulated512amx", most),
        ("bf16", "emulated512bf16", otherwise),
        ("fp32", "emulated512amx", otherwise),
    ):
        executor = make_executor(program, precision=precision, isa=isa)
        kernels = [executor.kernel_for(size, 10) for size in range(1, 65)]
        assert kernels == ["rows"] * rows + ["tiles"] * (64 - rows)


def test_why_not_names_the_reason():
    options = RefineOptions()
    assert why_not(make_program(), options, torch.device("cpu"), "fp32") is None
    assert "cuda" in why_not(make_program(), options, torch.device("cuda"), "fp32")
    assert "tf32" in why_not(make_program(), options, torch.device("cpu"), "tf32")


ARRAY = np.zeros((4, 23), np.float32)
GOOD = [[("linear", ARRAY, None), ("activation", "relu", []), ("linear", np.zeros((1, 4), np.float32), None)]]


def make_plan(**kwargs):
    return _C.Plan(**({"state_dim": 17, "action_dim": 6, "members": GOOD, "threads": lambda: 1} | kwargs))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"state_dim": 0}, "state_dim"),
        ({"state_dim": 16}, "takes 23 inputs, expected 22"),
        ({"action_dim": 257}, "action_dim"),
        ({"members": []}, "members"),
        ({"members": [[]]}, "0 linear layers"),
        ({"members": [GOOD[0][:1]]}, "one output"),
        ({"members": [GOOD[0][1:]]}, "first layer must be linear"),
        ({"members": [[*GOOD[0], ("activation", "relu", [])]]}, "linear alone"),
        ({"members": [[("linear", ARRAY.astype(np.float64), None)]]}, "float32"),
        ({"members": [[("linear", ARRAY.T, None)]]}, "C-contiguous"),
        ({"members": [[("linear", ARRAY[0], None)]]}, r"expected \(out, in\)"),
        ({"members": [[("linear", ARRAY, ARRAY[0])]]}, "bias"),
        ({"members": [[("conv", ARRAY, None)]]}, "first layer must be linear"),
        ({"members": [[GOOD[0][0], ("activation", "swish", [])]]}, 'one of "identity"'),
        ({"members": [[GOOD[0][0], ("activation", "elu", [])]]}, "takes 1 parameters, got 0"),
        ({"members": [[GOOD[0][0], ("norm", ARRAY[0], None, 1e-5)]]}, "weight: expected"),
        ({"members": [[GOOD[0][0], ("norm", None, None, -1.0)]]}, "eps"),
        ({"members": [[GOOD[0][0]] * 9]}, "9 linear layers"),
        ({"isa": "mmx"}, "mmx"),
        ({"precision": "fp8"}, "precision"),
        ({"reduce": "median"}, "reduce"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"optimizer_options": {"momentum": -1.0}}, "momentum"),
        ({"gradient": "sign"}, "gradient"),
        ({"gradient": "clip", "clip": float("nan")}, "clip"),
        ({"radius_norm": "l1"}, "radius_norm"),
        ({"radius": -1.0}, "radius"),
        ({"select": "worst"}, "select"),
        ({"low": [0.0], "high": [1.0]}, "low, high"),
        ({"low": [1.0] * 6, "high": [0.0] * 6}, "low must not exceed high"),
        ({"low": [float("nan")] * 6, "high": [0.0] * 6}, "neither be NaN"),
        ({"steps": -1}, "steps"),
        ({"lr": -0.1}, "lr"),
        ({"scale": -0.1}, "scale"),
        ({"prior_mean": float("inf")}, "prior_mean"),
        ({"prior_weight": -0.1}, "prior_weight"),
        ({"kernel": "columns"}, "kernel"),
    ],
)
def test_wrong_plans_are_refused_by_name(wrong, says):
    with pytest.raises(ValueError, match=says):
        make_plan(**wrong)


def test_wrong_types_are_refused():
    for wrong in ({"members": [[("linear", [[1.0]], None)]]}, {"threads": 3}, {"state_dim": "17"}):
        with pytest.raises(TypeError):
            make_plan(**wrong)


def test_wrong_calls_are_refused():
    plan = make_plan()
    floats = np.zeros(64, np.float32)
    at = floats.ctypes.data
    good = {"states": at, "state_stride": 17, "actions": at, "out": at, "batch": 1, "steps": 1}
    plan.run(**good)
    for wrong in (
        {"states": 0},
        {"actions": 0},
        {"out": 0},
        {"out": at + 2},
        {"batch": -1},
        {"batch": 1 << 50},
        {"candidates": 0},
        {"steps": -1},
        {"state_stride": 3},
        {"state_stride": -17},
        {"lr": float("nan")},
        {"lr_values": at, "lr_row_stride": 999},
        {"scale": -1.0},
        {"scale_values": at, "scale_row_stride": 999},
        {"scale_values": at, "scale_dim_stride": 2},
        {"radius_values": at + 2},
        {"prior_mean": float("nan")},
        {"prior_weight": -1.0},
        {"prior_weight_values": at + 2},
        {"prior_mean_values": at, "prior_mean_row_stride": 999},
        {"prior_mean_values": at, "prior_mean_dim_stride": 2},
        {"q_first": at},
        {"trace_q": at},
    ):
        with pytest.raises(ValueError):
            plan.run(**good | wrong)
