"""`dtag evaluate` and evaluation in training where environments fail."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import faulty_env
import pytest
from process_tree import children_of, hear_interrupts, parent_of, wait_until

from dtag_fast.cli.train import Args, evaluation_callback
from dtag_fast.experiments.comparison import compare_policies
from dtag_fast.rollout import EpisodesFailed

TESTS = Path(__file__).parents[1]
DATASET = "test/pendulum-v0"
SMALL = "--context-len 3 --d-model 16 --n-layer 2 --n-head 1 --batch-size 8 --updates 4"
pytestmark = pytest.mark.filterwarnings("ignore:environment. closing it raised OSError:RuntimeWarning")


@pytest.fixture
def run(dtag, tmp_path):
    assert dtag(f"train reinformer {DATASET} --out run {SMALL} --checkpoint-every 2")[0] == 0
    return tmp_path / "run"


def test_failed_episodes_are_named_and_the_exit_code_says_so(dtag, run, tmp_path, monkeypatch):
    """The environment fails in seeds 1 and 4."""
    line = f"evaluate run --env {faulty_env.ENV_ID} --episodes 6 --json out.json"
    code, out, err = dtag(line)
    assert code == 1 and "plain policy (4 of 6 finished)" in out
    first, second = err.splitlines()
    assert first == (
        "dtag evaluate: failed episode: seed 1, plain policy, step 3: BrokenError: told to fail at step 3"
    )
    assert "seed 4, plain policy, reset: FloatingPointError" in second
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    assert result["settings"][0]["seeds"] == [0, 2, 3, 5]
    assert [f["seed"] for f in result["failures"]] == [1, 4]
    assert "Traceback" in result["failures"][0]["traceback"]
    monkeypatch.setenv("DTAG_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in dtag(line)[2]


def test_a_setting_without_a_finished_episode_is_a_dash(dtag, run, tmp_path):
    line = f"evaluate run --env {faulty_env.ENV_ID} --episodes 1 --seed 1 --checkpoints all --json out.json"
    code, out, err = dtag(line)
    assert code == 1 and "(0 of 1 finished)" in out
    assert [line.split(", ")[0].rpartition(": ")[2] for line in err.splitlines()] == [
        "checkpoint 2",
        "checkpoint 4",
    ]
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["last"]["plain policy"]["mean"] is None
    assert dtag("plot out.json")[0] == 2  # no curve, and no crash


@pytest.fixture
def failing_run(run):
    """The run, its last checkpoint as if trained for the environment that fails."""
    config = run / "checkpoints" / "4" / "config.json"
    content = json.loads(config.read_text())
    assert content["info"]["env_id"] == "InvertedPendulum-v5"
    content["info"]["env_id"] = faulty_env.ENV_ID
    config.write_text(json.dumps(content))
    return run


def test_a_paired_comparison_needs_every_episode(dtag, failing_run, tmp_path):
    assert dtag(f"train iql {DATASET} --out critic --updates 2 --hidden 8 8 --batch-size 8")[0] == 0
    options = {"steps": (0,), "lr": 0.1, "seed": 0, "progress": lambda *_: None}
    runs, critic = {"reinformer": failing_run}, tmp_path / "critic"
    (row,) = compare_policies(runs, critic, episodes=1, **options)
    assert row["seeds"] == [0]
    with pytest.raises(EpisodesFailed, match=r"1 of 2 episodes of .* seed 1, plain policy, step 3"):
        compare_policies(runs, critic, episodes=2, **options)


def test_training_goes_on_warns_and_logs_the_number(failing_run):
    run = failing_run
    for episodes, failed, over in ((6, 2.0, "2 of 6"), (3, 1.0, "1 of 3")):
        evaluate = evaluation_callback(Args(dataset="", out=run, eval_episodes=episodes))
        with pytest.warns(RuntimeWarning, match=f"step 4: environment: {over} episodes of .* seed 1, plain"):
            scores = evaluate(4, run)
        assert scores["failed_episodes"] == failed and scores["return_mean"] > 0
    with pytest.warns(RuntimeWarning, match="1 of 1 episodes"):
        scores = evaluation_callback(Args(dataset="", out=run, eval_episodes=1, eval_seed=1))(4, run)
    assert scores == {"failed_episodes": 1.0}


def test_worker_processes_change_no_number(dtag, run, tmp_path):
    line = f"evaluate run --env {faulty_env.ENV_ID} --episodes 6 --threads 1 --env-processes"
    found = {}
    for processes in (0, 2):
        code, out, err = dtag(f"{line} {processes} --json out.json")
        (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
        assert code == 1 and result["wall_time"]["env_processes"] == processes
        assert ("environments in 2 processes: asked for" in out) == (processes == 2)
        found[processes] = err, result["settings"]
    assert found[0] == found[2]
    code, _, err = dtag(f"{line} -1")
    assert code == 2 and "env_processes: expected a whole number of at least 0, or None, got -1" in err


def test_an_environment_that_hangs_is_a_failed_episode(dtag, run, tmp_path):
    line = f"evaluate run --env faulty_env:{faulty_env.HANGING_ID} --episodes 4 --threads 1"
    code, out, err = dtag(f"{line} --env-processes 2 --env-timeout 2 --json out.json")
    assert code == 1 and "plain policy (3 of 4 finished)" in out
    assert err.splitlines() == [
        "dtag evaluate: failed episode: seed 1, plain policy, step 3: TookTooLong: the environment took "
        "longer than the 2 s that env_timeout allows a reset or a step; its worker process was ended"
    ]
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    assert result["settings"][0]["seeds"] == [0, 2, 3]


def test_an_interrupt_ends_all_processes_without_tracebacks(run):
    line = f"evaluate {run} --env faulty_env:{faulty_env.WAITING_ID} --episodes 500"
    line += " --threads 1 --env-processes 2"
    process = subprocess.Popen(
        [sys.executable, "-m", "dtag_fast.cli", *shlex.split(line)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    try:
        wait_until(lambda: len(children_of(process.pid)) == 2)
        children = children_of(process.pid)
        time.sleep(2)  # most of the time it is in the midst of an episode then
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(30) == 130
        assert len(process.stderr.read().splitlines()) <= 1
        assert all(parent_of(pid) is None for pid in children)
    finally:
        process.kill()
        process.communicate()
