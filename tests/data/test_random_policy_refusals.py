"""Data of a uniformly random policy: what is refused, in one sentence, and leaves nothing behind."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from plain_env import Plain

from dtag_fast.cli import main as cli
from dtag_fast.data import random_policy
from dtag_fast.data.random_policy import make_random

pytestmark = pytest.mark.usefixtures("minari_home")  # an empty Minari root and an empty cache


def test_a_set_of_the_same_recipe_stays_and_another_is_refused(register, minari_home):
    env_id = register()
    dataset_id = make_random(env_id, 20, 0, "my/set-v0")
    file = minari_home / dataset_id / "data/main_data.hdf5"
    before = file.stat().st_mtime_ns
    played = Plain.played
    assert make_random(env_id, 20, 0, "my/set-v0") == dataset_id
    for changed in (
        {"seed": 1},
        {"steps": 21},
        {"max_episode_steps": 5},
        {"env_id": "CartPole-v1"},
        {"observation_keys": ("x",)},
    ):
        with pytest.raises(ValueError, match=r"'my/set-v0' exists already .* minari delete my/set-v0"):
            make_random(**{"env_id": env_id, "steps": 20, "seed": 0, "dataset_id": dataset_id} | changed)
    assert (file.stat().st_mtime_ns, Plain.played) == (before, played)


@pytest.mark.parametrize(
    ("fails", "at", "sentence"),
    [
        ("raise", 3, r"step 3 of the episode with seed \d+ failed with RuntimeError: told to"),
        ("raise", 0, r"the reset of the episode with seed \d+ failed with RuntimeError: told to"),
        ("quit", 3, "step 3 .* SystemExit: 3"),
        ("nan", 3, "step 3 .* FloatingPointError: observation: .* entry 1 is nan"),
        ("nan", 0, "the reset .* entry 1 is nan"),
        ("huge", 3, "step 3 .* entry 1 is inf"),
        ("reward", 3, "step 3 .* FloatingPointError: reward: expected a finite float32 number, got inf"),
        ("width", 3, r"step 3 .* expected 3 numbers as the observation space says, got shape \(1,\)"),
        ("old", 3, "step 3 .* ValueError: not enough values to unpack"),
    ],
)
def test_an_environment_that_fails_is_one_sentence_and_leaves_nothing(
    register, minari_home, capsys, fails, at, sentence
):
    env_id = register(fails=fails, fails_at=at)
    with pytest.raises(ValueError, match=f"env_id: {env_id}: {sentence}"):
        make_random(env_id, 20, 0)
    assert list(minari_home.iterdir()) == []
    assert cli.main(["data", "make", "random", "--env", env_id, "--steps", "20"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_environment_may_fail_after_some_batches(register, minari_home, monkeypatch):
    monkeypatch.setattr(Plain, "played", 0)
    monkeypatch.setattr(Plain, "_fails", lambda self, kind: kind == "reward" and Plain.played == 1000)
    with pytest.raises(ValueError, match="reward: expected a finite"):
        make_random(register(), 2000, 0)
    assert list(minari_home.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"actions": Box(-np.inf, np.inf, (2,))}, "entry 0 has the bounds -inf and inf"),
        ({"actions": Box(np.float32([0, 0]), np.float32([1, np.inf]))}, "entry 1 has the bounds 0.0 and inf"),
        ({"actions": Box(-1e39, 1e39, (2,), np.float64)}, r"entry 0 has the bounds -1e\+39"),
        ({"actions": Box(-1, 1, (2, 2))}, "expected a Box of one dimension or Discrete, got Box"),
        ({"actions": MultiDiscrete([2, 3])}, r"or Discrete, got MultiDiscrete\(\[2 3\]\)"),
        ({"observations": Discrete(3)}, r"observations: .* got Discrete\(3\)"),
        ({"observations": Box(0, 255, (40, 40, 3), np.uint8)}, "observations: expected a Box of one dim"),
        ({"observations": Dict({"x": Box(0, 1, (2,))})}, "a Dict with x and no 'observation'"),
        ({"observations": Dict({"x": Discrete(2)})}, r"observations: .* got Dict\('x': Discrete\(2\)\)"),
    ],
)
def test_other_spaces_are_refused(register, minari_home, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_random(register(**arguments), 20, 0)
    assert list(minari_home.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*latest versioned")
@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps: expected at least 1, got 0"),
        ({"dataset_id": "a/b-v0"}, ValueError, "--id: expected namespace/name-vN"),
        ({"dataset_id": "../out-v0"}, ValueError, "--id: expected namespace/name-vN"),
        ({"env_id": "Nothing-v0"}, gymnasium.error.Error, "`Nothing` doesn't exist"),
        ({"env_id": "no_module:A-v0"}, gymnasium.error.Error, "no_module, which cannot be imported"),
        ({"env_id": "CartPole"}, ValueError, "CartPole is CartPole-v1 .* give the version too"),
        ({"observation_keys": ("x",)}, ValueError, "observation_keys: CartPole-v1 has Box"),
    ],
)
def test_bad_arguments_are_refused(minari_home, changed, error, sentence):
    with pytest.raises(error, match=sentence):
        make_random(**{"env_id": "CartPole-v1", "steps": 20, "seed": 0} | changed)
    assert list(minari_home.iterdir()) == []


def test_an_environment_that_cannot_be_built_is_refused(minari_home):
    def broken():
        raise OSError("no such model")

    gymnasium.register("DtagTest/Broken-v0", entry_point=broken)
    try:
        with pytest.raises(ValueError, match="DtagTest/Broken-v0 could not be built: OSError: no such model"):
            make_random("DtagTest/Broken-v0", 20, 0)
    finally:
        del gymnasium.registry["DtagTest/Broken-v0"]


def test_what_the_progress_raises_is_not_blamed_on_the_environment(register, minari_home, monkeypatch):
    def stop(done, total):
        raise KeyError("enough")

    monkeypatch.setattr(random_policy, "PROGRESS_EVERY", 5)
    with pytest.raises(KeyError, match="enough"):
        make_random(register(), 20, 0, progress=stop)
    assert list(minari_home.iterdir()) == []


def test_warnings_of_mujoco_are_pythons_and_write_no_log(tmp_path, monkeypatch):
    """Left alone, MuJoCo appends them to a file in the working directory."""

    class Unstable(gymnasium.Wrapper):
        def step(self, action):
            self.unwrapped.data.qvel[:] = 1e30
            return super().step(action)

    monkeypatch.chdir(tmp_path)
    unstable = "DtagTest/Unstable-v0"
    gymnasium.register(unstable, entry_point=lambda: Unstable(gymnasium.make("InvertedPendulum-v5")))
    try:
        with pytest.warns(RuntimeWarning, match="MuJoCo: Nan, Inf or huge value"):
            make_random(unstable, 3, 0)
    finally:
        del gymnasium.registry[unstable]
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["random"], "--env: random needs the environment"),
        (["pointmaze-umaze", "--env", "Hopper-v5"], "--env: pointmaze-umaze has its own environment"),
        (["pointmaze-umaze", "--max-episode-steps", "0"], "--max-episode-steps: pointmaze-umaze has"),
        (["pointmaze-umaze", "--observation-keys", "x"], "--observation-keys: pointmaze-umaze has"),
    ],
)
def test_options_that_do_not_go_together(argv, sentence, minari_home, capsys):
    assert cli.main(["data", "make", *argv]) == 2
    assert sentence in capsys.readouterr().err
    assert list(minari_home.iterdir()) == []
