"""`dtag data import`: files and datasets become Minari datasets that Minari itself reads."""

import json
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import faulty_env
import gymnasium
import h5py
import minari
import numpy as np
import pytest

from dtag_fast.cli import main as cli
from dtag_fast.data import list_local, load_dataset
from dtag_fast.data.importing import combine, import_files

LENGTHS = (7, 1, 30, 2)


@pytest.fixture
def write_d4rl(tmp_path, minari_home, make_episodes):
    """write_d4rl(name, seed=0, ...) writes episodes of Hopper's sizes as D4RL does; gives path, episodes."""

    def write(name, seed=0, lengths=LENGTHS, state_dim=11, action_dim=3):
        episodes = make_episodes(lengths, state_dim=state_dim, action_dim=action_dim, seed=seed)
        arrays = {
            "observations": [e.observations[:-1] for e in episodes],
            "next_observations": [e.observations[1:] for e in episodes],
            "actions": [e.actions for e in episodes],
            "rewards": [e.rewards for e in episodes],
            "terminals": [e.terminations for e in episodes],
            "timeouts": [e.truncations for e in episodes],
        }
        path = tmp_path / name
        if path.suffix == ".pkl":
            del arrays["timeouts"]
            rows = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
            path.write_bytes(pickle.dumps(rows))
        else:
            with h5py.File(path, "w") as file:
                for key, parts in arrays.items():
                    file[key] = np.concatenate(parts)
        return path, episodes

    return write


def assert_holds(store, episodes):
    assert store.num_episodes == len(episodes)
    for index, expected in enumerate(episodes):
        for mine, other in zip(store.episode(index), expected, strict=True):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_an_imported_file_is_a_minari_dataset(write_d4rl, minari_home):
    path, episodes = write_d4rl("hopper_medium-v2.hdf5")
    assert import_files([path], "d4rl/hopper-medium-v2") == []
    path.unlink()
    store = load_dataset("d4rl/hopper-medium-v2")
    assert_holds(store, episodes)
    metadata = store.metadata
    assert (metadata["env_id"], metadata["max_episode_steps"]) == ("Hopper-v4", 1000)
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-20.272305, 3234.3)
    assert metadata["ref_source"] == "d4rl: hopper"
    assert (metadata["action_low"], metadata["action_high"]) == ([-1.0] * 3, [1.0] * 3)
    assert metadata["description"] == "imported from hopper_medium-v2.hdf5"
    (found,) = list_local()
    assert (found.dataset_id, found.env_id, found.episodes, found.steps, found.problem) == (
        *("d4rl/hopper-medium-v2", "Hopper-v4", 4, 40, None),
    )
    theirs = minari.load_dataset("d4rl/hopper-medium-v2")
    assert theirs.total_steps == 40
    for episode in theirs.iterate_episodes():
        np.testing.assert_array_equal(episode.observations, episodes[episode.id].observations)
    assert minari.get_normalized_score(theirs, 3234.3) == 1.0
    assert theirs.recover_environment().spec.id == "Hopper-v4"
    assert not [entry for entry in minari_home.iterdir() if entry.name.startswith(".")]


def test_a_relative_root_works(write_d4rl, tmp_path, monkeypatch):
    """Minari itself fails to write under a relative root."""
    path, episodes = write_d4rl("hopper_medium-v2.hdf5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "below/sets")
    import_files([path], "d4rl/hopper-v0")
    assert_holds(load_dataset("d4rl/hopper-v0"), episodes)
    combine(["d4rl/hopper-v0", "d4rl/hopper-v0"], "d4rl/twice-v0")
    assert_holds(load_dataset("d4rl/twice-v0"), episodes * 2)


def test_notes_of_the_import_stay_with_the_dataset(write_d4rl):
    path, _ = write_d4rl("hopper_medium-v2.hdf5")
    with h5py.File(path, "a") as file:
        del file["next_observations"]
    notes = import_files([path], "d4rl/hopper-v0")
    assert len(notes) == 2
    assert load_dataset("d4rl/hopper-v0").metadata["notes"] == notes


def test_several_files_make_one_dataset(write_d4rl):
    """HDF5 and pickles in one; more episodes than are written at a time."""
    medium, one = write_d4rl("hopper_medium-v2.hdf5", seed=1, lengths=[1 + n % 4 for n in range(70)])
    expert, two = write_d4rl("hopper-expert-v2.pkl", seed=2)
    import_files([medium, expert], "d4rl/hopper-medium-expert-v2")
    assert_holds(load_dataset("d4rl/hopper-medium-expert-v2"), one + two)


@pytest.mark.parametrize(
    ("other", "sizes", "sentence"),
    [
        ("walker2d_medium-v2.hdf5", {}, r"env_spec: .* has Hopper-v4\(\) with 1000 .*, .* has Walker2d-v4"),
        ("mine.hdf5", {}, "env_spec: .* has none; one dataset has one task"),
        ("hopper_expert-v2.hdf5", {"state_dim": 4}, r"different sizes .* \[\(4, 3\), \(11, 3\)\]"),
    ],
)
def test_files_of_different_tasks_are_refused(write_d4rl, minari_home, other, sizes, sentence):
    files = [write_d4rl("hopper_medium-v2.hdf5")[0], write_d4rl(other, **sizes)[0]]
    with pytest.raises(ValueError, match=sentence):
        import_files(files, "d4rl/both-v0")
    assert list(minari_home.iterdir()) == []


def test_maze2d_of_different_rewards_is_refused(write_d4rl):
    names = ("maze2d-umaze-sparse-v1.hdf5", "maze2d-umaze-dense-v1.hdf5")
    files = [write_d4rl(name, state_dim=4, action_dim=2)[0] for name in names]
    with pytest.raises(ValueError, match=r"env_spec: .* as d4rl_maze2d with .* as d4rl_maze2d_dense with"):
        import_files(files, "d4rl/both-v0")


def test_the_user_may_name_the_environment(write_d4rl):
    files = [write_d4rl(name)[0] for name in ("mine.hdf5", "hopper_medium-v2.hdf5")]
    import_files(files, "my/set-v0", "Hopper-v5")
    metadata = load_dataset("my/set-v0").metadata
    assert (metadata["env_id"], metadata["max_episode_steps"]) == ("Hopper-v5", 1000)
    assert metadata["action_high"] == [1.0, 1.0, 1.0]
    assert metadata["notes"] == ["4 episodes repeat an earlier one (first: 4 is equal to 0)"]


def test_the_environment_of_a_module_is_found_in_a_fresh_process(write_d4rl, tmp_path):
    """Its id is registered by nobody until the module is imported."""
    path, _ = write_d4rl("mine.hdf5", state_dim=faulty_env.STATE_DIM, action_dim=faulty_env.ACTION_DIM)
    (tmp_path / "own_env.py").write_text(
        "import faulty_env, gymnasium\n"
        "gymnasium.register('Own/Pole-v5', faulty_env.FaultyEnv, "
        "kwargs={'faults': ()}, max_episode_steps=9)\n"
    )
    folders = [str(tmp_path), str(Path(faulty_env.__file__).parent), os.environ.get("PYTHONPATH", "")]
    options = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(folders)}, "check": True}
    importing = ["data", "import", str(path), "--id", "my/set-v0", "--env", "own_env:Own/Pole-v5"]
    subprocess.run([sys.executable, "-m", "dtag_fast.cli", *importing], **options)
    metadata = load_dataset("my/set-v0").metadata
    assert metadata["env_id"] == metadata["env_spec"]["id"] == "own_env:Own/Pole-v5"
    assert metadata["max_episode_steps"] == 9
    code = (
        "from dtag_fast.data import load_dataset\n"
        "from dtag_fast.rollout.environments import make_env\n"
        "metadata = load_dataset('my/set-v0').metadata\n"
        "env = make_env(metadata['env_id'], metadata['env_spec'], metadata['max_episode_steps'])\n"
        "print(env.spec.id, env.spec.max_episode_steps)"
    )
    made = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)
    assert made.stdout == "Own/Pole-v5 9\n"


def test_references_of_a_files_name_need_its_time_limit_and_rewards(write_d4rl):
    """The name says D4RL's hopper, the environment that the user names is shorter or rewards otherwise."""
    path, _ = write_d4rl("hopper_medium-v2.hdf5")
    ids = [f"DtagTest/Body{n}-v0" for n in range(3)]
    entry_point = gymnasium.spec("Hopper-v5").entry_point
    for env_id, limit, kwargs in zip(ids, (50, 1000, 1000), ({}, {}, {"healthy_reward": 3.0}), strict=True):
        gymnasium.register(env_id, entry_point, max_episode_steps=limit, kwargs=kwargs)
    try:
        short, full, rich = (import_files([path], f"my/set-v{n}", env_id) for n, env_id in enumerate(ids))
    finally:
        for env_id in ids:
            del gymnasium.registry[env_id]
    assert full == []
    assert short == [
        "reference scores are left out: D4RL's references of hopper are returns within 1000 steps, an "
        "episode here has up to 50"
    ]
    assert rich == [
        "reference scores are left out: D4RL's references of hopper are of its own rewards and physics, the "
        "environment here is made with healthy_reward=3.0"
    ]
    references = [load_dataset(f"my/set-v{n}").metadata["ref_source"] for n in range(3)]
    assert references == [None, "d4rl: hopper", None]


def test_a_module_that_nobody_needs_is_left_out(write_d4rl):
    pytest.importorskip("gymnasium_robotics")
    path, _ = write_d4rl("mine.hdf5", state_dim=39, action_dim=28)
    import_files([path], "my/set-v0", "gymnasium_robotics:AdroitHandDoor-v1")
    assert load_dataset("my/set-v0").metadata["env_id"] == "AdroitHandDoor-v1"


@pytest.mark.parametrize(
    ("env_id", "sentence"),
    [
        ("Walker2d-v5", "env: Walker2d-v5 has 17 observations and 6 actions, mine.hdf5 has 11 and 3"),
        ("CartPole-v1", r"env: CartPole-v1 has actions of Discrete\(2\), mine.hdf5 has vectors of 3"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(write_d4rl, minari_home, env_id, sentence):
    path, _ = write_d4rl("mine.hdf5")
    with pytest.raises(ValueError, match=sentence):
        import_files([path], "my/set-v0", env_id)
    with pytest.raises(gymnasium.error.Error, match="NoSuchEnv"):
        import_files([path], "my/set-v0", "NoSuchEnv-v0")
    with pytest.raises(gymnasium.error.Error, match="names the module no_module, which cannot be imported"):
        import_files([path], "my/set-v0", "no_module:Hopper-v5")
    assert list(minari_home.iterdir()) == []


@pytest.mark.parametrize("dataset_id", ["", "set", "x/set-v0", "my/set", "../set-v0", "my set-v0"])
def test_malformed_ids_are_refused(write_d4rl, dataset_id):
    path, _ = write_d4rl("mine.hdf5")
    with pytest.raises(ValueError, match=r"--id: expected namespace/name-vN"):
        import_files([path], dataset_id)


def test_a_dataset_is_never_overwritten_and_never_half_written(write_d4rl, minari_home):
    path, _ = write_d4rl("mine.hdf5")
    import_files([path], "my/set-v0")
    with pytest.raises(ValueError, match="--id: 'my/set-v0' exists already"):
        import_files([path], "my/set-v0")
    with h5py.File(path, "a") as file:
        file["rewards"][39] = np.nan
    with pytest.raises(ValueError, match="mine: episode 3: rewards: row 1 holds NaN"):
        import_files([path], "my/other-v0")
    assert sorted(entry.name for entry in (minari_home / "my").iterdir()) == [
        "namespace_metadata.json",
        "set-v0",
    ]
    assert [entry.name for entry in minari_home.iterdir()] == ["my"]


def two_sets(write_minari, make_episodes, **second):
    first = {"env": "Hopper-v5", "ref_min_score": -5.0, "ref_max_score": 50.0}
    parts = []
    for seed, (name, options) in enumerate((("medium", first), ("expert", {**first, **second}))):
        episodes = make_episodes(LENGTHS, state_dim=11, action_dim=3, seed=seed)
        parts.append([e._replace(observations=e.observations.astype(np.float64)) for e in episodes])
        form = options.pop("data_format", "hdf5")
        write_minari(f"test/{name}-v0", parts[-1], data_format=form, **options)
    return parts


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
def test_combined_datasets_keep_environment_and_references(write_minari, make_episodes, form):
    pytest.importorskip("pyarrow")
    one, two = two_sets(write_minari, make_episodes, data_format=form)
    combine(["test/medium-v0", "test/expert-v0"], "test/both-v0")
    store = load_dataset("test/both-v0")
    assert_holds(store, one + two)
    assert (store.metadata["ref_min_score"], store.metadata["ref_max_score"]) == (-5.0, 50.0)
    assert store.metadata["env_id"] == "Hopper-v5"
    theirs = minari.load_dataset("test/both-v0")
    assert theirs.spec.combined_datasets == ["test/medium-v0", "test/expert-v0"]
    assert theirs.recover_environment().spec.id == "Hopper-v5"


def test_combined_datasets_keep_dicts_infos_and_seeds(write_minari, make_episodes):
    from gymnasium.spaces import Box
    from gymnasium.spaces import Dict as DictSpace
    from minari.data_collector import EpisodeBuffer

    space = DictSpace(observation=Box(-9, 9, (3,)), desired_goal=Box(-9, 9, (1,)))
    for name in ("one", "two"):
        buffers = [
            EpisodeBuffer(
                observations={"observation": e.observations[:, :3], "desired_goal": e.observations[:, 3:]},
                actions=e.actions,
                rewards=e.rewards,
                terminations=e.terminations,
                truncations=e.truncations,
                infos={"success": np.arange(len(e.actions) + 1)},
                seed=7 + index,
            )
            for index, e in enumerate(make_episodes(LENGTHS, state_dim=4))
        ]
        write_minari(
            f"test/{name}-v0", buffers, observation_space=space, action_space=Box(-1, 1, (2,), np.float32)
        )
    combine(["test/one-v0", "test/two-v0"], "test/both-v0")
    dataset = minari.load_dataset("test/both-v0")
    assert len(dataset) == 8
    assert dataset[6].observations["desired_goal"].shape == (31, 1)
    np.testing.assert_array_equal(dataset[6].infos["success"], np.arange(31))
    seeds = [about["seed"] for about in dataset.storage.get_episode_metadata(range(8))]
    assert seeds == [7, 8, 9, 10] * 2
    assert load_dataset("test/both-v0").metadata["observation_keys"] == ["observation", "desired_goal"]


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ({"ref_max_score": 51.0}, r"ref_max_score: test/medium-v0 has 50\.0, test/expert-v0 has 51\.0; one"),
        ({"ref_min_score": -4.0}, r"ref_min_score: test/medium-v0 has -5\.0, test/expert-v0 has -4\.0; one"),
        (
            {"env": "Hopper-v4"},
            r"env_spec: test/medium-v0 has Hopper-v5\(\) with 1000 steps at most, test/exp",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_datasets_of_different_tasks_are_refused(write_minari, make_episodes, minari_home, second, sentence):
    two_sets(write_minari, make_episodes, **second)
    with pytest.raises(ValueError, match=sentence):
        combine(["test/medium-v0", "test/expert-v0"], "test/both-v0")
    assert not (minari_home / "test/both-v0").exists()


@pytest.mark.parametrize("without", ["medium", "expert"])
def test_parts_without_references_take_those_of_the_others(write_minari, make_episodes, minari_home, without):
    one, two = two_sets(write_minari, make_episodes)
    edit(minari_home / f"test/{without}-v0", ref_min_score=None, ref_max_score=None)
    combine(["test/medium-v0", "test/expert-v0"], "test/both-v0")
    store = load_dataset("test/both-v0")
    assert_holds(store, one + two)
    assert (store.metadata["ref_min_score"], store.metadata["ref_max_score"]) == (-5.0, 50.0)
    assert store.metadata["ref_source"] == "dataset"
    assert minari.get_normalized_score(minari.load_dataset("test/both-v0"), 22.5) == 0.5


def test_two_parts_with_references_must_agree_whoever_stands_between(
    write_minari, make_episodes, minari_home
):
    two_sets(write_minari, make_episodes, ref_max_score=51.0)
    write_minari("test/plain-v0", make_episodes(LENGTHS, state_dim=11, action_dim=3), env="Hopper-v5")
    sets = ["test/plain-v0", "test/medium-v0", "test/expert-v0"]
    with pytest.raises(ValueError, match=r"ref_max_score: test/medium-v0 has 50\.0, test/expert-v0 has 51"):
        combine(sets, "test/both-v0")
    assert not (minari_home / "test/both-v0").exists()


def test_references_are_not_lent_where_no_environment_is_recorded(write_d4rl, minari_home):
    """D4RL's antmaze has references and no environment; the other file may be of anything."""
    sizes = {"state_dim": 29, "action_dim": 8}
    files = [write_d4rl(name, **sizes)[0] for name in ("mine.hdf5", "antmaze-umaze-v2.hdf5")]
    with pytest.raises(ValueError, match=r"ref_min_score: .*mine\.hdf5 has none, .* has 0\.0; one dataset"):
        import_files(files, "d4rl/both-v0")
    assert list(minari_home.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "sizes", "refused"),
    [
        (("antmaze-umaze-v0", "antmaze-large-play-v0"), (29, 8), "antmaze-umaze, .* of its antmaze-large"),
        (("antmaze-medium-play-v2", "antmaze-large-play-v2"), (29, 8), "antmaze-medium, .* antmaze-large"),
        (("antmaze-medium-play-v2", "antmaze-medium-diverse-v2"), (29, 8), None),
        (("kitchen-partial-v0", "kitchen-mixed-v0"), (60, 9), "kitchen of slider, .* kitchen of bottom"),
        (("kitchen-partial-v0", "kitchen-complete-v0"), (60, 9), None),
    ],
)
def test_files_of_several_of_d4rls_environments_are_no_dataset(
    write_d4rl, minari_home, names, sizes, refused
):
    """Their reference scores are the same."""
    files = [write_d4rl(f"{name}.hdf5", state_dim=sizes[0], action_dim=sizes[1])[0] for name in names]
    if refused is None:
        import_files(files, "d4rl/both-v0")
        assert load_dataset("d4rl/both-v0").metadata["ref_source"].startswith("d4rl: ")
        return
    with pytest.raises(ValueError, match=rf"FILE: {names[0]}.* is of D4RL's {refused}"):
        import_files(files, "d4rl/both-v0")
    assert list(minari_home.iterdir()) == []


def test_without_any_references_there_are_none(write_minari, make_episodes, minari_home):
    two_sets(write_minari, make_episodes)
    for name in ("medium", "expert"):
        edit(minari_home / f"test/{name}-v0", ref_min_score=None)  # one number alone is no scale
    combine(["test/medium-v0", "test/expert-v0"], "test/both-v0")
    metadata = load_dataset("test/both-v0").metadata
    assert metadata["ref_min_score"] is metadata["ref_max_score"] is metadata["ref_source"] is None


@pytest.mark.parametrize("named", ["medium", "expert"])
def test_a_part_that_does_not_name_its_module_is_of_the_same_environment(
    write_minari, make_episodes, minari_home, named
):
    two_sets(write_minari, make_episodes)
    spec = {"id": "Own/Hopper-v5", "kwargs": {}, "max_episode_steps": 9}
    for name in ("medium", "expert"):
        module = "own_env:" if name == named else ""
        edit(minari_home / f"test/{name}-v0", dtag_env_spec=spec | {"id": module + spec["id"]})
    combine(["test/medium-v0", "test/expert-v0"], "test/both-v0")
    metadata = load_dataset("test/both-v0").metadata
    assert metadata["env_id"] == metadata["env_spec"]["id"] == "own_env:Own/Hopper-v5"
    edit(minari_home / "test/medium-v0", dtag_env_spec=spec | {"id": "a:Own/Hopper-v5"})
    edit(minari_home / "test/expert-v0", dtag_env_spec=spec | {"id": "b:Own/Hopper-v5"})
    with pytest.raises(ValueError, match=r"env_spec: .* has a:Own/Hopper-v5.* has b:Own/Hopper-v5"):
        combine(["test/medium-v0", "test/expert-v0"], "test/other-v0")


def edit(dataset, **changes):
    """Change entries of a dataset's metadata; None removes one."""
    file = dataset / "data/metadata.json"
    changed = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def test_combined_pointmaze_sets_stay_playable(minari_home):
    """They have an environment of Minari's and one of dtag_fast's."""
    pytest.importorskip("gymnasium_robotics")
    from dtag_fast.data.pointmaze import make_pointmaze

    for seed in (0, 1):
        make_pointmaze("umaze", 400, seed, f"maze/part-v{seed}")
    combine(["maze/part-v0", "maze/part-v1"], "maze/both-v0")
    store, part = load_dataset("maze/both-v0"), load_dataset("maze/part-v0")
    assert store.num_steps == 800
    for key in ("env_id", "env_spec", "observation_keys", "ref_min_score", "ref_max_score"):
        assert store.metadata[key] == part.metadata[key]
    assert store.metadata["env_spec"]["wrapper"] == "maze2d"
    assert minari.load_dataset("maze/both-v0").spec.env_spec.id == "PointMaze_UMaze-v3"


def test_datasets_of_different_spaces_are_refused(write_minari, make_episodes):
    for name, width in (("one", 3), ("two", 4)):
        write_minari(f"test/{name}-v0", make_episodes(LENGTHS, state_dim=width))
    with pytest.raises(ValueError, match="test/two-v0 has observations Box"):
        combine(["test/one-v0", "test/two-v0"], "test/both-v0")
    with pytest.raises(FileNotFoundError, match="'test/three-v0' is neither"):
        combine(["test/one-v0", "test/three-v0"], "test/both-v0")
    with pytest.raises(ValueError, match="expected at least two ids, got 1"):
        combine(["test/one-v0"], "test/both-v0")


@pytest.mark.filterwarnings("ignore:.*out of date")
def test_the_command_imports_shows_and_combines(write_d4rl, tmp_path, capsys):
    for kind in ("medium", "expert"):
        path, _ = write_d4rl(f"hopper_{kind}-v2.hdf5", seed=len(kind))
        assert cli.main(["data", "import", str(path), "--id", f"d4rl/hopper-{kind}-v2"]) == 0
    ids = ["d4rl/hopper-medium-v2", "d4rl/hopper-expert-v2"]
    assert cli.main(["data", "import", "--combine", *ids, "--id", "d4rl/hopper-medium-expert-v2"]) == 0
    assert cli.main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    for name in (*ids, "d4rl/hopper-medium-expert-v2"):
        (row,) = (line for line in listed.splitlines() if line.startswith(("│ " + name + " ", "| " + name)))
        assert "Hopper-v4" in row
    png = tmp_path / "x.png"
    for name in ("d4rl/hopper-medium-expert-v2", str(path)):
        assert cli.main(["data", "show", name, "--png", str(png)]) == 0
        shown = capsys.readouterr().out
        for part in (
            *("Hopper-v4, at most 1000 steps", "11 numbers", "3 numbers in [-1, 1]", "0.0 MB as float32"),
            *("minimum: ", "references: d4rl: hopper"),
        ):
            assert part in shown
        assert png.read_bytes().startswith(b"\x89PNG")
        png.unlink()


def test_any_file_name_is_shown(write_d4rl, capsys):
    """Rich would take it for markup."""
    path, _ = write_d4rl("a [red].hdf5")
    assert cli.main(["data", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "a [red]" in shown
    assert "not recorded" in shown


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "FILE, --combine: expected files or ids of datasets to combine, got neither"),
        (["x.hdf5", "--combine", "a-v0", "b-v0"], "FILE, --combine: expected files or ids"),
        (["--combine", "a-v0", "b-v0", "--env", "Hopper-v4"], "--env: datasets to combine bring their own"),
        (["nowhere.hdf5"], "FILE: nowhere.hdf5 is no file"),
    ],
)
def test_bad_usage_is_one_sentence(minari_home, options, sentence, capsys):
    assert cli.main(["data", "import", *options, "--id", "my/set-v0"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert sentence in err


def test_a_hostile_pickle_is_one_sentence(tmp_path, minari_home, capsys):
    path = tmp_path / "hopper-medium-v2.pkl"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert cli.main(["data", "import", str(path), "--id", "my/set-v0"]) == 2
    err = capsys.readouterr().err
    assert "refused before anything of it ran: it asks for 'os.system'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("version", sorted(minari.supported_dataset_versions))
def test_every_version_that_minari_reads_is_read(write_minari, make_episodes, minari_home, version):
    """Old descriptions of an environment have fields that Gymnasium dropped, and no data_format is HDF5's."""
    from dtag_fast.rollout.environments import make_env

    write_minari("test/old-v0", make_episodes(LENGTHS, state_dim=11, action_dim=3), env="Hopper-v5")
    path = minari_home / "test/old-v0/data/metadata.json"
    metadata = json.loads(path.read_text())
    spec = {"apply_api_compatibility": False, "autoreset": False, **json.loads(metadata["env_spec"])}
    metadata |= {"minari_version": version, "env_spec": json.dumps(spec)}
    path.write_text(json.dumps(metadata))
    assert minari.load_dataset("test/old-v0").total_steps == 40
    store = load_dataset("test/old-v0")
    assert store.num_steps == 40
    make_env(store.metadata["env_id"], store.metadata["env_spec"]).close()


def test_a_dataset_from_before_metadata_json_is_one_sentence(minari_home):
    folder = minari_home / "test/old-v0/data"
    folder.mkdir(parents=True)
    (folder / "main_data.hdf5").touch()
    with pytest.raises(
        FileNotFoundError, match=r"is missing: no Minari dataset, or one from before Minari 0.5"
    ):
        load_dataset("test/old-v0")


def test_download_says_what_to_put_where(minari_home, monkeypatch, capsys):
    """A server that is none, so that the error is real with and without a network."""
    monkeypatch.setenv("MINARI_REMOTE", "nowhere://farama")
    assert cli.main(["data", "download", "D4RL/door/human-v2"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "download: 'D4RL/door/human-v2' could not be fetched (KeyError: 'nowhere')" in err
    assert (
        f"copy the dataset's folder (it holds data/metadata.json) from a machine that has it to {minari_home}"
        in err
    )
    assert "set MINARI_DATASETS_PATH" in err


@pytest.mark.skipif(find_spec("huggingface_hub") is not None, reason="the client is installed")
def test_download_without_the_client_names_the_extra(minari_home, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_REMOTE", "hf://farama-minari")
    assert cli.main(["data", "download", "D4RL/door/human-v2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs a package that is missing: pip install 'dtag_fast[download]'" in line


def test_download_leaves_what_is_there_already(write_minari, make_episodes, capsys):
    write_minari("test/set-v0", make_episodes((3,)))
    assert cli.main(["data", "download", "test/set-v0"]) == 2
    assert "lies in" in capsys.readouterr().err
    assert load_dataset("test/set-v0").num_steps == 3
