"""A small Minari set of a short-lived MuJoCo environment, and `dtag` called in this process."""

import pickle
import shlex
import warnings

import cartpole
import gymnasium
import numpy as np
import pytest
from trajectories import trajectories

from dtag_fast.cli.main import main

ENV_ID = "InvertedPendulum-v5"  # a few steps an episode, actions in [-3, 3]
DATASET = "test/pendulum-v0"


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Folders with the Minari root, which holds one set, and the cache."""
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    folder = tmp_path_factory.mktemp("homes")
    env, rng = gymnasium.make(ENV_ID), np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about descriptive fields a test set does not need
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        (folder / "minari").mkdir()
        buffers = []
        for seed in range(12):
            states, actions, rewards, over = [env.reset(seed=seed)[0]], [], [], False
            while not over:
                actions.append(rng.uniform(-1, 1, 1).astype(np.float32))
                state, reward, terminated, truncated, _ = env.step(actions[-1])
                states.append(state)
                rewards.append(reward)
                over = terminated or truncated
            ends = np.arange(len(actions)) == len(actions) - 1
            buffers.append(
                EpisodeBuffer(
                    observations=np.array(states),
                    actions=np.array(actions),
                    rewards=rewards,
                    terminations=ends,
                    truncations=np.zeros_like(ends),
                )
            )
        create_dataset_from_buffers(DATASET, buffers, env=env, ref_min_score=0.0, ref_max_score=1000.0)
    return folder


@pytest.fixture
def dtag(homes, monkeypatch, tmp_path, capsys):
    """dtag("evaluate RUN ...") -> (exit code, standard output, standard error), in an empty folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(homes / "minari"))
    monkeypatch.setenv("DTAG_CACHE", str(homes / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(line: str):
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def cartpole_file(tmp_path):
    """A pickle of four trajectories of CartPole, 30 steps each, whose actions are integers."""
    path = tmp_path / "cartpole.pkl"
    path.write_bytes(pickle.dumps(trajectories(cartpole.record(4, steps=30))))
    return path
