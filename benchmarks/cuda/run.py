"""Compiles the micro-benchmarks beside it, runs them one after the other and writes one JSON.

    python benchmarks/cuda/run.py --out FILE [--build DIR] [--arch sm_90a] [--seconds 90]
    python benchmarks/cuda/run.py --compile-only        on a machine without a GPU

A program that does not compile, gives a wrong result or takes too long is recorded, and the others still run.
Exit code 1 when there was one.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORMAT = 1
FLAGS = ("-std=c++20", "-O3", "-Xptxas", "-v")
# The architectures each program is for, as first and last number: thread block clusters begin with 90.
PROGRAMS = {
    "exchange": (90, 999),
    "latency_probe": (90, 999),
    "mma_rates": (80, 999),
    "wgmma_rates": (90, 90),
    "graph_replay": (80, 999),
    "l2_stream": (80, 999),
}
# What nvidia-smi is asked for.
STATE = ("name", "driver_version", "compute_cap", "clocks.sm", "clocks.max.sm", "clocks.mem")
STATE += ("power.draw", "power.limit", "temperature.gpu")


def programs(arch: str) -> list[str]:
    """Those that `arch` ("sm_90a") can run."""
    return [name for name, (first, last) in PROGRAMS.items() if first <= number(arch) <= last]


def number(arch: str) -> int:
    return int(re.fullmatch(r"sm_(\d+)[a-z]?", arch)[1])


def compile_one(name: str, arch: str, build: Path) -> dict:
    """{"status", "seconds", "log"}; the log is nvcc's output with ptxas' account of registers and spills."""
    target = f"-gencode=arch=compute_{arch.removeprefix('sm_')},code={arch}"
    command = ["nvcc", *FLAGS, target, "-o", str(build / name), str(HERE / f"{name}.cu")]
    began = time.monotonic()
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return {"status": done.returncode, "seconds": round(time.monotonic() - began, 1), "log": done.stdout}


def compile_all(arch: str, build: Path, jobs: int) -> dict[str, dict]:
    build.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        names = programs(arch)
        return dict(zip(names, pool.map(lambda name: compile_one(name, arch, build), names), strict=True))


def run_one(program: Path, limit: float) -> dict:
    """{"status", "seconds", "measurements", "error"}: what was printed before a failure is kept."""
    began = time.monotonic()
    try:
        done = subprocess.run([program], text=True, capture_output=True, timeout=limit)
        status, out, error = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        status, error = 124, f"not finished after {limit:.0f} s"
        out = expired.stdout or ""
        out = out if isinstance(out, str) else out.decode()
    measurements = []
    for line in out.splitlines():
        try:
            measurements.append(json.loads(line))
        except json.JSONDecodeError:  # a line cut off by the time limit
            error = f"{error}\nunreadable: {line}"
    return {
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "measurements": measurements,
        "error": error.strip().replace(f"{HERE}{os.sep}", ""),
    }


def device() -> dict[str, str]:
    """What nvidia-smi says of the first GPU, {} without it."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(STATE)}", "--format=csv,noheader"]
    done = subprocess.run(query, text=True, capture_output=True)
    values = [value.strip() for value in done.stdout.split(",")]
    return dict(zip(STATE, values, strict=True)) if len(values) == len(STATE) else {}


def nvcc_version() -> str:
    text = subprocess.run(["nvcc", "--version"], text=True, capture_output=True, check=True).stdout
    return re.search(r"V(\d+\.\d+\.\d+)", text)[1]


def described(measurement: dict) -> str:
    parameters = ", ".join(f"{key} {value}" for key, value in measurement["parameters"].items())
    if "skipped" in measurement:
        return f"{measurement['name']} ({parameters}): skipped, {measurement['skipped']}"
    quartiles = f"{measurement['q25']:.4g} to {measurement['q75']:.4g}"
    median = f"{measurement['median']:.4g} {measurement['unit']}"
    return f"{measurement['name']} ({parameters}): {median} ({quartiles})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the JSON to write")
    parser.add_argument("--build", type=Path, default=HERE.parents[1] / "build" / "micro-benchmarks")
    parser.add_argument("--arch", default="sm_90a", help="as nvcc names it (default sm_90a)")
    parser.add_argument("--seconds", type=float, default=90, help="limit for all runs together")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compilers at once")
    parser.add_argument("--compile-only", action="store_true", help="needs no GPU, writes no JSON")
    arguments = parser.parse_args()
    if arguments.out is None and not arguments.compile_only:
        parser.error("--out FILE: where to write the JSON (or --compile-only)")
    if not shutil.which("nvcc"):
        print("no nvcc on PATH", file=sys.stderr)
        return 1

    compiled = compile_all(arguments.arch, arguments.build, arguments.jobs)
    for name, result in compiled.items():
        if result["status"]:
            print(f"{name}: not compiled\n{result['log']}", file=sys.stderr)
    if arguments.compile_only:
        return int(any(result["status"] for result in compiled.values()))

    before = device()
    end = time.monotonic() + arguments.seconds
    runs, failed = {}, []
    for name, result in compiled.items():
        if result["status"]:
            error = result["log"].replace(f"{HERE}{os.sep}", "")[-2000:]
            runs[name] = {"status": result["status"], "seconds": 0, "measurements": [], "error": error}
        else:
            runs[name] = run_one(arguments.build / name, max(1.0, min(30.0, end - time.monotonic())))
        for measurement in runs[name]["measurements"]:
            print(described(measurement))
        if runs[name]["status"]:
            failed.append(name)
            print(f"{name}: failed ({runs[name]['status']}): {runs[name]['error']}", file=sys.stderr)
    found = {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%d"),
        "arch": arguments.arch,
        "nvcc": nvcc_version(),
        "device": before,
        "device_after": device(),  # the clocks right after the load
        "programs": runs,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
