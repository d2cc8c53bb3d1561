"""Small data for pieces of work, and small trainings on them."""

import sys
from pathlib import Path

import pytest
from suites_of_data import DATASET, TINY, make_data

from dtag_fast.experiments.reproduction.datasets import Data
from dtag_fast.experiments.reproduction.trainings import Training

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def hopper_root(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("minari"))


@pytest.fixture
def hopper(hopper_root, tmp_path, monkeypatch) -> Path:
    """The root that holds DATASET, where Minari looks during this test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(hopper_root))
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    return hopper_root


@pytest.fixture
def make_training():
    """make_training(algorithm, seed, updates, **changes): on DATASET."""

    def make(algorithm: str, seed: int = 1, updates: int = 2, **changes) -> Training:
        settings = TINY.changes.get(algorithm, {}) | changes
        return Training(
            "hopper-medium", Data(DATASET), algorithm, updates, seed, tuple(sorted(settings.items()))
        )

    return make
