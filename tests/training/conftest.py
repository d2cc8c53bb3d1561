"""Fixtures over small_runs.py; lets the tests import cpu_graph.py."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

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
    from safetensors.torch import load_file

    def read(run: Path) -> dict[str, torch.Tensor]:
        folder = run / "checkpoints" / "last"
        return {
            f"{path.relative_to(folder)}: {name}": tensor
            for path in sorted(folder.rglob("*.safetensors"))
            for name, tensor in load_file(path).items()
        }

    return read


@pytest.fixture(scope="session")
def assert_same_bits(weights_of):
    def check(run: Path, other: Path) -> None:
        ours, theirs = weights_of(run), weights_of(other)
        assert ours.keys() == theirs.keys() and ours
        different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
        assert different == []

    return check
