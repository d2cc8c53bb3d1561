"""`dtag data list | show | make`, run as a user runs it."""

import pytest

from dtag_fast.cli import main as cli
from dtag_fast.data import load_dataset
from dtag_fast.data.summary import summarize


@pytest.fixture
def hopper_like(write_minari, make_episodes):
    """A set with Hopper's spaces and environment: 4 episodes, of which 2 terminate."""
    episodes = make_episodes((7, 1, 30, 12), state_dim=11, action_dim=3)
    episodes[0].actions[0, 0] = 2.0
    write_minari("test/hopper-v0", episodes, env="Hopper-v5")
    return "test/hopper-v0"


def test_list_shows_every_set_and_its_size(hopper_like, minari_home, capsys):
    (minari_home / "broken-v0/data").mkdir(parents=True)
    assert cli.main(["data", "list"]) == 0
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if "test/hopper-v0" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:4] == [
        "test/hopper-v0",
        "Hopper-v5",
        "4",
        "50",
    ]
    assert "broken-v0: metadata.json can not be used: FileNotFoundError" in out


def test_list_of_nothing_says_what_to_do(minari_home, capsys):
    assert cli.main(["data", "list", "--root", str(minari_home)]) == 0
    assert f"no datasets under {minari_home}; set MINARI_DATASETS_PATH" in capsys.readouterr().out


def test_summary_counts_ends_and_ranks_returns(hopper_like):
    store = load_dataset(hopper_like)
    summary = summarize(store)
    assert (summary.episodes, summary.steps, summary.state_dim, summary.action_dim) == (4, 50, 11, 3)
    assert (summary.terminated, summary.truncated) == (2, 2)
    assert summary.length_quantiles[0] == 1
    assert summary.length_quantiles[3] == 9.5
    assert summary.length_quantiles[-1] == 30
    assert summary.return_quantiles[0] == pytest.approx(store.episode_returns.min())
    assert summary.return_mean == pytest.approx(store.episode_returns.mean())
    assert summary.score.score == pytest.approx(100 * (summary.return_mean + 20.272305) / 3254.572305)


def test_show_says_what_the_data_is_like(hopper_like, tmp_path, capsys):
    png = tmp_path / "hopper.png"
    assert cli.main(["data", "show", hopper_like, "--png", str(png)]) == 0
    out = capsys.readouterr().out
    for part in (
        "Hopper-v5, at most 1000 steps",
        "11 numbers",
        "3 numbers in [-1, 1]",
        "4 (2 terminated, 2 truncated, 0 neither)",
        "minimum: 1, 5 %: ",
        "0 = -20.2723, 100 = 3234.3; references: d4rl: hopper",
        "1 steps have actions outside the action space, by up to 1 (first in episode 0)",
        str(png),
    ):
        assert part in out
    assert png.read_bytes().startswith(b"\x89PNG")


def test_show_without_references_or_environment_says_so(write_minari, make_episodes, capsys):
    write_minari("test/plain-v0", make_episodes((3,)))
    assert cli.main(["data", "show", "test/plain-v0"]) == 0
    out = capsys.readouterr().out
    assert "not recorded" in out
    assert "none: neither the dataset nor D4RL's table has references" in out


def test_missing_dataset_is_one_sentence_and_exit_code_2(hopper_like, capsys):
    assert cli.main(["data", "show", "test/other-v0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "holds test/hopper-v0; put it at" in captured.err


def test_make_writes_a_set_that_loads(minari_home, capsys):
    pytest.importorskip("gymnasium_robotics")
    command = ["data", "make", "pointmaze-umaze", "--steps", "700", "--seed", "3", "--id", "test/maze-v0"]
    assert cli.main(command) == 0
    assert "test/maze-v0 under" in capsys.readouterr().out
    store = load_dataset("test/maze-v0")
    assert store.num_steps == 700
    assert store.metadata["observation_keys"] == ["observation"]
    assert store.metadata["env_spec"]["wrapper"] == "maze2d"
    assert summarize(store).score.source == "dataset"


@pytest.mark.parametrize("argv", [["data"], ["data", "make", "pointmaze-huge"], ["data", "show"]])
def test_bad_usage_is_exit_code_2(argv, capsys):
    assert cli.main(argv) == 2
    assert capsys.readouterr().err
