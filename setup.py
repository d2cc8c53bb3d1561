"""Builds `dtag_fast._C` with CMake; everything else about the package is in pyproject.toml.

Environment:
    DTAG_BUILD=0               leave the compiled module out: pure Python, with the torch and Triton backends
    DTAG_CUDA=AUTO|ON|OFF      compile the CUDA kernels: when nvcc is found (default), or fail, or never
    DTAG_SANITIZE=address|undefined|address,undefined
    CMAKE_CUDA_ARCHITECTURES   CMake's list, for example "90a"
    CXX                        the C++ compiler
    CMAKE_BUILD_PARALLEL_LEVEL compile jobs at once

The objects stay in build/<python>-<platform>..., so that a second install compiles only what changed.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
WITH_EXTENSION = os.environ.get("DTAG_BUILD", "1") != "0"
NO_EXTENSION_HINT = "set DTAG_BUILD=0 to install without the compiled CPU backend"


def find_compiler() -> str:
    """The C++ compiler CMake will use; ends the installation with one sentence when there is none."""
    named = os.environ.get("CXX")
    for candidate in [named] if named else ["c++", "g++", "clang++"]:
        if shutil.which(candidate.split()[0]):
            return candidate
    given = f" (CXX={named} is not on PATH)" if named else ""
    sys.exit(
        f"error: dtag_fast needs a C++20 compiler and found none{given}: "
        f"install g++ or clang (Debian: apt install g++), or {NO_EXTENSION_HINT}."
    )


def build_folder() -> Path:
    """One folder per thing that changes every object: Python, platform, compiler and sanitizer."""
    parts = [sys.implementation.cache_tag, sysconfig.get_platform()]
    if os.environ.get("CXX"):
        parts.append(Path(os.environ["CXX"].split()[0]).name)
    if os.environ.get("DTAG_SANITIZE"):
        parts.append(os.environ["DTAG_SANITIZE"].replace(",", "-"))
    return ROOT / "build" / "-".join(parts)


def forget_moved_sources(folder: Path) -> None:
    """CMake refuses a folder it configured for sources at another path (a checkout that moved)."""
    cache = folder / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in cache.read_text():
        shutil.rmtree(folder)


def pybind11_headers(folder: Path) -> Path:
    """A copy of pybind11's headers at a path that stays: pip's isolated build gives a new one, with new file
    times, to each run, and every file that includes them would be compiled again."""
    import pybind11

    kept = folder / f"pybind11-{pybind11.__version__}"
    if not kept.exists():
        unfinished = kept.with_suffix(f".{os.getpid()}")
        shutil.copytree(pybind11.get_include(), unfinished)
        unfinished.rename(kept)
    return kept


def cmake_arguments(folder: Path) -> list[str]:
    options = {
        "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
        "DTAG_PYTHON_INCLUDE": sysconfig.get_path("include"),
        "DTAG_PYTHON_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
        "DTAG_PYBIND11_INCLUDE": pybind11_headers(folder),
        # Always given, so that an option of the last run is not remembered by the next.
        "DTAG_CUDA": os.environ.get("DTAG_CUDA", "AUTO"),
        "DTAG_SANITIZE": os.environ.get("DTAG_SANITIZE", ""),
        "CMAKE_CUDA_ARCHITECTURES": os.environ.get("CMAKE_CUDA_ARCHITECTURES", ""),
    }
    return ["-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *(f"-D{k}={v}" for k, v in options.items())]


class CMakeBuild(build_ext):
    """Configures and builds in the kept folder, then puts the module where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        find_compiler()
        for tool in ("cmake", "ninja"):
            if not shutil.which(tool):
                sys.exit(f"error: dtag_fast needs {tool} to build: install it, or {NO_EXTENSION_HINT}.")
        folder = build_folder()
        forget_moved_sources(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two installs at once wait for one another
            self.compile(folder)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"), str(target))

    def compile(self, folder: Path) -> None:
        for command in (["cmake", *cmake_arguments(folder)], ["cmake", "--build", str(folder)]):
            if subprocess.run(command).returncode:
                sys.exit(f"error: dtag_fast._C did not compile (see above): mend it, or {NO_EXTENSION_HINT}.")


class Build(build):
    """Starts from an empty staging folder: setuptools would pack files deleted since the last build."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    ext_modules=[Extension("dtag_fast._C", sources=[])] if WITH_EXTENSION else [],
    cmdclass={"build": Build, "build_ext": CMakeBuild},
)
