"""`dtag doctor`: what this machine has, in one table; exit code 1 when something the package needs is
missing."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import tyro
from rich.table import Table

from dtag_fast.cli.terminal import make_console

REQUIRED = (
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "minari",
    "h5py",
    "Pillow",
    "safetensors",
    "tyro",
    "rich",
    "matplotlib",
)
OPTIONAL = ("triton", "gymnasium-robotics", "jax", "tensorboard", "wandb")


@dataclass(frozen=True)
class Args:
    """Show versions, instruction sets, backends of refine with reasons, and the datasets that are found."""


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns 0, or 1 when a required package is missing."""
    tyro.cli(Args, prog="dtag doctor", args=list(argv))
    console = make_console()
    missing = [name for name in REQUIRED if _version(name) is None]
    table = Table(title="dtag doctor", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    sections = [_packages(), _machine()]
    if not missing:
        sections += [_compiled(), _backends(), _datasets()]
    for section in sections:
        for name, text in section:
            table.add_row(name, text)
        table.add_section()
    console.print(table)
    if missing:
        console.print(f"missing: {', '.join(missing)}; pip install {' '.join(missing)}", markup=False)
    return 1 if missing else 0


def _packages() -> list[tuple[str, str]]:
    import dtag_fast

    rows = [("dtag_fast", dtag_fast.__version__), ("python", platform.python_version())]
    rows += [(name, _version(name) or "missing") for name in REQUIRED]
    return rows + [(name, _version(name) or "not installed (optional)") for name in OPTIONAL]


def _machine() -> list[tuple[str, str]]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [("machine", f"{platform.machine()}, {platform.system()}, {cpus} CPUs")]
    if _version("torch") is not None:
        import torch

        rows.append(("threads of torch", str(torch.get_num_threads())))
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        rows.append(("CUDA devices", ", ".join(gpus) or "none"))
    return rows


def _compiled() -> list[tuple[str, str]]:
    try:
        from dtag_fast import _C
    except ImportError as error:
        return [("dtag_fast._C", f"not built ({error}); the torch and triton backends work without it")]
    built = _C.build_info()
    rows = [
        ("dtag_fast._C", f"{built['compiler']}, CUDA {'yes' if built['cuda'] else 'no'}"),
        ("instruction sets", f"compiled {', '.join(built['isas'])}; runnable here {', '.join(_C.isas())}"),
    ]
    try:
        rows.append(("DTAG_ISA", f"{os.environ.get('DTAG_ISA', 'not set')}, in use: {_C.default_isa()}"))
    except (ValueError, RuntimeError) as error:  # DTAG_ISA names what this machine cannot run
        rows.append(("DTAG_ISA", str(error)))
    if _version("torch") is not None:
        from dtag_fast.ops.compiled_module import THREADS

        rows.append(("threads of the CPU kernels", THREADS))
    return rows


def _backends() -> list[tuple[str, str]]:
    """Which backend a twin critic of the usual size gets, on every device."""
    import torch

    from dtag_fast import explain
    from dtag_fast.models import TwinCritic

    rows = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        critic = TwinCritic(17, 6).to(device)
        text = str(explain(critic, torch.zeros(1, 17, device=device), torch.zeros(1, 6, device=device)))
        rows.append((f"refine on {device}", text))
    return rows


def _datasets() -> list[tuple[str, str]]:
    from dtag_fast.data import catalog

    root = catalog.minari_root()
    found = catalog.list_local(root)
    origin = catalog.ROOT_VARIABLE if catalog.ROOT_VARIABLE in os.environ else "default"
    return [
        ("Minari root", f"{root} ({origin})"),
        (
            "datasets",
            "\n".join(d.dataset_id if d.problem is None else f"{d.dataset_id}: {d.problem}" for d in found)
            or "none",
        ),
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
