"""The compiled module stands alone: no libtorch, no CUDA runtime, no torch import."""

import shutil
import subprocess
from pathlib import Path

import pytest

core = pytest.importorskip("dtag_fast._C", reason="installed without the compiled module")

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # any import of it raises
import dtag_fast, dtag_fast._C
assert dtag_fast._C.build_info()["compiler"]
"""


@pytest.mark.skipif(not shutil.which("ldd"), reason="needs ldd")
def test_it_links_no_libtorch_and_no_shared_cuda():
    linked = subprocess.run(["ldd", core.__file__], capture_output=True, text=True, check=True).stdout
    names = {Path(line.split()[0]).name.split(".")[0] for line in linked.splitlines() if line.strip()}
    assert "libc" in names  # ldd did list the libraries
    assert not names & {"libtorch", "libtorch_cpu", "libtorch_python", "libc10", "libcudart", "libcuda"}


def test_it_imports_where_torch_cannot(run, tmp_path):
    run("-c", WITHOUT_TORCH, cwd=tmp_path)


def test_build_info_says_what_was_compiled():
    info = core.build_info()
    assert set(info) >= {"isas", "compiler", "cuda", "sanitize"}
    assert info["compiler"].split()[0] in {"GNU", "Clang", "AppleClang"}
    assert isinstance(info["cuda"], bool)
