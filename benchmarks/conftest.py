"""Options of the benchmarks, the machine in their JSON, and the table of ratios after the run."""

import pytest
import torch

from .machine import describe
from .report import device_table, table


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dtag_fast benchmarks")
    group.addoption(
        "--without-compile", action="store_true", help="leave torch.compile out (about 30 s a row to compile)"
    )
    group.addoption("--seconds", type=float, default=3.0, help="how long the variants of a row take turns")
    group.addoption(
        "--prepare-seconds", type=float, default=60.0, help="a GPU variant not ready by then is left out"
    )
    group.addoption("--device", default="cuda", help="where test_refine_gpu.py runs; cpu for a dry run")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    wanted = config.getoption("device")
    machine_info["dtag_fast"] = describe(wanted if torch.cuda.is_available() else "cpu")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = [(b.name, b.extra_info) for b in getattr(session, "benchmarks", []) if "variants" in b.extra_info]
    if rows:
        terminalreporter.section("interleaved, medians")
        terminalreporter.write_line(table(rows))
        if text := device_table(rows):
            terminalreporter.write_line(f"\n{text}")
