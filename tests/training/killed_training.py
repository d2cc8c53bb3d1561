"""Run by test_kill.py as a process of its own: train, be killed, resume, again and again.

    killed_training.py ROOT ALGORITHM changes FIRST STEP   killed before change FIRST, FIRST + STEP, ... of it
    killed_training.py ROOT ALGORITHM times SEED COUNT     killed COUNT times at random moments

A number of seeds after these trains so many together.
"""

import sys
from functools import partial
from pathlib import Path

from killing import complete, kill_at_random, kill_before_changes
from small_runs import CONFIGS, make_store

from dtag_fast.algorithms import create
from dtag_fast.training import train, train_seeds


def work(algorithm: str, seeds: dict[str, int], out: Path) -> None:
    """Train, from the newest checkpoint on."""
    options = {"log_every": 1, "checkpoint_every": 1, "keep_last": 2, "eval_every": 2}
    (train_seeds if seeds else train)(
        algorithm,
        make_store(),
        config=CONFIGS[algorithm],
        out=out,
        updates=4,
        resume=True,
        evaluate=lambda step, run: {"score": step},
        **options,
        **seeds,
    )


def main() -> None:
    root, algorithm, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    first, second, *seeds = map(int, sys.argv[4:])
    # The first optimizer imports much: once, not in every child.
    create(algorithm, make_store(), CONFIGS[algorithm])
    training = partial(work, algorithm, {"seeds": seeds[0]} if seeds else {})
    seconds = complete(training, root / "whole", "the uninterrupted run")
    if mode == "changes":
        kill_before_changes(training, root, first, second)
    else:
        kill_at_random(training, root, first, second, seconds)


if __name__ == "__main__":
    main()
