"""What a timing depends on, recorded with it."""

import os
import platform
from importlib import metadata, util
from pathlib import Path

# AMD's family 25 covers two generations; (first, last) model numbers of the older one.
ZEN3_MODELS = ((0x00, 0x0F), (0x20, 0x5F))


def describe(device: str = "cpu") -> dict[str, object]:
    """The processor, its cores and instruction sets, the device, and the versions of what is compared."""
    import torch  # here: `name` alone serves the documents' tables

    cpu = _cpuinfo()
    found: dict[str, object] = {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "generation": _generation(cpu),
        "cores": len(os.sched_getaffinity(0)),
        "simd": _simd(cpu),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in ("dtag_fast", "torch", "triton", "numpy", "jax")},
    }
    if util.find_spec("dtag_fast._C"):
        from dtag_fast import _C

        found["core"] = _C.build_info()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["device"] = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return found


def name(machine: dict) -> str:
    """A short name of what `describe` returned: "2-core AMD EPYC (Zen 3, AVX2)"."""
    if "device" in machine:
        return machine["device"]["name"]
    details = ", ".join(part for part in (machine["generation"], machine["simd"]) if part)
    cpu = machine["cpu"].split(" @")[0].replace("(R)", "").replace("(TM)", "")
    return f"{machine['cores']}-core {cpu} ({details})"


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _generation(cpu: dict[str, str]) -> str:
    if cpu.get("vendor_id") != "AuthenticAMD" or cpu.get("cpu family") not in {"25", "26"}:
        return ""
    if cpu["cpu family"] == "26":
        return "Zen 5"
    older = any(low <= int(cpu["model"]) <= high for low, high in ZEN3_MODELS)
    return "Zen 3" if older else "Zen 4"


def _simd(cpu: dict[str, str]) -> str:
    flags = set(cpu.get("flags", "").split())
    for flag, label in (("avx512_bf16", "AVX-512 with bf16"), ("avx512f", "AVX-512"), ("avx2", "AVX2")):
        if flag in flags:
            return label
    return "NEON" if platform.machine() in {"aarch64", "arm64"} else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
