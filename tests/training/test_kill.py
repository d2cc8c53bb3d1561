"""A run killed at any moment is resumed to the bits of a run that never stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_training.py")


def run_script(*arguments) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def metrics(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows]


def assert_whole(whole: Path, run: Path, assert_same_bits) -> None:
    assert_same_bits(whole, run)
    assert metrics(run) == metrics(whole)
    assert sorted(p.name for p in run.rglob("*")) == sorted(p.name for p in whole.rglob("*"))


@pytest.mark.parametrize("half", [1, 2])
def test_killed_before_every_change_to_its_folder(tmp_path, assert_same_bits, half):
    """Each opening, renaming and removing of a file or folder, from the first to the last."""
    run_script(tmp_path, "reinformer", "changes", half, 2)
    runs = list(tmp_path.glob("killed-*"))
    assert len(runs) > 20
    for run in runs:
        assert_whole(tmp_path / "whole", run, assert_same_bits)


@pytest.mark.parametrize("half", [1, 2])
def test_seeds_killed_before_every_change_to_their_folders(tmp_path, assert_same_bits, half):
    run_script(tmp_path, "bc", "changes", half, 2, 2)
    runs = list(tmp_path.glob("killed-*"))
    assert len(runs) > 40
    for run in runs:
        for seed in ("seed-0", "seed-1"):
            assert_whole(tmp_path / "whole" / seed, run / seed, assert_same_bits)


@pytest.mark.parametrize("algorithm, seed", [("dt", 0), ("iql", 1)])
def test_killed_again_and_again_at_random_moments(tmp_path, assert_same_bits, algorithm, seed):
    run_script(tmp_path, algorithm, "times", seed, 8)
    assert_whole(tmp_path / "whole", tmp_path / "killed-often", assert_same_bits)
