"""Run by test_kill.py as a process of its own: fine-tune, be killed, resume, again and again.

    killed_finetuning.py ROOT ALGORITHM changes FIRST STEP   killed before change FIRST, FIRST + STEP, ...
    killed_finetuning.py ROOT ALGORITHM times SEED COUNT     killed COUNT times at random moments

Names of settings of the online part that are to be True may follow. ROOT/offline is the run gone on with.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

from killing import complete, kill_at_random, kill_before_changes
from run_folders import weight_sum
from small_pendulum import QUICK, make_store, small_config

from dtag_fast.algorithms import create
from dtag_fast.finetuning import finetune
from dtag_fast.training import train


def pretrain(store, algorithm: str, out: Path) -> None:
    train(algorithm, store, config=small_config(store, algorithm), out=out, updates=2)


def work(store, algorithm: str, online: dict[str, bool], out: Path) -> None:
    """Fine-tune, from the newest checkpoint on; three iterations or more."""
    finetune(
        out.parent / "offline",
        algorithm,
        out=out,
        env_steps=20,
        store=store,
        online=dataclasses.replace(QUICK, updates_per_iteration=2, **online),
        evaluate=weight_sum,
        eval_every=3,
        checkpoint_every=2,
        keep_last=1,
        env_processes=0,
        resume=True,
    )


def main() -> None:
    algorithm, mode = sys.argv[2:4]
    first, second = map(int, sys.argv[4:6])
    root, store, settings = Path(sys.argv[1]), make_store(), sys.argv[6:]
    # The first optimizer imports much: once, not in every child.
    create(algorithm, store, small_config(store, algorithm))
    complete(partial(pretrain, store, algorithm), root / "offline", "the training before it")
    tuning = partial(work, store, algorithm, dict.fromkeys(settings, True))
    seconds = complete(tuning, root / "whole", "the uninterrupted run")
    if mode == "changes":
        kill_before_changes(tuning, root, first, second)
    else:
        kill_at_random(tuning, root, first, second, seconds)


if __name__ == "__main__":
    main()
