"""Where data of the tasks are looked for."""

from pathlib import Path

import pytest

from dtag_fast.experiments.reproduction.budget import SMALL
from dtag_fast.experiments.reproduction.datasets import Data, Maze
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.tasks import ADROIT, ANTMAZE, GYM, MAZE2D, Source

TASKS = (*GYM, *MAZE2D, *ADROIT, *ANTMAZE)

# names of D4RL's download table, and of pickled trajectories
D4RL = {
    "halfcheetah-medium": "halfcheetah_medium-v2.hdf5",
    "hopper-medium-replay": "hopper_medium_replay-v2.hdf5",
    "hopper-medium-expert": "hopper-medium-expert-v2.pkl",
    "walker2d-medium": "walker2d_medium-v0.hdf5",
    "maze2d-umaze": "maze2d-umaze-sparse-v1.hdf5",
    "door-human": "door-v0_demos_clipped.hdf5",
    "door-expert": "door-expert-v1.hdf5",
    "antmaze-umaze": "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
}
OTHERS = ("maze2d-medium-dense-v1.hdf5", "hopper_random-v2.hdf5", "notes.txt", "maze2d-large-sparse-v1.zip")


def dataset(root: Path, name: str) -> None:
    (root / name / "data").mkdir(parents=True)
    (root / name / "data" / "metadata.json").write_text("{}")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_local_data(root):
    source = Source.parse("local")
    assert (source.kind, source.root) == ("local", root)
    assert [source.find(task) for task in TASKS] == [None] * len(TASKS)
    dataset(root, "local/hopper/medium-replay-v0")
    (root / "local/walker2d/medium-v0").mkdir(parents=True)  # no dataset in it
    found = {task: source.find(task) for task in TASKS if source.find(task)}
    assert found == {"hopper-medium-replay": "local/hopper/medium-replay-v0"}
    assert source.wanted("walker2d-medium") == "local/walker2d/medium-v0 under the Minari root"


def test_data_of_minaris_server(root):
    source = Source.parse("minari")
    for name in ("mujoco/hopper/medium-v0", "D4RL/pointmaze/large-v2", "D4RL/antmaze/umaze-v1"):
        dataset(root, name)
    dataset(root, "D4RL/door/human-v2")
    dataset(root, "local/hopper/medium-replay-v0")
    assert {task: source.find(task) for task in TASKS if source.find(task)} == {
        "hopper-medium": "mujoco/hopper/medium-v0",
        "maze2d-large": "D4RL/pointmaze/large-v2",
        "antmaze-umaze": "D4RL/antmaze/umaze-v1",
        "door-human": "D4RL/door/human-v2",
    }
    assert source.wanted("maze2d-umaze") == "D4RL/pointmaze/umaze-v2 under the Minari root"


def test_files_of_d4rl(tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    for name in (*D4RL.values(), *OTHERS):
        (tmp_path / "files" / name).touch()
    monkeypatch.chdir(tmp_path)
    source = Source.parse("d4rl:files")
    assert (source.kind, source.root) == ("d4rl", tmp_path / "files")
    found = {task: Path(source.find(task)) for task in TASKS if source.find(task)}
    assert found == {task: tmp_path / "files" / name for task, name in D4RL.items()}
    assert (
        source.wanted("walker2d-medium-replay") == f"a file of walker2d-medium-replay in {tmp_path / 'files'}"
    )


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("here", 'data: expected "local", "minari" or "d4rl:DIR", got \'here\''),
        ("d4rl", 'data: expected "local", "minari" or "d4rl:DIR", got \'d4rl\''),
        ("d4rl:", 'data: expected "local", "minari" or "d4rl:DIR", got \'d4rl:\''),
        ("local:x", 'data: expected "local", "minari" or "d4rl:DIR", got \'local:x\''),
        ("d4rl:nowhere", "data: nowhere is no folder; give the one that holds D4RL's .hdf5 files"),
    ],
)
def test_anything_else_gets_a_sentence(text, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        Source.parse(text)
    assert str(error.value) == sentence


def test_a_folder_of_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "files").mkdir()
    assert Source.parse("d4rl:~/files").root == tmp_path / "files"


def test_mazes_are_collected_where_data_are_local_and_looked_for_elsewhere(root):
    lab = Lab(SMALL, Source.parse("local"), 1)
    assert lab.data("maze2d-umaze") == Data(Maze("umaze", SMALL.maze_steps))
    assert lab.data("hopper-medium") is None
    assert Lab(SMALL, Source.parse("minari"), 1).data("maze2d-umaze") is None
    dataset(root, "D4RL/pointmaze/umaze-v2")
    assert Lab(SMALL, Source.parse("minari"), 1).data("maze2d-umaze") == Data("D4RL/pointmaze/umaze-v2")
