"""Where the tests of the CUDA kernels run: on a GPU, or the same sources on the CPU (tools/simt.py)."""

from functools import cache, partial

import pytest
import torch
from kernel_cases import traced

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
run_traced = partial(traced, device=DEVICE)


@cache
def load_core():
    """The module with CudaPlan; skips the test, or the file, where there is none."""
    if DEVICE == "cpu":
        return pytest.importorskip("tools.simt", reason="needs the sources beside the tests").load()
    core = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
    if not hasattr(core, "CudaPlan"):
        pytest.skip("the compiled module was built without CUDA", allow_module_level=True)
    return core


def set_device(**properties):
    """Of the GPU that the CPU stands in for; a real one stays as it is."""
    if DEVICE == "cpu":
        load_core().set_device(**properties)
