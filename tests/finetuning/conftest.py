"""Fixtures over small_pendulum.py: its data, and small runs that were trained on them."""

import sys
from functools import partial
from pathlib import Path

import pytest

from dtag_fast.data import TrajectoryStore
from dtag_fast.finetuning import OnlineConfig
from dtag_fast.training import train

sys.path.insert(0, str(Path(__file__).parent))
import small_pendulum


@pytest.fixture(scope="session")
def store() -> TrajectoryStore:
    return small_pendulum.make_store()


@pytest.fixture(scope="session")
def small_config(store):
    return partial(small_pendulum.small_config, store)


@pytest.fixture(scope="session")
def trained(store, small_config, tmp_path_factory):
    """Run folder of an algorithm after three updates."""
    runs = {}

    def get(algorithm: str):
        if algorithm not in runs:
            runs[algorithm] = train(
                algorithm,
                store,
                config=small_config(algorithm),
                out=tmp_path_factory.mktemp(algorithm) / "run",
                updates=3,
                log_every=1,
            )
        return runs[algorithm]

    return get


@pytest.fixture(scope="session")
def quick() -> OnlineConfig:
    return small_pendulum.QUICK
