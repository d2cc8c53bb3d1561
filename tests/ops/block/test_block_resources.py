"""The block's kernels compiled ahead of time, without a GPU: what they take of registers and shared memory.

In processes of their own, as this one may have chosen the interpreter.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
if importlib.util.find_spec("triton") is None:  # not imported: it would fix the interpreter's choice
    pytest.skip("triton is not installed", allow_module_level=True)
if not (ROOT / "tools").exists():
    pytest.skip("not in a source tree", allow_module_level=True)

SPILL_LIMIT = 288  # bytes of a thread that may pass through local memory, between the steps of a block
SCRIPT = """
import sys
from dtag_fast.ops.block.kernels_backward import block_backward
from dtag_fast.ops.block.kernels_forward import block_forward
from dtag_fast.ops.block.launch import constants, types
from dtag_fast.ops.block.tiles import launch_options, tiles_for
from tools.triton_compile import TARGETS, compiled, registers

name, dtype, precision, direction, tokens, width, heads, norm, batch, spill_limit = sys.argv[1:]
tokens, width, heads, batch = int(tokens), int(width), int(heads), int(batch)
kernel = {"forward": block_forward, "backward": block_backward}[direction]
itemsize = {"bf16": 2, "fp32": 4}[dtype]
tiles = tiles_for(
    batch, None, tokens, width, width // heads, itemsize, precision, backward=direction == "backward"
)
made = compiled(
    kernel,
    types(kernel, dtype, norm=norm, chosen=False),
    constants(kernel, tiles, width, 4 * width, heads, norm, "gelu", precision),
    TARGETS[name],
    launch_options(hip=False),
)
used, spilled, _ = registers(made, TARGETS[name])
limit = 163 if name == "cuda:80" else 227
shared = made.metadata.shared / 1024
print(f"{sys.argv[1:]}: {used} registers, {spilled} bytes spilled, {shared:.0f} KB shared")
assert used <= 255 and spilled <= int(spill_limit) and shared <= limit
"""


def check(*words):
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    words = [str(word) for word in words]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words, str(SPILL_LIMIT)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, end="")


def test_the_block_of_60_tokens_compiles_without_a_gpu():
    check("cuda:90", "bf16", "ieee", "forward", 60, 128, 1, "post", 64)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("dtype", "precision", "shape"),
    [
        *(("bf16", "ieee", shape) for shape in ((15, 256, 8), (60, 128, 1), (60, 256, 4))),
        *(("fp32", "tf32", shape) for shape in ((15, 256, 8), (60, 128, 1), (60, 256, 4))),
        *(("fp32", "tf32x3", shape) for shape in ((15, 256, 8), (60, 256, 8), (30, 256, 4))),
    ],
)
def test_it_compiles_everywhere_within_its_limits(target, direction, dtype, precision, shape):
    check(target, dtype, precision, direction, *shape, "post", 4096)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_so_do_the_norm_before_and_small_batches(direction):
    check("cuda:90", "bf16", "ieee", direction, 60, 256, 4, "pre", 4096)
    check("cuda:90", "bf16", "ieee", direction, 15, 256, 8, "post", 64)
