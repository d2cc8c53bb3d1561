"""Minari's Arrow and Parquet storage gives what its HDF5 storage gives."""

import json
import shutil

import minari
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as DictSpace
from minari.data_collector import EpisodeBuffer

import dtag_fast.data.arrow as arrow
import dtag_fast.data.cache as cache
from dtag_fast.data import list_local, load_dataset

pytest.importorskip("pyarrow")

LENGTHS = (7, 1, 30, 2, 1, 12, 3, 3, 3, 3, 3)  # more than ten: folders 10 and 2 sort otherwise as text
FORMS = ["arrow", "parquet"]


def assert_equal_stores(one, other):
    for name in ("observations", "actions", "rewards", "terminations", "truncations", "offsets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
def test_box_observations(write_minari, make_episodes, form, dtype):
    episodes = [e._replace(observations=e.observations.astype(dtype)) for e in make_episodes(LENGTHS)]
    write_minari("test/table-v0", episodes, data_format=form)
    write_minari("test/hdf5-v0", episodes)
    store = load_dataset("test/table-v0")
    assert_equal_stores(store, load_dataset("test/hdf5-v0"))
    for theirs in minari.load_dataset("test/table-v0").iterate_episodes():
        mine = store.episode(int(theirs.id))
        np.testing.assert_array_equal(mine.observations, theirs.observations.astype(np.float32))
        np.testing.assert_array_equal(mine.actions, theirs.actions)
        np.testing.assert_array_equal(mine.rewards, theirs.rewards)
        np.testing.assert_array_equal(mine.terminations, theirs.terminations)
        np.testing.assert_array_equal(mine.truncations, theirs.truncations)
    assert store.metadata["notes"] == []
    assert [set_.problem for set_ in list_local()] == [None, None]


@pytest.mark.parametrize("infos", [None, {"success": [True]}])
@pytest.mark.parametrize("form", FORMS)
def test_goal_observations_nested_too(write_minari, make_episodes, form, infos):
    goal = DictSpace(kettle=Box(-1, 1, (2,)), door=Box(-1, 1, (1,)))
    space = DictSpace(observation=Box(-9, 9, (3,), np.float64), desired_goal=goal, achieved_goal=goal)

    def buffer(e):
        part = {"kettle": e.observations[:, 3:5], "door": e.observations[:, 5:]}
        return EpisodeBuffer(
            observations={
                "observation": e.observations[:, :3].astype(np.float64),
                "desired_goal": part,
                "achieved_goal": part,
            },
            actions=e.actions,
            rewards=e.rewards,
            terminations=e.terminations,
            truncations=e.truncations,
            infos=infos and {key: value * (len(e.actions) + 1) for key, value in infos.items()},
        )

    for name, options in (("table", {"data_format": form}), ("hdf5", {})):
        write_minari(
            f"test/{name}-v0",
            [buffer(e) for e in make_episodes(LENGTHS, state_dim=6)],
            observation_space=space,
            action_space=Box(-1, 1, (2,)),
            **options,
        )
    store = load_dataset("test/table-v0")
    assert_equal_stores(store, load_dataset("test/hdf5-v0"))
    assert store.metadata["observation_keys"] == ["observation", *(f"desired_goal/{key}" for key in goal)]


@pytest.mark.parametrize("form", FORMS)
def test_reopened_by_content(write_minari, make_episodes, minari_home, form, monkeypatch):
    write_minari("test/table-v0", make_episodes(LENGTHS), data_format=form)
    first = load_dataset("test/table-v0")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_convert", None)
        assert load_dataset("test/table-v0").metadata == first.metadata
    shutil.rmtree(minari_home / "test/table-v0")
    write_minari("test/table-v0", make_episodes(LENGTHS, seed=1), data_format=form)
    assert load_dataset("test/table-v0").metadata["fingerprint"] != first.metadata["fingerprint"]


def test_without_pyarrow_the_remedy_is_named(write_minari, make_episodes, monkeypatch):
    write_minari("test/table-v0", make_episodes((3,)), data_format="arrow")
    monkeypatch.setattr(arrow.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"arrow format, which needs .* pip install 'dtag_fast\[arrow\]'"):
        load_dataset("test/table-v0")


def rewrite(folder, form, change):
    """Replace the table of an episode by a changed one."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(folder, format=form, ignore_prefixes=["metadata"]).to_table()
    shutil.rmtree(folder)
    pyarrow.dataset.write_dataset(change(table), folder, format=form)


DAMAGE = {
    "missing episode": (lambda folder, form: shutil.rmtree(folder), "missing from"),
    "cut file": (
        lambda folder, form: [f.write_bytes(f.read_bytes()[:200]) for f in folder.glob("part*")],
        "can not be read",
    ),
    "missing column": (
        lambda folder, form: rewrite(folder, form, lambda t: t.drop_columns(["rewards"])),
        "rewards: this column is missing; the episode has observations",
    ),
    "text": (
        lambda folder, form: rewrite(
            folder,
            form,
            lambda t: t.drop_columns(["rewards"]).append_column("rewards", [["a"] * t.num_rows]),
        ),
        "rewards: expected numbers in every row, got string",
    ),
    "gaps": (
        lambda folder, form: rewrite(
            folder,
            form,
            lambda t: t.drop_columns(["rewards"]).append_column(
                "rewards", [[None] + [1.0] * (t.num_rows - 1)]
            ),
        ),
        "rewards: expected numbers in every row, got double with gaps",
    ),
    "other length": (
        lambda folder, form: (folder / "metadata.json").write_text(json.dumps({"total_steps": 3})),
        "its metadata counts 3 steps, its table has 31 rows",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("how", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_episodes_are_named(write_minari, make_episodes, minari_home, form, how, sentence):
    write_minari("test/bad-v0", make_episodes(LENGTHS), data_format=form)
    how(minari_home / "test/bad-v0/data/2", form)
    with pytest.raises(ValueError, match=f"^test/bad-v0: episode 2: {sentence}"):
        load_dataset("test/bad-v0")
