"""Jobs cover what is missing, once, in batches that do not depend on what was played before."""

from itertools import product
from pathlib import Path

import pytest

from dtag_fast.rollout.settings import AGSetting
from dtag_fast.sweep import settings_grid
from dtag_fast.sweep.cells import Cell, make_cells
from dtag_fast.sweep.jobs import HowToPlay
from dtag_fast.sweep.planning import EPISODES_PER_JOB, plan

HOW = HowToPlay("run", None, None, "cpu", 8, None, None)
FOLDERS = {5: Path("5"), 9: Path("9")}


def covered(jobs):
    """(cell, seed) of all jobs, in order."""
    return [
        (Cell(int(job.checkpoint), target, setting).key, seed)
        for job in jobs
        for setting, target in product(job.settings, job.targets)
        for seed in range(job.first_seed, job.first_seed + job.episodes)
    ]


CELLS = {
    "grid": make_cells([5, 9], [None], settings_grid((0, 1, 2, 5), (0.1, 0.2, 0.3)))[0],
    "targets": make_cells([5], [1.0, 2.0, 3.0], settings_grid((2,), reduce=("mean", 0)))[0],
    "many": make_cells([9], [None], settings_grid(range(30), (0.1, 0.2, 0.3), gradient=("raw", "unit")))[0],
    "one": make_cells([5], [None], [AGSetting()])[0],
}


@pytest.mark.parametrize("name", list(CELLS))
def test_every_missing_episode_is_played_once_and_no_other(name, rng):
    cells, seeds = CELLS[name], range(3, 20)
    everything = {(cell.key, seed) for cell in cells for seed in seeds}
    fresh = plan(cells, seeds, lambda cell, seed: False, FOLDERS, lambda folder: None, HOW)
    assert sorted(covered(fresh), key=str) == sorted(everything, key=str)
    assert all(job.units <= EPISODES_PER_JOB for job in fresh)
    had = {place for place in everything if rng.random() < 0.5}
    rest = plan(cells, seeds, lambda cell, seed: (cell.key, seed) in had, FOLDERS, lambda folder: None, HOW)
    assert sorted(covered(rest), key=str) == sorted(everything - had, key=str)


def test_what_is_left_after_an_interruption_is_the_same_jobs(rng):
    cells, seeds = CELLS["grid"], range(0, 20)
    jobs = plan(cells, seeds, lambda cell, seed: False, FOLDERS, lambda folder: None, HOW)
    had = set(covered(jobs[1:3]))
    rest = plan(cells, seeds, lambda cell, seed: (cell.key, seed) in had, FOLDERS, lambda folder: None, HOW)
    assert len(jobs) > 4 and rest == [jobs[0], *jobs[3:]]
