"""Maze environments are made without leaving files behind."""

import sys
import tempfile

import pytest

from dtag_fast.data import robotics
from dtag_fast.data.pointmaze.mazes import MAZES
from dtag_fast.data.pointmaze.physics import make_gym_env
from dtag_fast.rollout.environments import make_env

pytest.importorskip("gymnasium_robotics")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("make", [lambda: make_gym_env(MAZES["umaze"]), lambda: make_env("AntMaze_UMaze-v5")])
def test_no_model_file_stays(temporary, make):
    env = make()
    assert list(temporary.iterdir()) == []
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.setattr(robotics, "is_installed", lambda: False)
    with pytest.raises(ImportError, match=r"PointMaze needs .*pip install 'dtag_fast\[robotics\]'"):
        make_gym_env(MAZES["umaze"])
    with pytest.raises(ValueError, match="env_id: FetchReachNew-v9 needs the package gymnasium-robotics"):
        make_env("FetchReachNew-v9")
