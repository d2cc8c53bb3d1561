"""A dataset that can not be trusted is refused in one sentence; one that is only odd is reported."""

import json

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.spaces import Dict as DictSpace

from dtag_fast.data import load_dataset

LENGTHS = (7, 1, 30, 2, 1, 12)


def damage(path, how):
    with h5py.File(path, "a") as file:
        how(file)


def replace(file, key, value):
    del file[key]
    file[key] = value


DAMAGE = {
    "missing key": (
        lambda f: f.__delitem__("episode_3/rewards"),
        "episode 3: rewards: this key is missing; the episode has actions, obs",
    ),
    "no terminations": (
        lambda f: f.__delitem__("episode_1/terminations"),
        "episode 1: terminations: this key is missing",
    ),
    "no truncations": (
        lambda f: f.__delitem__("episode_0/truncations"),
        "episode 0: truncations: this key is missing",
    ),
    "missing episode": (
        lambda f: f.__delitem__("episode_4"),
        "episode 4: missing from main_data.hdf5",
    ),
    "short rewards": (
        lambda f: f["episode_2/rewards"].resize((29,)),
        r"episode 2: rewards: expected \(30,\) to match 30 actions",
    ),
    "T observations": (
        lambda f: f["episode_2/observations"].resize((30, 3)),
        "episode 2: observations: expected 31 rows for 30",
    ),
    "nan": (
        lambda f: f["episode_5/actions"].__setitem__((3, 1), np.nan),
        "episode 5: actions: row 3 holds NaN",
    ),
    "other width": (
        lambda f: replace(f, "episode_3/observations", np.zeros((3, 5))),
        "episode 3: observations: expected 3 columns",
    ),
    "text": (lambda f: replace(f, "episode_1/rewards", ["a"]), "episode 1: rewards: expected numbers"),
    "empty": (
        lambda f: [f[f"episode_1/{key}"].resize(0, axis=0) for key in ("actions", "rewards")],
        "episode 1: actions: the episode has no steps",
    ),
}


@pytest.mark.parametrize(("how", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_dataset_is_refused_by_episode_and_key(
    write_minari, make_episodes, minari_home, how, sentence
):
    write_minari("test/bad-v0", make_episodes(LENGTHS))
    damage(minari_home / "test/bad-v0/data/main_data.hdf5", how)
    with pytest.raises(ValueError, match=f"^test/bad-v0: {sentence}"):
        load_dataset("test/bad-v0")


def test_truncated_file_is_refused(write_minari, make_episodes, minari_home):
    write_minari("test/bad-v0", make_episodes(LENGTHS))
    path = minari_home / "test/bad-v0/data/main_data.hdf5"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="is not a readable HDF5 file"):
        load_dataset("test/bad-v0")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"main_data\.hdf5 is missing"):
        load_dataset("test/bad-v0")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "refused: JSON nested"),
        ("[]", "expected a JSON object"),
        ('{"total_steps": 1}', "dataset_id, total_episodes is missing"),
    ],
)
def test_damaged_metadata_is_refused(write_minari, make_episodes, minari_home, text, sentence):
    write_minari("test/bad-v0", make_episodes(LENGTHS))
    (minari_home / "test/bad-v0/data/metadata.json").write_text(text)
    with pytest.raises(ValueError, match=rf"metadata\.json: {sentence}"):
        load_dataset("test/bad-v0")


def test_unknown_storage_formats_are_refused(write_minari, make_episodes, minari_home):
    write_minari("test/bad-v0", make_episodes(LENGTHS))
    path = minari_home / "test/bad-v0/data/metadata.json"
    path.write_text(path.read_text().replace('"data_format": "hdf5"', '"data_format": "zarr"'))
    with pytest.raises(ValueError, match=r"data_format hdf5, arrow, parquet, got 'zarr'"):
        load_dataset("test/bad-v0")


@pytest.mark.parametrize(
    ("spaces", "options", "sentence"),
    [
        (
            {"action_space": MultiDiscrete([2, 3])},
            {},
            r"actions: expected a Box of one dimension or Discrete, got MultiDiscrete\(\[2, 3\]\)$",
        ),
        ({"action_space": Discrete(2)}, {}, r"episode 0: actions: expected one-hot rows of Discrete\(2\)"),
        ({"observation_space": Box(0, 1, (2, 3))}, {}, r"observations: expected a Box .*, got Box\(2, 3\)"),
        ({}, {"observation_keys": ["observation"]}, r"observation_keys: .* has Box\(3,\) observations"),
        (
            {"observation_space": DictSpace(image=Box(0, 1, (3,)))},
            {},
            "a Dict with image and no 'observation'",
        ),
        (
            {"observation_space": DictSpace(image=Box(0, 1, (3,)))},
            {"observation_keys": ["goal"]},
            "observation_keys: .* has image, not 'goal'",
        ),
        (
            {"observation_space": DictSpace(observation=Discrete(3))},
            {},
            "observations/observation: .* got Discrete",
        ),
        (
            {"observation_space": DictSpace(image=Box(0, 1, (3,)))},
            {"observation_keys": []},
            "at least one of image",
        ),
    ],
)
def test_spaces_that_are_not_vectors_are_refused(
    write_minari, make_episodes, minari_home, spaces, options, sentence
):
    from minari.serialization import serialize_space

    write_minari("test/bad-v0", make_episodes(LENGTHS))
    path = minari_home / "test/bad-v0/data/metadata.json"
    changed = {key: serialize_space(space) for key, space in spaces.items()}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ValueError, match=sentence):
        load_dataset("test/bad-v0", **options)


def test_oddities_are_reported_and_not_fatal(write_minari, make_episodes, minari_home):
    episodes = make_episodes((4, 6, 5))
    episodes[1].actions[2, 0] = 1.5
    episodes[1].actions[3, 1] = -2.0
    episodes[2].truncations[-1] = False
    episodes[2].terminations[1] = True
    write_minari("test/odd-v0", [*episodes, episodes[0]])
    path = minari_home / "test/odd-v0/data/metadata.json"
    path.write_text(path.read_text().replace('"total_steps": 19', '"total_steps": 20'))
    assert load_dataset("test/odd-v0").metadata["notes"] == [
        "metadata.json counts 20 steps, the episodes hold 19",
        "2 steps have actions outside the action space, by up to 1 (first in episode 1)",
        "1 episodes repeat an earlier one (first: 3 is equal to 0)",
        "1 episodes go on after a termination or truncation (first: episode 2)",
        "1 episodes end without a termination or truncation",
    ]


def test_actions_on_a_bound_that_float32_can_not_hold_are_not_reported(write_minari, make_episodes):
    episodes = make_episodes((4,))
    episodes[0].actions[:] = 0.1
    space = Box(-0.1, 0.1, (2,), np.float64)
    write_minari("test/edge-v0", episodes, action_space=space)
    assert load_dataset("test/edge-v0").metadata["notes"] == []
