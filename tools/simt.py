"""Builds dtag_simt, the CUDA kernels run on the CPU, and the tests of the machine it stands in for.

    python -m tools.simt                  build, and run the machine's own tests
    python -m tools.simt --sanitize       the same with AddressSanitizer and UndefinedBehaviorSanitizer

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", action="store_true")
    folder = build(parser.parse_args().sanitize, ("dtag_simt", "test_simt"))
    return subprocess.run([folder / "test_simt"]).returncode


if __name__ == "__main__":
    sys.exit(main())
