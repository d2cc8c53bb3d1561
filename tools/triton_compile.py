"""Compiling Triton kernels ahead of time, without a GPU, and reading what they take."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
from triton.compiler import ASTSource, CompiledKernel

from . import ptxas

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "cuda:100": GPUTarget("cuda", 100, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
}


def compiled(
    kernel,
    types: dict[str, str],
    constants: dict,
    target: GPUTarget,
    options: dict,
    multiples_of_16: tuple[str, ...] = (),
) -> CompiledKernel:
    """A kernel for arguments of these types (Triton's names), all others constants; None where none is given.

    Pointers are taken to be multiples of 16 bytes, as torch's are; so are the numbers in `multiples_of_16`.
    """
    names = kernel.arg_names
    divisible = {name for name, kind in types.items() if kind.startswith("*")} | set(multiples_of_16)
    source = ASTSource(
        kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={name: constants.get(name) for name in names if name not in types},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in divisible},
    )
    return triton.compile(source, target=target, options=options)


def registers(kernel: CompiledKernel, target: GPUTarget) -> tuple[int, int, int]:
    """Per thread; spilled bytes, on AMD vector registers; scalar registers parked, on AMD alone."""
    return (_of_amd if target.backend == "hip" else _of_nvidia)(kernel, target)


def _of_nvidia(kernel: CompiledKernel, target: GPUTarget) -> tuple[int, int, int]:
    """From the words of the assembler that Triton itself uses."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(kernel.asm["ptx"])
        command = [get_ptxas(target.arch).path, "-v", f"--gpu-name={sm_arch_from_capability(target.arch)}"]
        command += [str(source), "-o", str(Path(folder, "kernel.cubin"))]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (found,) = ptxas.resources(text)
    return found["registers"], max(found["stack"], found["spill_stores"], found["spill_loads"]), 0


def _of_amd(kernel: CompiledKernel, target: GPUTarget) -> tuple[int, int, int]:
    """From the kernel's metadata in the assembly text."""

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}: +(\d+)", kernel.asm["amdgcn"])[1])

    return number("vgpr_count"), number("vgpr_spill_count"), number("sgpr_spill_count")
