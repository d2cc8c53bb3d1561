"""A real local Ray cluster gives the table that this process gives."""

import importlib.util
import os
from pathlib import Path

import faulty_env
import pytest

from dtag_fast.executors.ray_cluster import RayCluster
from dtag_fast.models.behaviour import Behaviour, BehaviourModel
from dtag_fast.sweep import settings_grid, sweep
from dtag_fast.training.behaviour import save_behaviour

GRID = settings_grid((0, 2), (0.1, 0.3), behaviour=(Behaviour(0.4),))
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (extra cluster)")


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_one_sentence_names_the_extra(run):
    with pytest.raises(ValueError, match=r"pip install 'dtag_fast\[cluster\]'"):
        sweep(run, executor="ray", episodes=1)


@needs_ray
def test_a_cluster_that_is_started_for_the_sweep_gives_the_same_table(run, critic, tmp_path):
    import ray

    save_behaviour(critic, BehaviourModel(4, 1, hidden=(8,)))
    options = {"critic": critic, "settings": GRID, "checkpoints": "all", "episodes": 4}
    here = sweep(run, out=tmp_path / "here", jobs=1, **options)
    there = sweep(run, out=tmp_path / "there", executor="ray", jobs=2, **options)
    assert not ray.is_initialized()
    assert here.played == there.played == 2 * 4 * 4 and there.failures == []
    one, two = (set((tmp_path / n / "table.jsonl").read_text().splitlines()) for n in ("here", "there"))
    assert one == two
    assert here.to_dict() == there.to_dict()


@needs_ray
def test_a_running_cluster_is_used_and_left_running(run, tmp_path, monkeypatch):
    """Its worker dies with one job, which is tried once more, and then fails alone."""
    import ray

    monkeypatch.setenv("MORTAL_ENV", str(tmp_path / "order"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr("dtag_fast.sweep.planning.EPISODES_PER_JOB", 2)
    (tmp_path / "order").write_text("always")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        result = sweep(run, env_id="mortal_env:DtagTest/Mortal-v0", episodes=6, executor="ray")
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert len(result.failures) == 1 and "seeds 2..3: its Ray worker was lost, twice" in result.failures[0]
    assert result.cells[0].episodes == 4


@needs_ray
def test_workers_of_a_running_cluster_look_for_data_where_the_driver_does(tmp_path, monkeypatch):
    import ray

    class Places:
        units = 1

        def run(self, progress):
            return [os.environ.get(name) for name in ("MINARI_DATASETS_PATH", "DTAG_CACHE")]

    for name in ("MINARI_DATASETS_PATH", "DTAG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MINARI_DATASETS_PATH", "data")
        with RayCluster(None, None, "cpu") as crew:
            (outcome,) = crew.run([Places()], lambda units: None)
    finally:
        ray.shutdown()
    assert outcome.result == [str(tmp_path / "data"), None]


@needs_ray
def test_an_environment_that_hangs_on_a_cluster_costs_its_episode(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty_env.__file__).parent), prepend=":")
    options = {"env_id": f"faulty_env:{faulty_env.HANGING_ID}", "episodes": 3, "checkpoints": [5]}
    result = sweep(run, executor="ray", jobs=2, env_timeout=2, out=tmp_path / "out", **options)
    (failure,) = result.failures
    assert "seed 1" in failure and "TookTooLong" in failure and result.cells[0].episodes == 2


@needs_ray
def test_an_address_where_no_cluster_answers_is_named(run):
    with pytest.raises(OSError, match=r"no Ray cluster answers at '127[.]0[.]0[.]1:1'"):
        sweep(run, executor="ray", ray_address="127.0.0.1:1", episodes=1)
