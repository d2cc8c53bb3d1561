"""The learning-curve study: its runs, stopped, killed and gone on with; its result file, table and figure."""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process_tree import wait_until

ROOT = Path(__file__).resolve().parents[2]
SIZES = "--d-model 8 --n-layer 1 --n-head 2 --context-len 3 --batch-size 4 --warmup 5 --lr 0.01"
BUDGET = "--pretrain-updates 6 --env-steps 30 --eval-every 2 --eval-episodes 2 --updates-per-iteration 3"


@pytest.fixture(scope="module")
def tool():
    if not (ROOT / "setup.py").exists():
        pytest.skip("not in a source tree")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module


@pytest.fixture(scope="module")
def dataset(store, tmp_path_factory) -> Path:
    """A folder with the data, which have reference scores."""
    scored = type(store).from_episodes(
        [store.episode(index) for index in range(store.num_episodes)],
        store.metadata | {"ref_min_score": 0.0, "ref_max_score": 50.0},
    )
    folder = tmp_path_factory.mktemp("data") / "pendulum"
    scored.save(folder)
    return folder


def words(dataset, folder, more="") -> list[str]:
    fixed = f"{SIZES} {BUDGET} --jobs 2 --seeds 0 1 {more}".split()
    return [str(dataset), "--runs", str(folder / "runs"), "--out", str(folder / "result.json"), *fixed]


def told(file: Path) -> list[dict]:
    """The runs of a result file, without what depends on the clock."""
    runs = json.loads(file.read_text())["runs"]
    for run in runs:
        assert run["offline"].pop("seconds") > 0 and run.pop("machine")["torch_threads"] == 1
        assert run["online"].pop("collect_seconds") > 0 and run["online"].pop("update_seconds") > 0
        del run["date"]
    return runs


@pytest.fixture(scope="module")
def whole(tool, dataset, tmp_path_factory) -> Path:
    """Folder of a study that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert tool("tools.finetune_study").main(words(dataset, folder)) == 0
    return folder


def test_result_of_a_study(whole, dataset):
    runs = told(whole / "result.json")
    assert [(run["algorithm"], run["seed"]) for run in runs] == [
        ("odt", 0), ("td3-odt", 0), ("odt", 1), ("td3-odt", 1)
    ]  # fmt: skip
    assert str(dataset) not in (whole / "result.json").read_text()
    for run in runs:
        delay = {"odt": 1, "td3-odt": 2}[run["algorithm"]]
        offline, online, curve = run["offline"], run["online"], run["evaluations"]
        assert (offline["updates"], offline["policy_updates"]) == (6 * delay, 6)
        assert online["policy_updates"] == 3 * online["iterations"] == online["updates"] / delay
        assert (curve[0]["env_steps"], curve[0]["policy_updates"]) == (0, 0)
        assert curve[-1]["env_steps"] == online["env_steps"] >= 30
        assert curve[-1]["policy_updates"] == online["policy_updates"]
        steps = [evaluation["env_steps"] for evaluation in curve]
        assert steps == sorted(set(steps)) and len(steps) >= 2
        for evaluation in curve:
            assert evaluation["normalized_score"] == pytest.approx(2 * evaluation["return_mean"])
        assert run["dataset"]["dataset_id"] == "toy/pendulum-v0"
        assert (online["config"]["context_len"], online["config"]["eval_context_len"]) == (3, 3)
        assert (online["config"]["lr"], online["settings"]["updates_per_iteration"]) == (0.01, 3)
    ours, theirs = (runs[i]["evaluations"][0]["return_mean"] for i in (0, 2))
    assert ours != theirs  # seeds differ


def test_a_run_that_is_stopped_again_and_again_ends_as_one_that_never_was(tool, whole, dataset, tmp_path):
    run = tool("tools.finetune_run")
    noted = json.loads((whole / "runs" / "study.json").read_text())
    for rounds in range(1, 100):
        asked = itertools.count()
        if run.make_run(run.Settings(**noted), "td3-odt", 1, tmp_path / "run", lambda: next(asked) >= 9):
            break
    assert rounds > 3
    ours = json.loads((tmp_path / "run" / run.RECORD).read_text())
    theirs = json.loads((whole / "runs" / "td3-odt" / "seed-1" / run.RECORD).read_text())
    assert ours["evaluations"] == theirs["evaluations"]
    assert ours["online"]["start"] == theirs["online"]["start"]


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 1)])
def test_killed_and_gone_on_with(tool, whole, dataset, tmp_path, number, code):
    command = [sys.executable, "-m", "tools.finetune_study", *words(dataset, tmp_path)]
    study = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        begun = (tmp_path / "runs" / "odt" / "seed-0" / "offline" / "config.json").exists
        wait_until(begun, seconds=120)
        study.send_signal(number)
        assert study.wait(60) == code
    finally:
        study.kill()
    runs = tmp_path / "runs"
    wait_until(lambda: not any(map(is_held, runs.glob("*/*/*"))), seconds=60)
    assert not (runs / "td3-odt" / "seed-1" / "run.json").exists()
    assert tool("tools.finetune_study").main(words(dataset, tmp_path)) == 0
    assert told(tmp_path / "result.json") == told(whole / "result.json")


def is_held(run: Path) -> bool:
    """Whether a process works on a run folder."""
    import fcntl

    folder = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def test_finished_runs_are_not_repeated_and_more_may_be_asked_for(
    tool, whole, dataset, tmp_path, monkeypatch
):
    study = tool("tools.finetune_study")
    records = {file: file.stat().st_mtime_ns for file in whole.glob("runs/*/*/run.json")}
    made = []
    monkeypatch.setattr(study, "_work", None)  # cannot be called
    monkeypatch.setattr(study, "side_by_side", lambda settings, tasks, *rest: made.extend(tasks) or iter(()))
    fewer = words(dataset, whole, "--algorithms odt")
    fewer[fewer.index("--out") + 1] = str(tmp_path / "odt.json")
    assert study.main(fewer) == 0 and made == []
    assert {run["algorithm"] for run in told(tmp_path / "odt.json")} == {"odt"}
    assert {file: file.stat().st_mtime_ns for file in records} == records
