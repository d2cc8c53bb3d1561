"""The Triton kernel compiled ahead of time, without a GPU: the interpreter takes what compilers refuse.

In processes of their own, as this one may have chosen the interpreter.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if (
    importlib.util.find_spec("triton") is None
):  # not imported: it would fix the interpreter's choice for all tests
    pytest.skip("triton is not installed", allow_module_level=True)

if not (ROOT / "tools").exists():
    pytest.skip("not in a source tree", allow_module_level=True)

EVERYTHING = """
import numpy as np, sys, torch
from dtag_fast.ops.refine.options import Adam, ClipNorm, Radius, RefineOptions, RMSprop, SGD
from dtag_fast.ops.refine.program import ACTIVATIONS, Activation, CriticProgram, LayerNorm, Linear
from tools.triton_compile import TARGETS
from tools.triton_resources import compile_kernel

numbers = {"slope": 0.1, "alpha": 1.0, "beta": 1.5, "threshold": 20.0}
chain = [Activation(kind, tuple(numbers[name] for name in names)) for kind, names in ACTIVATIONS.items()]
weights = [Linear(torch.zeros(shape)) for shape in ((40, 23), (1, 40), (24, 1), (1, 24))]
first = [weights[0], LayerNorm(40), *chain, weights[1], LayerNorm(1), weights[2], *chain[1:3], weights[3]]
program = CriticProgram(17, 6, (first, [Linear(torch.zeros(1, 23))]))
wide = CriticProgram(17, 256, ([Linear(torch.zeros(2048, 273)), Linear(torch.zeros(1, 2048))],))
low = np.full(6, -1, np.float32)
target = TARGETS[sys.argv[1]]
all_options = [
    {"optimizer": Adam(), "gradient": "unit", "radius": Radius(0.1, "l2"), "reduce": "mean"},
    {"optimizer": RMSprop(), "gradient": ClipNorm(1.0), "radius": Radius(0.1), "select": "last"},
    {"optimizer": SGD(0.9, nesterov=True)},
]
precisions = ("fp32", "tf32", "bf16")
for options, precision, slots in zip(all_options, precisions, (4, 1, 16), strict=True):
    options = RefineOptions(low=low, high=-low, **options)
    compile_kernel(program, options, precision, target, 16, slots=slots, everything=True)
    kernel = compile_kernel(wide, RefineOptions(), precision, target, 16)
    assert kernel.metadata.shared <= (64 if target.backend == "hip" else 160) * 1024, kernel.metadata.shared
"""


def run(*words):
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "hip:gfx942"])
def test_every_option_compiles(target):
    run("-c", EVERYTHING, target)


def test_the_standard_problem_compiles_without_a_gpu(tmp_path):
    out = str(tmp_path / "resources.json")
    text = run("-m", "tools.triton_resources", "--target", "cuda:90", "--precision", "bf16", "--out", out)
    found = json.loads(Path(out).read_text())["kernels"]
    assert [kernel["rows"] for kernel in found] == [64, 32, 16]
    assert all(0 < kernel["registers"] <= 255 and kernel["spills"] == 0 for kernel in found)
    assert all(0 < kernel["shared"] < 160 * 1024 for kernel in found)
    assert text.count("| cuda:90 | bf16 |") == 3


@pytest.mark.slow
def test_the_standard_problem_spills_nothing_anywhere():
    run("-m", "tools.triton_resources")


OPERATORS = {
    "attention": {"tokens": 60, "width": 128},
    "embedding": {"states": 17, "actions": 6, "width": 128},
    "block": {"batch": 64, "tokens": 60, "width": 128, "heads": 1, "norm": "post"},
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_compiles_without_a_gpu(operator):
    """Its kernels of one shape, without a spill."""
    script = f"""
from tools.op_resources import fault, resources

for kernel in ("forward", "backward"):
    r = resources({operator!r}, "cuda:90", "bf16", kernel, {OPERATORS[operator]})
    assert r.registers <= 255 and r.spills == 0 and fault(r) is None, r
"""
    run("-c", script)


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_compiles_everywhere_within_its_limits(operator):
    run("-m", f"tools.{operator}_resources")


FAULTS = {
    "spills 200 bytes, allowed 192": {"spills": 200},
    "a program takes 65792 registers, a multiprocessor has 65536": {"registers": 257, "num_warps": 8},
    "asks for 166913 bytes of shared memory, the device has 166912": {"shared": 163 * 1024 + 1},
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_what_does_not_fit_is_named(sentence):
    fits = {"num_warps": 4, "registers": 128, "spills": 0, "scalar_spills": 0, "shared": 0}
    script = f"""
from tools.op_resources import Resources, fault

print(fault(Resources("cuda:80", "bf16", "forward", {{"width": 64}}, "16 x 64", **{fits | FAULTS[sentence]})))
"""
    assert run("-c", script) == f"cuda:80, bf16, forward of width 64: {sentence}.\n"
