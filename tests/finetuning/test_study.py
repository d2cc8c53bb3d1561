"""The learning-curve study: its runs, stopped, killed and gone on with; its result file, table and figure."""

import dataclasses
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process_tree import wait_until

from dtag_fast.cli.main import main as dtag
from dtag_fast.experiments.curves import is_online, training_panels

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


def patience(calls: int):
    """A `stop` that says so after some calls."""
    asked = itertools.count()
    return lambda: next(asked) >= calls


def settings_of(run, folder, **changes):
    """Those that a study has noted down."""
    return run.Settings(**json.loads((folder / "runs" / "study.json").read_text()) | changes)


def test_a_run_that_is_stopped_again_and_again_ends_as_one_that_never_was(tool, whole, tmp_path):
    run = tool("tools.finetune_run")
    arguments = settings_of(run, whole), "td3-odt", 1, tmp_path / "run"
    parts = 1
    while not run.make_run(*arguments, patience(9)):
        parts += 1
    assert 3 < parts < 30
    ours = json.loads((tmp_path / "run" / run.RECORD).read_text())
    theirs = json.loads((whole / "runs" / "td3-odt" / "seed-1" / run.RECORD).read_text())
    assert ours["evaluations"] == theirs["evaluations"]
    assert ours["online"]["start"] == theirs["online"]["start"]


def test_a_run_goes_on_to_more_steps(tool, whole, tmp_path):
    run, study = tool("tools.finetune_run"), tool("tools.finetune_study")
    shutil.copytree(whole / "runs", tmp_path / "runs", symlinks=True)
    folder = study.folder_of(tmp_path / "runs", ("odt", 0))
    before = json.loads((folder / run.RECORD).read_text())
    more = settings_of(run, whole, env_steps=before["online"]["env_steps"] + 1)
    assert not study.is_over(more, folder)
    study.note(more, tmp_path / "runs")
    assert run.make_run(more, "odt", 0, folder, lambda: False) and study.is_over(more, folder)
    after = json.loads((folder / run.RECORD).read_text())
    assert after["evaluations"][: len(before["evaluations"])] == before["evaluations"]
    assert after["evaluations"][-1]["env_steps"] == after["online"]["env_steps"] >= more.env_steps
    with pytest.raises(ValueError, match=f"runs: env_steps was {more.env_steps} or more in .*, got 30"):
        study.note(settings_of(run, whole), tmp_path / "runs")


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 1)])
def test_killed_and_gone_on_with(tool, whole, dataset, tmp_path, number, code):
    """One run at a time, so that the second one has not begun when the signal comes, SIGTERM to all processes
    as schedulers send it."""
    arguments = words(dataset, tmp_path, "--seeds 0 --jobs 1")
    study = subprocess.Popen(
        [sys.executable, "-m", "tools.finetune_study", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    runs = tmp_path / "runs"
    try:
        wait_until((runs / "odt" / "seed-0" / "offline" / "config.json").exists, seconds=120)
        (os.kill if number == signal.SIGKILL else os.killpg)(study.pid, number)
        assert study.wait(60) == code
        if number == signal.SIGTERM:
            assert "td3-odt, seed 0: stopped; repeat the command to go on" in study.stdout.read()
    finally:
        study.kill()
    wait_until(lambda: not any(map(is_held, runs.glob("*/*/*line"))), seconds=60)
    assert not (runs / "td3-odt" / "seed-0" / "run.json").exists()
    assert tool("tools.finetune_study").main(words(dataset, tmp_path, "--seeds 0")) == 0
    assert told(tmp_path / "result.json") == told(whole / "result.json")[:2]


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


def test_finished_runs_are_not_repeated(tool, whole, dataset, tmp_path):
    records = {file: file.stat().st_mtime_ns for file in whole.glob("runs/*/*/run.json")}
    arguments = words(dataset, whole, "--algorithms odt")
    arguments[arguments.index("--out") + 1] = str(tmp_path / "odt.json")
    assert tool("tools.finetune_study").main(arguments) == 0
    assert told(tmp_path / "odt.json") == told(whole / "result.json")[::2]
    assert {file: file.stat().st_mtime_ns for file in records} == records


def test_a_run_that_fails_is_told_and_costs_no_other(tool, dataset, tmp_path, capfd):
    blocked = tmp_path / "runs" / "odt" / "seed-0" / "offline"
    blocked.mkdir(parents=True)
    (blocked / "something").write_text("of somebody else")
    study, run = tool("tools.finetune_study"), tool("tools.finetune_run")
    settings = study.settings_of(study.parse(words(dataset, tmp_path)))
    (tmp_path / "runs" / "study.json").write_text(json.dumps(dataclasses.asdict(settings)))
    assert study.main(words(dataset, tmp_path, "--seeds 0")) == 1
    out, err = capfd.readouterr()
    assert "odt, seed 0: its process ended with code 1" in out and "holds other files" in err
    assert [entry["algorithm"] for entry in told(tmp_path / "result.json")] == ["td3-odt"]
    assert not (tmp_path / "runs" / "odt" / "seed-0" / run.RECORD).exists()


@pytest.mark.parametrize(
    "more, sentence",
    [
        ("--lr 0.02", "runs: policy was {'d_model': 8,"),
        ("--env-steps 29", "runs: env_steps was 30 or more in "),
        ("--env-steps 0", "env_steps: expected a positive number, got 0"),
        ("--n-head 3", "n_head"),
        ("--episodes-per-iteration 0", "episodes_per_iteration: expected a positive integer"),
    ],
)
def test_what_cannot_be_done_is_refused(tool, whole, dataset, capsys, more, sentence):
    before = (whole / "result.json").read_bytes()
    assert tool("tools.finetune_study").main(words(dataset, whole, more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("finetune_study: ") and sentence in error and error.count("\n") == 1
    assert (whole / "result.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tool, dataset, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "file").touch()
    assert tool("tools.finetune_study").main(words(dataset, tmp_path)) == 2
    assert "holds files of something else" in capsys.readouterr().err


def test_table_and_figure_of_a_result(tool, whole, tmp_path, capsys):
    runs = told(whole / "result.json")
    table = tool("tools.tables").TABLES["finetuning"](whole / "result.json")
    ends = [run["evaluations"][-1]["normalized_score"] for run in runs if run["algorithm"] == "odt"]
    assert "| toy/pendulum-v0 | odt | 2 x 2 | 6 + " in table and f"| {sum(ends) / 2:.1f} (" in table
    assert "K=3, d=8, n_layer=1, 4 windows an update." in table
    figure = tmp_path / "figures" / "curves.png"
    study = tool("tools.finetune_study")
    assert study.main([str(whole / "result.json"), "--figure", str(figure)]) == 0
    assert 10_000 < figure.stat().st_size < 300_000
    assert capsys.readouterr().out == f"{figure}\n" and [file.name for file in figure.parent.iterdir()] == [
        "curves.png"
    ]


def test_plot_draws_fine_tuned_runs_over_environment_steps(whole, tmp_path):
    out = tmp_path / "plots"
    assert dtag(["plot", str(whole / "runs" / "odt"), "--out", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == {
        "training.png", "training.svg", "finetuning.png", "finetuning.svg"
    }  # fmt: skip
    run = whole / "runs" / "odt" / "seed-0" / "online"
    assert is_online(run) and not is_online(run.parent / "offline")
    record = json.loads((run.parent / "run.json").read_text())
    (drawn,) = training_panels({"odt": run})[f"eval/{record['target_return']:g}/return_mean"]
    evaluations = record["evaluations"]
    assert list(drawn.x) == [evaluation["env_steps"] for evaluation in evaluations]
    assert list(drawn.y) == [evaluation["return_mean"] for evaluation in evaluations]
