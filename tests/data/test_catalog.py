"""Finding datasets as Minari does, and saying what there is when one is not found."""

import subprocess
import sys

import minari
import pytest

from dtag_fast.data import catalog, load_dataset


@pytest.fixture
def three_sets(write_minari, make_episodes, minari_home):
    for name in ("zoo/b/set-v1", "plain-v0", "zoo/a/set-v0"):
        write_minari(name, make_episodes((3, 4)))
    (minari_home / ".hidden").mkdir()
    return minari_home


def test_lists_what_minari_lists(three_sets):
    found = catalog.list_local()
    assert [dataset.dataset_id for dataset in found] == ["plain-v0", "zoo/a/set-v0", "zoo/b/set-v1"]
    assert {dataset.dataset_id for dataset in found} == set(minari.list_local_datasets())
    assert all((dataset.episodes, dataset.steps) == (2, 7) for dataset in found)
    assert all(dataset.problem is None for dataset in found)
    assert found[0].size == sum(file.stat().st_size for file in (three_sets / "plain-v0/data").iterdir())


@pytest.mark.parametrize("value", [None, "elsewhere", ""])
def test_root_is_minaris(monkeypatch, tmp_path, value):
    from minari.storage.datasets_root_dir import get_dataset_path

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    else:
        monkeypatch.setenv("MINARI_DATASETS_PATH", value and str(tmp_path / value))
    ours = catalog.minari_root() / "x-v0"
    assert not (tmp_path / ".minari").exists()  # looking creates nothing
    if value != "":  # Minari itself fails on an empty variable
        assert ours == get_dataset_path("x-v0")


def test_broken_sets_are_listed_with_their_problem(three_sets):
    (three_sets / "plain-v0/data/metadata.json").write_text("{")
    path = three_sets / "zoo/a/set-v0/data/metadata.json"
    path.write_text(path.read_text().replace("zoo/a/set-v0", "zoo/a/other-v0"))
    (three_sets / "empty-v0/data").mkdir(parents=True)
    problems = {dataset.dataset_id: dataset.problem for dataset in catalog.list_local()}
    assert "expected JSON" in problems["plain-v0"]
    assert "has the id 'zoo/a/other-v0'" in problems["zoo/a/set-v0"]
    assert "FileNotFoundError" in problems["empty-v0"]
    assert problems["zoo/b/set-v1"] is None


def test_missing_dataset_says_what_there_is_and_what_to_do(three_sets):
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("zoo/c/set-v0")
    message = str(error.value)
    for part in (
        "'zoo/c/set-v0'",
        "plain-v0, zoo/a/set-v0, zoo/b/set-v1",
        str(three_sets / "zoo/c/set-v0/data"),
        "MINARI_DATASETS_PATH",
        "dtag data download zoo/c/set-v0",
        "dtag data import FILE --id zoo/c/set-v0",
        "dtag data make pointmaze-umaze",
        "near it: zoo/a/set-v0",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("dataset_id", "command"),
    [
        ("random/hopper-100000-s0-v0", "random --env Hopper-v5 --steps 100000 --seed 0"),
        ("random/cartpole-20-s7-v0", "random --env CartPole-v1 --steps 20 --seed 7"),
        ("random/my-own-20-s7-v0", "random --env ENV_ID --steps 20 --seed 7"),
        ("random/hopper-v0", "random --env ENV_ID"),
        ("pointmaze/medium-5000-s3-v0", "pointmaze-medium --steps 5000 --seed 3"),
        ("pointmaze/huge-5000-s3-v0", "pointmaze-umaze"),
        ("hopper-100000-s0-v0", "pointmaze-umaze"),
    ],
)
def test_the_command_that_collects_a_missing_dataset_is_named(minari_home, dataset_id, command):
    with pytest.raises(FileNotFoundError, match=f"`dtag data make {command}`$"):
        load_dataset(dataset_id)


def test_an_environment_of_gymnasium_robotics_is_found_by_its_name(minari_home):
    pytest.importorskip("gymnasium_robotics")
    with pytest.raises(FileNotFoundError, match="random --env AdroitHandDoor-v1 --steps 5 --seed 0"):
        load_dataset("random/adroithanddoor-5-s0-v0")


def test_the_command_that_is_named_makes_the_dataset(minari_home):
    from dtag_fast.cli import main as cli
    from dtag_fast.data.recipes import command_for

    dataset_id = "random/cartpole-20-s7-v0"
    assert cli.main(command_for(dataset_id).split()[1:]) == 0
    assert load_dataset(dataset_id).num_steps == 20


def test_near_names_are_those_that_may_have_been_meant(write_minari, make_episodes):
    for name in ("random/hopper-100000-s0-v0", "other/thing-v3"):
        write_minari(name, make_episodes((3,)))
    with pytest.raises(FileNotFoundError, match=r"; near it: random/hopper-100000-s0-v0; put it at"):
        load_dataset("random/hopper-100000-s1-v0")
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("unheard/of-v9")
    assert "near it" not in str(error.value)


def test_missing_root_is_no_error_in_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "nowhere"))
    assert catalog.list_local() == []
    with pytest.raises(FileNotFoundError, match="which holds no datasets"):
        load_dataset("a/set-v0")


def test_looking_at_datasets_loads_neither_torch_nor_minari_nor_h5py(three_sets):
    """So that listing, and opening a converted set, take milliseconds."""
    load_dataset("plain-v0")
    code = (
        "import sys; from dtag_fast.data import list_local, load_dataset, normalized_score\n"
        "list_local(); load_dataset('plain-v0')\n"
        "print([name for name in ('torch', 'minari', 'h5py') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
