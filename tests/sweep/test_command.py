"""`dtag sweep` as a process: what it prints, its exit codes, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_tree import hear_interrupts

from dtag_fast.cli.main import main
from dtag_fast.sweep.table import COLUMNS

MORTAL = "mortal_env:DtagTest/Mortal-v0"


@pytest.fixture
def dtag(capsys):
    """dtag("sweep", ...) -> (exit code, standard output, standard error)."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_lists_of_every_option_make_one_table(dtag, run, critic, tmp_path):
    lists = (
        "--ag-steps 2,5 --ag-lr 0.1,0.3 --ag-optimizer sgd,adam --ag-reduce min,0 --ag-gradient raw,clip:1"
    )
    lists += " --ag-radius none,0.1 --ag-select best,last --episodes 2 --jobs 1 --confirm 2"
    code, out, err = dtag("sweep", run, "--critic", critic, *lists.split(), "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "the plain policy was added" in out and "best of 129 settings, chosen by these same 2" in out
    assert "confirmed on 2 fresh episodes (seeds 2..3)" in out and "258 episodes played, 0 were in" in out
    rows = [json.loads(line) for line in (tmp_path / "out/table.jsonl").read_text().splitlines()]
    assert len(rows) == 258 and all(list(row) == list(COLUMNS) for row in rows)
    assert {row["gradient"] for row in rows} == {"raw", "clip:1"} and {row["radius"] for row in rows} == {
        None,
        0.1,
    }
    code, out, _ = dtag("sweep", run, "--critic", critic, *lists.split(), "--out", tmp_path / "out")
    assert code == 0 and "0 episodes played, 258 were in the table" in out


def test_settings_of_a_file_and_two_checkpoints(dtag, run, critic, tmp_path):
    (tmp_path / "s.json").write_text('[{"steps": 2, "lr": 0.1}, {"steps": 5, "lr": 0.3, "select": "last"}]')
    line = ["sweep", run, "--critic", critic, "--settings", tmp_path / "s.json", "--episodes", 2, "--jobs", 1]
    code, out, _ = dtag(*line, "--checkpoints", "5,9")
    assert code == 0 and "AG n=5 lr=0.3 select=last target=50" in out
    assert "best: chosen by these same episodes" in out and "best of 6 settings" in out
    code, _, err = dtag(*line, "--ag-lr", "0.1")
    assert code == 2 and "takes the place of the --ag lists, got --ag-lr as well" in err


def test_a_failed_job_is_exit_code_1_and_a_bad_option_2(dtag, run, critic):
    line = ["sweep", run, "--critic", critic, "--ag-steps", 2, "--episodes", 2, "--jobs", 1]
    code, _, err = dtag(*line, "--ag-reduce", "min,7")
    assert code == 1 and "failed: step 9, AG n=2 lr=0.03 reduce=7, seeds 0..1" in err
    for more, complaint in [
        (["--ag-steps", "a"], "--ag-steps: expected whole numbers"),
        (["--ag-radius", "x"], "--ag-radius: expected numbers"),
        (["--ag-select", "worst"], 'select: expected "best" or "last"'),
        (["--seed", 7], "is of another sweep: seed was 0, got 7"),
        (["--critic", run], "expected a critic, this run of dt holds none"),
        (["--ag-gate", 0.9], "gate: its limit is a quantile over the critic's dataset: "),
    ]:
        code, _, err = dtag(*line, *more)
        assert code == 2 and complaint in err and len(err.strip().splitlines()) == 1
    code, _, err = dtag("sweep", run, "--ag-gate", 0.9)
    assert code == 2 and err == "dtag sweep: --ag-gate: expected together with --critic\n"


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_leave_a_whole_table_to_go_on_from(run, tmp_path, jobs, times):
    """A job takes four seconds; SIGINT comes after the first rows, a second one at once."""
    folder = str(Path(__file__).parent)
    (tmp_path / "order").write_text("slow")
    env = os.environ | {"MORTAL_ENV": str(tmp_path / "order")}
    env["PYTHONPATH"] = os.pathsep.join([folder, env.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "dtag_fast.cli", "sweep", str(run), "--env", MORTAL]
    command += ["--episodes", "100", "--jobs", str(jobs), "--out", str(tmp_path / "out")]
    table = tmp_path / "out/table.jsonl"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=env, preexec_fn=hear_interrupts, **pipes)
    try:
        until = time.monotonic() + 120
        while not (table.exists() and table.stat().st_size) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    if times == 1:
        assert err.strip() == f"dtag sweep: interrupted; the same command goes on from {table}"
    rows = table.read_text().splitlines()
    assert 0 < len(rows) < 100 and all(set(json.loads(row)) == set(COLUMNS) for row in rows)
    (tmp_path / "order").unlink()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{100 - len(rows)} episodes played, {len(rows)} were in the table" in done.stdout
    assert sorted(json.loads(line)["seed"] for line in table.read_text().splitlines()) == list(range(100))


def test_an_interrupt_within_a_write_waits_for_its_end(tmp_path):
    program = """
import os, signal
from dtag_fast.executors.interrupts import Interrupts
before = signal.getsignal(signal.SIGINT)
with Interrupts() as interrupts:
    try:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGINT)
            print("finished")
        print("not reached")
    except KeyboardInterrupt:
        print("then interrupted")
    try:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGINT)
            print("not reached")
    except KeyboardInterrupt:
        print("the second at once")
assert signal.getsignal(signal.SIGINT) is before
"""
    options = {"capture_output": True, "text": True, "timeout": 60, "preexec_fn": hear_interrupts}
    done = subprocess.run([sys.executable, "-c", program], **options)
    assert done.stdout.split("\n")[:-1] == ["finished", "then interrupted", "the second at once"], done.stderr


def ignore_interrupts() -> None:
    """For `preexec_fn`: as a shell script starts what it runs in its background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_where_sigint_was_ignored_at_the_start_it_stays_ignored(run, tmp_path):
    """The environment interrupts its own process at every reset: the sweep plays on to its end."""
    command = [sys.executable, "-m", "dtag_fast.cli", "sweep", str(run), "--env", MORTAL, "--episodes", "3"]
    command += ["--jobs", "1", "--out", str(tmp_path / "out")]
    (tmp_path / "order").write_text("interrupts")
    env = os.environ | {"MORTAL_ENV": str(tmp_path / "order")}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), env.get("PYTHONPATH", "")])
    options = {"env": env, "capture_output": True, "text": True, "timeout": 120}
    heard = subprocess.run(command, preexec_fn=hear_interrupts, **options)
    assert heard.returncode in (130, -signal.SIGINT), heard.stderr  # the last may come when all is said
    ignored = subprocess.run(command, preexec_fn=ignore_interrupts, **options)
    assert (ignored.returncode, ignored.stderr) == (0, "")
    assert "3 episodes played" in ignored.stdout
