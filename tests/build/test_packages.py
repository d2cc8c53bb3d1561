"""Sdist and wheel hold what they should; the installed wheel passes the tests away from the sources."""

import os
import shutil
import subprocess
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


# Kernels in Triton's interpreter and on the stand-in for a GPU: they are compiled where they are tested,
# not in the wheel. Trainings killed at every change of a file, in processes of torchrun (which find the
# package as those of sweeps do), and such as look for what is learned.
NOT_ABOUT_THE_WHEEL = [
    "tests/build",
    "tests/ops/attention",
    "tests/ops/block",
    "tests/ops/embedding",
    *(
        f"tests/ops/refine/test_{name}.py"
        for name in ("cuda_groups", "cuda_hopper", "cuda_kernels", "cuda_tensor")
    ),
    "tests/ops/refine/test_triton_kernels.py",
    "tests/models/test_attention_backends.py",
    "tests/cli/test_torchrun.py",
    "tests/training/test_kill.py",
    "tests/finetuning/test_kill.py",
    "tests/experiments/test_toy.py",
]

# Of the compiled core every case, of all else every test function once: what may be wrong with a wheel (a
# file or symbol that is missing, a path outside the package, an entry point, a core that was built otherwise)
# shows in the first case as in the hundredth. A new test is among them unless it is left out above.
CORE_TESTS = "tests/ops/refine/test_cpu*.py"

IS_INSTALLED = """
import os, dtag_fast, dtag_fast._C
for module in (dtag_fast, dtag_fast._C):
    assert module.__file__.startswith(os.environ["EXPECTED"]), module.__file__
"""


@pytest.fixture(scope="module")
def packages(run, tree: Path) -> Path:
    """dist/ with an sdist and the wheel built from that sdist."""
    run("-m", "build", "--no-isolation", ".", cwd=tree)
    return tree / "dist"


def python_files(sources: Path) -> set[str]:
    return {str(path.relative_to(sources)) for path in (sources / "dtag_fast").rglob("*.py")}


def data_files(sources: Path) -> set[str]:
    found = [
        file for kind in ("*.json", "*.toml", "py.typed") for file in (sources / "dtag_fast").rglob(kind)
    ]
    return {str(path.relative_to(sources)) for path in found}


def test_the_sdist_holds_every_source(packages: Path, tree: Path):
    (sdist,) = packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    compiled = {str(path.relative_to(tree)) for path in (tree / "csrc").rglob("*") if path.is_file()}
    wanted = {"CMakeLists.txt", "cmake/cuda.cmake", "setup.py", "LICENSE", "Makefile", "constraints.txt"}
    wanted |= compiled | python_files(tree) | data_files(tree) | {"tests/build/conftest.py"}
    assert wanted <= names, sorted(wanted - names)
    assert not [name for name in names if name.endswith(".so") or "__pycache__" in name]


def test_the_wheel_holds_the_package_and_nothing_else(packages: Path, tree: Path):
    (wheel,) = packages.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == python_files(tree) | data_files(tree) | {f"dtag_fast/_C{SUFFIX}"}


def test_the_installed_wheel_passes_the_tests(packages: Path, sources: Path, tmp_path: Path):
    """In a fresh environment that borrows this one's dependencies, with tests and pages alone."""
    (wheel,) = packages.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    # Not a site folder of the new environment, so the .pth file of an editable install in it is not read.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--force-reinstall"]
    subprocess.run([python, *pip, wheel], check=True)

    away = tmp_path / "away"
    shutil.copytree(sources / "tests", away / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    # Tests run the examples of pages.
    shutil.copytree(sources / "docs", away / "docs", ignore=shutil.ignore_patterns("*.json", "*.png"))
    shutil.copy(sources / "pyproject.toml", away)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH"))}
    environment |= {"OMP_NUM_THREADS": "1", "EXPECTED": str(site)}
    subprocess.run([python, "-c", IS_INSTALLED], check=True, cwd=away, env=environment)
    subprocess.run([tmp_path / "venv/bin/dtag", "--help"], check=True, cwd=away, env=environment)
    pytest_command = [python, "-m", "pytest", "-n", "auto", "--maxprocesses", "8", "-p", "no:cacheprovider"]
    assert all((away / part).exists() for part in NOT_ABOUT_THE_WHEEL)
    left_out = [f"--ignore={part}" for part in NOT_ABOUT_THE_WHEEL]
    core = sorted(away.glob(CORE_TESTS))
    assert core
    for tests in (core, ["--first-cases", "--dist", "worksteal", *left_out, "tests"]):
        subprocess.run([*pytest_command, *tests], check=True, cwd=away, env=environment)


@pytest.mark.skipif(not shutil.which("clang++"), reason="needs clang++")
def test_clang_builds_a_module_that_passes_the_cpu_tests(run, sources: Path, tmp_path: Path):
    site = tmp_path / "site"
    pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-build-isolation", "--no-deps")
    run(*pip, "--target", site, ".", cwd=sources, CXX="clang++", DTAG_CUDA="OFF")
    check = "import dtag_fast._C as c, sys; assert c.__file__.startswith(sys.argv[1]); print(c.build_info())"
    assert "Clang" in run("-c", check, site, cwd=tmp_path, PYTHONPATH=str(site)).stdout
    tests = sorted(sources.glob(CORE_TESTS))
    assert tests
    run(
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-x",
        *tests,
        cwd=sources,
        PYTHONPATH=str(site),
        OMP_NUM_THREADS="1",
    )
