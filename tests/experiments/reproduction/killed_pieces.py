"""Run by test_runner.py as a process of its own: pieces of work, killed and gone on with.

killed_pieces.py ROOT FIRST STEP   killed before change FIRST, FIRST + STEP, ... to the folder of pieces
"""

import sys
from pathlib import Path

import gymnasium_robotics  # noqa: F401 - once, not in every child
import minari.data_collector  # noqa: F401
import torch
from killing import complete, kill_before_changes

from dtag_fast.executors.choice import InThisProcess
from dtag_fast.experiments.reproduction import trainings
from dtag_fast.experiments.reproduction.datasets import Data, Maze
from dtag_fast.experiments.reproduction.evaluations import Evaluation
from dtag_fast.experiments.reproduction.runner import make_plan, run
from dtag_fast.experiments.reproduction.trainings import Training
from dtag_fast.rollout import AGSetting

SIZES = {"context_len": 3, "d_model": 16, "n_layer": 1, "batch_size": 4, "dropout": 0.1}
DATA = Data(Maze("umaze", 300))
CRITIC = Training("maze2d-umaze", DATA, "iql", 6, 1, (("batch_size", 8), ("hidden", (8, 8))))
POLICY = Training(
    "maze2d-umaze", DATA, "dt", 6, 1, tuple(sorted((SIZES | {"q_weight": 1.0}).items())), critic=CRITIC
)
TUNING = Evaluation(POLICY, CRITIC, (AGSetting(), AGSetting(2, 0.1)), (100.0,), episodes=1, seed=50_000)
GOAL = Evaluation(POLICY, CRITIC, episodes=1, seed=1_000, chosen_by=(TUNING,))


def work(root: Path) -> None:
    with InThisProcess() as crew:
        failed = run(make_plan([GOAL], root, False), root, crew)
    if failed:
        raise RuntimeError("; ".join(failed))


def main() -> None:
    root, first, step = Path(sys.argv[1]), *map(int, sys.argv[2:])
    trainings.CHECKPOINT_EVERY = 2
    torch.optim.Adam([torch.nn.Parameter(torch.empty(1))])  # the first one imports much
    complete(work, root / "whole", "the uninterrupted run")
    kill_before_changes(work, root, first, step)


if __name__ == "__main__":
    main()
