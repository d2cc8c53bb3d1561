"""A run killed at any moment is resumed to the bits of a run that never stopped."""

from pathlib import Path

import pytest
from killing import run_script
from run_folders import assert_as_if_never_killed

SCRIPT = Path(__file__).with_name("killed_training.py")


@pytest.mark.parametrize("half", [1, 2])
def test_killed_before_every_change_to_its_folder(tmp_path, half):
    """Each opening, renaming and removing of a file or folder, from the first to the last."""
    run_script(SCRIPT, tmp_path, "reinformer", "changes", half, 2)
    runs = list(tmp_path.glob("killed-*"))
    assert len(runs) > 20
    for run in runs:
        assert_as_if_never_killed(tmp_path / "whole", run)


@pytest.mark.parametrize("half", [1, 2])
def test_seeds_killed_before_every_change_to_their_folders(tmp_path, half):
    run_script(SCRIPT, tmp_path, "bc", "changes", half, 2, 2)
    runs = list(tmp_path.glob("killed-*"))
    assert len(runs) > 40
    for run in runs:
        for seed in ("seed-0", "seed-1"):
            assert_as_if_never_killed(tmp_path / "whole" / seed, run / seed)


@pytest.mark.parametrize("algorithm, seed", [("dt", 0), ("iql", 1)])
def test_killed_again_and_again_at_random_moments(tmp_path, algorithm, seed):
    run_script(SCRIPT, tmp_path, algorithm, "times", seed, 8)
    assert_as_if_never_killed(tmp_path / "whole", tmp_path / "killed-often")
