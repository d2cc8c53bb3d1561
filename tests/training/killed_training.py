"""Run by test_kill.py as a process of its own: train, be killed, resume, again and again.

    killed_training.py ROOT ALGORITHM changes FIRST STEP   killed before change FIRST, FIRST + STEP, ... of it
    killed_training.py ROOT ALGORITHM times SEED COUNT     killed COUNT times at random moments

A number of seeds after these trains so many together.

Every training is a child forked after the imports, which keeps many kills affordable. The parent starts no
thread and does no tensor arithmetic before it forks.
"""

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from small_runs import CONFIGS, make_store

from dtag_fast.algorithms import create
from dtag_fast.training import train, train_seeds

UPDATES = 4
SEEDS = {"seeds": int(sys.argv[6])} if len(sys.argv) > 6 else {}
CHANGES = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.truncate"}


def run_child(algorithm: str, out: Path, kill_before: int | None) -> int:
    """Fork a training that resumes `out`; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        torch.set_num_threads(1)
        if kill_before is not None:
            die_before_change(out, kill_before)
        options = {"log_every": 1, "checkpoint_every": 1, "keep_last": 2, "eval_every": 2}
        (train_seeds if SEEDS else train)(
            algorithm,
            make_store(),
            config=CONFIGS[algorithm],
            out=out,
            updates=UPDATES,
            resume=True,
            evaluate=lambda step, run: {"score": step},
            **options,
            **SEEDS,
        )
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def die_before_change(out: Path, number: int) -> None:
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


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    root, algorithm, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    create(
        algorithm, make_store(), CONFIGS[algorithm]
    )  # the first optimizer imports much: once, not in every child
    if wait(run_child(algorithm, root / "whole", None)) != 0:
        sys.exit("the uninterrupted run failed")
    if mode == "changes":
        for number in itertools.count(int(sys.argv[4]), int(sys.argv[5])):
            out = root / f"killed-{number}"
            status = wait(run_child(algorithm, out, number))
            if status not in (-signal.SIGKILL, 0):
                sys.exit(f"before change {number}: exit status {status}")
            if status == 0:  # the run makes fewer changes than that
                return
            if wait(run_child(algorithm, out, None)) != 0:
                sys.exit(f"resume after a kill before change {number} failed")
    else:
        rng, kills = random.Random(int(sys.argv[4])), 0
        out = root / "killed-often"
        while kills < int(sys.argv[5]):
            pid = run_child(algorithm, out, None)
            time.sleep(rng.uniform(0.0, 0.12))
            os.kill(pid, signal.SIGKILL)
            kills += 1
            if wait(pid) == 1:
                sys.exit("a resumed run failed")
        if wait(run_child(algorithm, out, None)) != 0:
            sys.exit("the last resume failed")


if __name__ == "__main__":
    main()
