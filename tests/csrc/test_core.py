"""The compiled core by itself: under sanitizers, on emulated AVX-512, and what its object files contain."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

needs_sources = pytest.mark.skipif(
    not CSRC.is_dir() or COMPILER is None or shutil.which("cmake") is None,
    reason="needs the C++ sources, a C++ compiler and cmake",
)
needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="looks at x86 instructions")


def command(*words, timeout=600):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def has_simde() -> bool:
    probe = [COMPILER, "-E", "-x", "c++", "-", "-o", os.devnull]
    source = "#include <simde/x86/avx512/dpbf16.h>\n"
    return subprocess.run(probe, input=source, text=True, capture_output=True).returncode == 0


@pytest.mark.slow
@needs_sources
@needs_x86
def test_random_plans_in_emulated_avx512_under_sanitizers():
    """The AVX-512 units themselves, on any machine, with their intrinsics in the portable C of SIMDe. What
    the machine runs by itself is fuzzed, with more plans, by `make sanitize`."""
    if not has_simde():
        pytest.skip("needs the SIMDe headers")
    build = HERE.parents[1] / "build" / f"tests-{Path(COMPILER).name}-simde"
    build.mkdir(parents=True, exist_ok=True)  # kept, so that only what changed is compiled again
    with open(build / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["-DDTAG_SIMDE=ON", "-DDTAG_SANITIZE=address,undefined"]
        command("cmake", "-S", HERE, "-B", build, f"-DCMAKE_CXX_COMPILER={COMPILER}", *options)
        command("cmake", "--build", build, "--parallel", "2")
        said = command(build / "fuzz_plan", 60, 1)
    emulated = {"emulated512", "emulated512bf16", "emulated512amx"}
    assert emulated | {"baseline", "avx512", "avx512bf16", "avx512amx"} <= set(said.split())


def test_random_arguments_to_the_binding():
    pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
    assert "refused" in command(sys.executable, HERE / "fuzz_binding.py", 1500, 1)


def compile_unit(tmp_path, name, *flags):
    """Without optimisation: every inline function that is called leaves a copy in the object file."""
    target = tmp_path / f"{name}.o"
    common = ["-std=c++20", "-O0", "-Wno-psabi", "-ffp-contract=off", f"-I{CSRC}"]
    command(COMPILER, *common, *flags, "-c", CSRC / "cpu" / f"kernels_{name}.cpp", "-o", target)
    return target


@needs_sources
@needs_x86
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("avx2", ["-mavx2", "-mfma"]),
        ("avx512", [f"-mavx512{x}" for x in ("f", "vl", "dq", "bw")] + ["-mfma"]),
        (
            "avx512amx",
            [f"-mavx512{x}" for x in ("f", "vl", "dq", "bw", "bf16")] + ["-mfma", "-mamx-tile", "-mamx-bf16"],
        ),
    ],
)
def test_units_of_wider_instructions_share_no_function(tmp_path, name, flags):
    """The linker may merge weak symbols of equal name: none may be outside the unit's own namespace."""
    symbols = command("nm", "-C", compile_unit(tmp_path, name, *flags)).splitlines()
    weak = [s for s in symbols if re.search(r" [WVu] ", s) and "DW.ref." not in s]
    assert all(f"dtag::{name}::" in s for s in weak)
    defined = [s.split(maxsplit=2)[2] for s in symbols if re.search(r" [TDRB] ", s)]
    assert defined == [f"dtag::{name}::kernels"]


@needs_sources
@needs_x86
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.parametrize("name", ["baseline", "emulated"])
def test_the_baseline_has_no_vex_instruction(tmp_path, name):
    code = command("objdump", "-d", "--no-show-raw-insn", compile_unit(tmp_path, name))
    assert "mulps" in code
    assert not re.search(r"[yz]mm|\tv[a-z]+[ps][sd]\b", code)
