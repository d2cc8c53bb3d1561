"""Fixtures over small_runs.py; lets the tests import cpu_graph.py."""

import runpy
import sys
from pathlib import Path

import pytest
import run_folders

sys.path.insert(0, str(Path(__file__).parent))
_SMALL = runpy.run_path(str(Path(__file__).with_name("small_runs.py")))


@pytest.fixture(scope="session")
def make_store():
    return _SMALL["make_store"]


@pytest.fixture(scope="session")
def store(make_store):
    return make_store()


@pytest.fixture(scope="session")
def configs():
    return _SMALL["CONFIGS"]


@pytest.fixture(params=_SMALL["CONFIGS"])
def algorithm(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def weights_of():
    """All tensors of a run's newest checkpoint, the training state's included, by file and name."""
    return run_folders.tensors


@pytest.fixture(scope="session")
def assert_same_bits():
    return run_folders.assert_same_bits
