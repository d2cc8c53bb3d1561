"""Trainings in worker processes: same bits as in this process, and failures come to light."""

import numpy as np
import pytest
import torch

from dtag_fast.algorithms.dt import Config as DTConfig
from dtag_fast.algorithms.iql import Config as IQLConfig
from dtag_fast.data import load_dataset
from dtag_fast.data.pointmaze import make_pointmaze
from dtag_fast.experiments.workers import TrainJob, train_all
from dtag_fast.training import load_critic, load_policy, train

DT = DTConfig(context_len=2, d_model=8, n_layer=1, max_timestep=300, batch_size=4, return_scale=100.0)
IQL = IQLConfig(hidden=(8,), batch_size=8, reward_transform="raw")


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return str(tmp_path / "datasets" / make_pointmaze("umaze", 700, seed=0))


def job(name, algorithm, config, dataset, tmp_path, **changes):
    settings = {"updates": 6, "seed": 0, "resume": False, "cache_dir": tmp_path / "cache"} | changes
    return TrainJob(
        name=name, algorithm=algorithm, dataset=dataset, out=tmp_path / name, config=config, **settings
    )


def test_workers_train_what_this_process_would(dataset, tmp_path):
    done = {}
    train_all(
        [job("dt", "dt", DT, dataset, tmp_path), job("iql", "iql", IQL, dataset, tmp_path)],
        lambda name, updates, total: done.__setitem__(name, (updates, total)),
    )
    assert done == {"dt": (6, 6), "iql": (6, 6)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        store = load_dataset(dataset, cache_dir=tmp_path / "cache")
        here = train("dt", store, out=tmp_path / "here", config=DT, updates=6, seed=0)
    finally:
        torch.set_num_threads(threads)
    there = load_policy(tmp_path / "dt").model.state_dict()
    for name, value in load_policy(here).model.state_dict().items():
        assert torch.equal(value, there[name]), name
    with torch.no_grad():
        q = load_critic(tmp_path / "iql").critic(torch.zeros(1, 4), torch.zeros(1, 2))
    assert np.isfinite([float(x) for x in q]).all()


def test_a_failing_job_is_named_with_its_reason(dataset, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "foreign.txt").write_text("")
    with pytest.raises(RuntimeError, match=r"bad: training failed(.|\n)*not empty"):
        train_all([job("bad", "dt", DT, dataset, tmp_path)], lambda *_: None)


def test_no_jobs_no_processes():
    train_all([], lambda *_: pytest.fail("nothing to report"))
