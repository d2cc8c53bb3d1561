"""On whose threads the compiled CPU backend runs.

Torch's OpenMP threads spin for milliseconds after each of torch's parallel loops; threads of our own would
compete with them for the cores. So the backend takes torch's, where it finds them (csrc/cpu/thread_pool.h).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

CHOICES = ("torch", "own")


def share_threads(compiled: Any) -> str:
    """Have the compiled module use torch's threads, unless DTAG_THREADS is "own"; tells which and why.

    Raises:
        ValueError: DTAG_THREADS is neither "torch" nor "own".
    """
    wanted = os.environ.get("DTAG_THREADS", "torch")
    if wanted not in CHOICES:
        raise ValueError(f"DTAG_THREADS: expected one of {CHOICES}, got {wanted!r}")
    if wanted == "own":
        compiled.use_openmp("")
        return "its own (DTAG_THREADS=own)"
    if "OpenMP" not in torch.__config__.parallel_info().partition("ATen parallel backend:")[2]:
        return "its own (this torch does not use OpenMP)"
    library = loaded_runtime()
    if library is None:
        return "its own (torch's OpenMP library was not found in this process)"
    if not compiled.use_openmp(str(library)):
        return f"its own ({library.name} lacks GOMP_parallel)"
    return f"torch's ({library.name})"


def loaded_runtime() -> Path | None:
    """The OpenMP library in this process: torch's own where there are several, None if none can be told."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # not Linux
        return None
    files = {Path(line.split(maxsplit=5)[5]) for line in maps.splitlines() if "omp" in line and "/" in line}
    found = {f for f in files if f.name.startswith(("libgomp", "libomp", "libiomp")) and ".so" in f.name}
    package = Path(torch.__file__).parent
    near = {f for f in found if package in f.parents or package.with_name("torch.libs") in f.parents}
    return next(iter(near or found)) if len(near or found) == 1 else None
