"""One torch thread per process, as those of several fight for the cores; without a GPU, Triton's interpreter.

Both are read at the first import of torch and Triton, so they are set before any test module is. Lets the
tests import the modules of this folder, and those of `tools`, also where `pytest` and not `python -m pytest`
runs them. --first-cases runs every test function once.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1]))  # last: what is installed comes before what lies here

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

pytest.register_assert_rewrite("run_folders")  # so that its assertions say what differs
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser):
    text = "of each test function the first of its parameters alone: for another installation of tested code"
    parser.addoption("--first-cases", action="store_true", help=text)


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    if not config.getoption("first_cases"):
        return
    first = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    rest = set(items) - set(first.values())
    config.hook.pytest_deselected(items=[item for item in items if item in rest])
    items[:] = first.values()
