"""Compiles every CUDA kernel for each architecture; fails where one spills or takes too much shared memory,
or where ptxas gives up the overlap of warpgroup products.

    python -m tools.cuda_check [--source csrc/cuda] [--dynamic FILE] [--out docs/results/cuda-resources.json]

Flags are those of the build when a CMake build folder has compiled CUDA (compile_commands.json). --dynamic:
a JSON of kernel name pattern -> bytes of shared memory given at launch, which no compiler knows:
{"refine_cluster<*>": 0}. Needs nvcc but no GPU. Exit code 1 with a sentence per fault; without nvcc it says
so and ends well.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from importlib import util
from pathlib import Path

from . import ptxas, tables

ROOT = Path(__file__).resolve().parents[1]
FORMAT = 1
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
DEFAULT_FLAGS = ("-std=c++20", "-O3", "-fmad=false", "-I", "csrc")
# Bytes of shared memory a block can have at most, by compute capability.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Of a compile command: what each of these has after it is another word; ours replace both.
TARGETS_AND_OUTPUTS = ("-o", "-gencode", "-arch", "-code", "-x", "-MT", "-MF", "-MQ", "-c")
PREFIXES = ("--generate-code", "-gencode=", "-arch=", "-code=", "--gpu-architecture", "--gpu-code", "-MD")


def known(architectures: tuple[str, ...]) -> list[str]:
    """Those that the installed nvcc compiles for; its list leaves out the variants such as sm_90a."""
    listed = subprocess.run(["nvcc", "--list-gpu-code"], text=True, capture_output=True, check=True).stdout
    return [arch for arch in architectures if arch.rstrip("af") in listed.split()]


def flags_of_the_build(builds: list[Path], source: Path) -> tuple[list[str], Path] | None:
    """The flags with which the newest build compiled CUDA under `source`, and the folder they hold in."""
    for file in sorted(builds, key=lambda file: file.stat().st_mtime, reverse=True):
        for entry in json.loads(file.read_text()):
            path = Path(entry["directory"], entry["file"])
            if path.suffix == ".cu" and path.is_relative_to(source):
                words = entry.get("arguments") or shlex.split(entry["command"])
                return without_targets(words[1:], entry["file"]), Path(entry["directory"])
    return None


def without_targets(words: list[str], source: str) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip or word in TARGETS_AND_OUTPUTS:
            skip = not skip and word != "-c"
        elif word != source and not word.startswith(PREFIXES):
            kept.append(word)
    return kept


def shown(flags: list[str], root: Path) -> str:
    """The flags without what holds on this machine only: folders outside the source tree."""
    inside = " ".join(flags).replace(f"{root}/", "")
    return re.sub(r" ?(?:-I|-isystem|-include|--options-file)[= ]?/\S+", "", inside).strip()


def compile_for(source: Path, arch: str, flags: list[str], folder: Path, cubin: Path) -> tuple[str, str]:
    """("", what ptxas says), or (the error, "")."""
    target = f"-gencode=arch=compute_{arch.removeprefix('sm_')},code={arch}"
    command = ["nvcc", *flags, target, "-Xptxas", "-v", "-cubin", "-o", str(cubin), str(source)]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return (done.stdout, "") if done.returncode else ("", done.stdout)


def find_cuobjdump() -> str | None:
    """On PATH, or the one that Triton brings."""
    if tool := shutil.which("cuobjdump"):
        return tool
    triton = util.find_spec("triton")
    for place in (triton and triton.submodule_search_locations) or ():
        tool = Path(place, "backends/nvidia/bin/cuobjdump")
        if tool.exists():
            return str(tool)
    return None


def count_instructions(cubin: Path, tool: str | None) -> dict[str, dict[str, int]]:
    """By mangled name; {} where there is no tool, or it does not know the architecture."""
    if tool is None:
        return {}
    place = f"{Path(tool).parent}{os.pathsep}{os.environ['PATH']}"  # it calls nvdisasm
    command = [tool, "-sass", str(cubin)]
    done = subprocess.run(command, text=True, capture_output=True, env={**os.environ, "PATH": place})
    return ptxas.instructions(done.stdout)


def faults(kernel: dict) -> list[str]:
    """A sentence for each thing that is wrong with a kernel of the result."""
    which = f"{kernel['kernel']} for {kernel['arch']}"
    found = []
    if kernel["spill_stores"] or kernel["spill_loads"]:
        found.append(
            f"{which}: spills registers ({kernel['spill_stores']} bytes stored, "
            f"{kernel['spill_loads']} loaded)."
        )
    if kernel["stack"]:
        found.append(f"{which}: has a stack frame of {kernel['stack']} bytes.")
    sass = kernel["sass"] or {}
    if sass.get("LDL") or sass.get("STL"):
        found.append(f"{which}: uses local memory ({sass['LDL']} LDL, {sass['STL']} STL).")
    shared = kernel["static_smem"] + (kernel["dynamic_smem"] or 0)
    limit = SHARED_LIMIT[int(re.sub(r"\D", "", kernel["arch"]))]
    if shared > limit:
        found.append(f"{which}: asks for {shared} bytes of shared memory, the device has {limit}.")
    return found


def dynamic_bytes(kernel: str, declared: dict[str, int]) -> int | None:
    """The most that a pattern which fits this kernel declares; None when none fits."""
    return max((size for pattern, size in declared.items() if fnmatchcase(kernel, pattern)), default=None)


def targets(file: Path, architectures: list[str]) -> list[str]:
    """The architectures a file is compiled for: all, or those its first line names."""
    first = file.read_text().partition("\n")[0]
    if only := re.fullmatch(r"// For compute capability (\d+)\.(\d[af]?) alone.*", first):
        return [a for a in architectures if a == f"sm_{only[1]}{only[2]}"]
    least = re.fullmatch(r"// For compute capability (\d+)\.(\d) and later.*", first)
    if least is None:
        return architectures
    return [a for a in architectures if int(re.sub(r"\D", "", a)) >= int(least[1] + least[2])]


def check(source: Path, flags: list[str], folder: Path, declared: dict[str, int], jobs: int):
    """(kernels of the result, sentences about what is wrong)."""
    cuobjdump = find_cuobjdump()
    architectures = known(ARCHITECTURES)
    files = sorted(source.rglob("*.cu"))
    work = [(file, arch) for file in files for arch in targets(file, architectures)]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(jobs) as pool:
        cubins = [Path(temporary, f"{i}.cubin") for i in range(len(work))]
        done = list(pool.map(lambda w, c: compile_for(*w, flags, folder, c), work, cubins))
        counts = list(pool.map(lambda c: count_instructions(c, cuobjdump) if c.exists() else {}, cubins))
    kernels, wrong = [], []
    for (file, arch), (error, text), sass in zip(work, done, counts, strict=True):
        if error:
            wrong.append(f"{file.relative_to(source)} for {arch}: does not compile.\n{error.strip()}")
            continue
        for mangled, reason in ptxas.losses(text):
            wrong.append(f"{ptxas.short_name(*ptxas.demangle([mangled]))} for {arch}: {reason}.")
        found = ptxas.resources(text)
        names = ptxas.demangle([kernel["mangled"] for kernel in found])
        for kernel, name in zip(found, map(ptxas.short_name, names), strict=True):
            mangled = kernel.pop("mangled")
            about = {"file": str(file.relative_to(source)), "kernel": name, "arch": kernel.pop("arch")}
            dynamic = dynamic_bytes(name, declared)
            kernels.append({**about, **kernel, "dynamic_smem": dynamic, "sass": sass.get(mangled)})
            wrong += faults(kernels[-1])
    kernels.sort(key=lambda k: (k["file"], k["kernel"], ARCHITECTURES.index(k["arch"])))
    return kernels, wrong


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=root / "csrc" / "cuda")
    parser.add_argument("--build", type=Path, help="CMake build folder (default: the newest under build/)")
    parser.add_argument("--dynamic", type=Path, help="JSON: kernel name pattern -> bytes given at launch")
    parser.add_argument("--out", type=Path, default=root / "docs" / "results" / "cuda-resources.json")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compilers at once")
    arguments = parser.parse_args(argv)
    if not shutil.which("nvcc"):
        print("no nvcc: skipped, the kernels can only be compiled with the CUDA toolkit's bin on PATH")
        return 0
    source = arguments.source.resolve()
    if not any(source.rglob("*.cu")):
        print(f"no .cu file under {arguments.source}: nothing to check")
        return 0
    builds = [arguments.build] if arguments.build else (root / "build").glob("*")
    commands = [b / "compile_commands.json" for b in builds if (b / "compile_commands.json").exists()]
    flags, folder = flags_of_the_build(commands, source) or (list(DEFAULT_FLAGS), root)
    declared = json.loads(arguments.dynamic.read_text()) if arguments.dynamic else {}
    kernels, wrong = check(source, flags, folder, declared, arguments.jobs)
    version = subprocess.run(["nvcc", "--version"], text=True, capture_output=True, check=True).stdout
    result = {
        "format": FORMAT,
        "nvcc": re.search(r"V(\d+\.\d+\.\d+)", version)[1],
        "flags": shown(flags, root),
        "kernels": kernels,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(tables.cuda_resources(arguments.out))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
