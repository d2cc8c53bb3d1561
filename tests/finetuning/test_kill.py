"""A fine-tuning killed at any moment is resumed to the bits of one that never stopped, episodes included."""

from pathlib import Path

import pytest
from killing import run_script
from run_folders import assert_as_if_never_killed, records

SCRIPT = Path(__file__).with_name("killed_finetuning.py")


@pytest.mark.parametrize(
    "first, step, settings",
    [
        (3, 7, []),
        *(pytest.param(first, 2, [], marks=pytest.mark.slow) for first in (1, 2)),
        *(pytest.param(first, 2, ["overlap"], marks=pytest.mark.slow) for first in (1, 2)),
    ],
    ids=["some", "odd", "even", "overlap-odd", "overlap-even"],
)
def test_killed_before_changes_to_its_folder(tmp_path, first, step, settings):
    """Openings, renamings and removings of files and folders, from the first to the last."""
    run_script(SCRIPT, tmp_path, "td3-odt", "changes", first, step, *settings)
    runs = list(tmp_path.glob("killed-*"))
    assert len(runs) > 60 // step
    assert records(tmp_path / "whole")[-2]["online/episodes"] >= 6  # more than the buffer keeps
    for run in runs:
        assert_as_if_never_killed(tmp_path / "whole", run)


def test_killed_again_and_again_at_random_moments(tmp_path):
    run_script(SCRIPT, tmp_path, "odt", "times", 0, 8)
    assert_as_if_never_killed(tmp_path / "whole", tmp_path / "killed-often")
