"""What a timing depends on, to be kept beside it."""

import os
import platform
from pathlib import Path

import torch


def machine(device: str) -> dict[str, object]:
    """The processor, the cores this process may use, the device, the kernels' instruction set and PyTorch.

    "load": how many processes wanted a core in the minute before; 0 where the system does not say.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
        "isa": _isa(),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "torch": torch.__version__,
    }


def name_of(found: dict[str, object]) -> str:
    """What `machine` returned in a few words: "AMD EPYC, 2 cores, avx512"."""
    if found["device"] != "cpu":
        return str(found["device"])
    cores = f"{found['cores']} core{'s' if found['cores'] != 1 else ''}"
    return ", ".join(str(part) for part in (found["cpu"], cores, found["isa"]) if part)


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _isa() -> str | None:
    """Of the compiled kernels; None without them."""
    try:
        from dtag_fast import _C
    except ImportError:
        return None
    return _C.default_isa()
