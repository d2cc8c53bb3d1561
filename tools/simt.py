"""Builds dtag_simt, the CUDA kernels run on the CPU, and the tests of the machine it stands in for.

    python -m tools.simt                  build, and run the machine's own tests
    python -m tools.simt --sanitize       the same with AddressSanitizer and UndefinedBehaviorSanitizer, then
                                          the kernels' tests of shapes and a fuzz of repeated calls on it

Tests of the kernels import the module through `load()`, which builds it when something changed.
"""

import argparse
import fcntl
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = "address,undefined"


def build(sanitize: bool = False, targets: tuple[str, ...] = ("dtag_simt",)) -> Path:
    """Configures and builds; returns the folder with the results."""
    import pybind11

    folder = ROOT / "build" / ("simt-sanitized" if sanitize else "simt")
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "DTAG_SIMT": "ON",
        "DTAG_CUDA": "OFF",
        "DTAG_SANITIZE": SANITIZERS if sanitize else "",
        "DTAG_PYTHON_INCLUDE": sysconfig.get_path("include"),
        "DTAG_PYTHON_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
        "DTAG_PYBIND11_INCLUDE": pybind11.get_include(),
    }
    configure = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        folder,
        "-G",
        "Ninja",
        *(f"-D{k}={v}" for k, v in options.items()),
    ]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes started at once wait for one build
        for command in (configure, ["cmake", "--build", folder, "--target", *targets]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"dtag_simt did not compile:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return folder


def load() -> ModuleType:
    """The module; the sanitized one when DTAG_SIMT_SANITIZE=1, which must then be preloaded (Makefile)."""
    folder = build(os.environ.get("DTAG_SIMT_SANITIZE") == "1")
    path = str(folder / f"dtag_simt{sysconfig.get_config_var('EXT_SUFFIX')}")
    loader = importlib.machinery.ExtensionFileLoader("dtag_simt", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("dtag_simt", loader))
    loader.exec_module(module)
    return module


def runtime_libraries() -> str:
    """What must be loaded before a Python that is not sanitized; libstdc++ for exceptions to be seen."""
    compiler = os.environ.get("CXX", "c++").split()[0]

    def library(name: str) -> str:
        command = [compiler, f"-print-file-name={name}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    runtime = library("libasan.so")
    if not Path(runtime).exists():
        runtime = library(f"libclang_rt.asan-{os.uname().machine}.so")  # clang's name for it
    return f"{runtime} {library('libstdc++.so')}"


def test_kernels_sanitized() -> int:
    """Tests of shapes, rows and candidates, and a fuzz of repeated calls, on the sanitized build."""
    environment = {
        "DTAG_SIMT_SANITIZE": "1",
        "LD_PRELOAD": runtime_libraries(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps memory to the end on purpose
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    tests = sorted(map(str, (ROOT / "tests/ops/refine").glob("test_cuda_*.py")))
    chosen = "shapes or strided or candidate or members or not_finite or new_numbers or workspace"
    pytest = [sys.executable, "-m", "pytest", "-p", "no:benchmark", "-p", "no:cacheprovider", "-n", "auto"]
    fuzz = [sys.executable, "tests/csrc/fuzz_prepared_call.py", "2000", "1", "cuda"]
    for command in ([*pytest, "--maxprocesses", "4", "-k", chosen, *tests], fuzz):
        status = subprocess.run(command, cwd=ROOT, env=os.environ | environment).returncode
        if status:
            return status
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", action="store_true")
    sanitize = parser.parse_args().sanitize
    folder = build(sanitize, ("dtag_simt", "test_simt"))
    status = subprocess.run([folder / "test_simt"]).returncode
    return status or (test_kernels_sanitized() if sanitize else 0)


if __name__ == "__main__":
    sys.exit(main())
