"""Runs that are killed and resumed, again and again: what the scripts that do so have in common.

Such a script is run by a test as a process of its own. Every run in it is a child forked after the imports,
which keeps many kills affordable. The script starts no thread and does no tensor arithmetic before it forks.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

Work = Callable[[Path], object]  # begins a run in this folder, or resumes the one that is there
CHANGES = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.truncate"}


def run_script(script: Path, *arguments) -> None:
    """Run a script that imports this module; the test fails where it does."""
    command = [sys.executable, str(script), *map(str, arguments)]
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr


def complete(work: Work, out: Path, what: str) -> float:
    """Do it in a child, to its end; the seconds it took."""
    began = time.perf_counter()
    if _wait(_fork(work, out)) != 0:
        sys.exit(f"{what} failed")
    return time.perf_counter() - began


def kill_before_changes(work: Work, root: Path, first: int, step: int) -> None:
    """ROOT/killed-N is killed before the N-th change to its folder and resumed, for N = first, first + step,
    ... until there are no more changes."""
    for number in itertools.count(first, step):
        out = root / f"killed-{number}"
        status = _wait(_fork(work, out, number))
        if status not in (-signal.SIGKILL, 0):
            sys.exit(f"before change {number}: exit status {status}")
        if status == 0:  # the run makes fewer changes than that
            return
        complete(work, out, f"resume after a kill before change {number}")


def kill_at_random(work: Work, root: Path, seed: int, count: int, longest: float) -> None:
    """ROOT/killed-often is killed `count` times, each after a random time of at most `longest` seconds."""
    rng, out = random.Random(seed), root / "killed-often"
    for _ in range(count):
        pid = _fork(work, out)
        time.sleep(rng.uniform(0.0, longest))
        os.kill(pid, signal.SIGKILL)
        if _wait(pid) == 1:
            sys.exit("a resumed run failed")
    complete(work, out, "the last resume")


def _fork(work: Work, out: Path, kill_before: int | None = None) -> int:
    """Start a child that does it, with one thread; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        torch.set_num_threads(1)
        if kill_before is not None:
            _die_before_change(out, kill_before)
        work(out)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _die_before_change(out: Path, number: int) -> None:
    """SIGKILL this process just before it opens, renames or removes the `number`-th thing in `out`."""
    seen = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal seen
        if event not in CHANGES or not str(args[0]).startswith(str(out)):
            return
        if event == "open" and (args[1] is None or set(args[1]) <= set("rb")):
            return
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
