"""What the build tests share: the source tree, a private copy of it, subprocesses that show why they fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCES = {".git", ".venv", "build", "dist", "runs", "docs"}
NOT_SOURCES_ANYWHERE = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", ".*_cache", "results")

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def sources() -> Path:
    """The root of the source tree; tests that need it are skipped where only the tests were copied."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("not in a source tree")
    return ROOT


@pytest.fixture(scope="module")
def tree(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources without anything built in it."""
    target = tmp_path_factory.mktemp("sources") / "dtag_fast"

    def ignore(folder: str, names: list[str]) -> set[str]:
        top = NOT_SOURCES if Path(folder) == sources else set()
        return set(names) & top | NOT_SOURCES_ANYWHERE(folder, names)

    shutil.copytree(sources, target, ignore=ignore)
    return target


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a Python command line; fails the test with the output unless `check=False`.

    Keyword arguments in capitals set environment variables, None removes one.
    """

    def run(*arguments: str | Path, cwd: Path, check: bool = True, **variables: str | None):
        environment = {k: v for k, v in os.environ.items() if k not in variables}
        environment |= {k: v for k, v in variables.items() if v is not None}
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(
            command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if check and result.returncode:
            pytest.fail(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-8000:]}")
        return result

    return run
