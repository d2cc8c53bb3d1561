"""Environments that fail: the episode is reported, all others are played as if nothing had happened."""

import json
import warnings

import faulty_env
import numpy as np
import pytest
from rounding import blas_rounds_rows_alike

from dtag_fast.rollout import evaluate, grid
from dtag_fast.rollout.faults import Fault
from dtag_fast.rollout.results import EpisodesFailed
from dtag_fast.rollout.runner import Failed, Played, Task
from dtag_fast.rollout.setting_results import failed_episodes, setting_results

pytestmark = pytest.mark.filterwarnings("ignore:environment. closing it raised OSError:RuntimeWarning")


@pytest.fixture
def faulty(make_policy):
    """faulty(*faults): a policy for an environment that fails there."""

    def build(*faults, kind="reinformer"):
        spec = {"id": faulty_env.ENV_ID, "kwargs": {"faults": faults}, "max_episode_steps": 12}
        sizes = {"state_dim": faulty_env.STATE_DIM, "action_dim": faulty_env.ACTION_DIM}
        return make_policy(kind, **sizes, env_id=faulty_env.ENV_ID, env_spec=spec)

    return build


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("raise", "BrokenError", "told to fail\nat step"),
        ("nan", "FloatingPointError", "observation: expected finite float32 numbers, entry 2 is nan"),
        ("reward", "FloatingPointError", "reward: expected a finite number, got inf"),
        ("quit", "SystemExit", "3"),
    ],
)
@pytest.mark.parametrize("max_envs", [1, 3, 8])
def test_the_episode_is_reported_and_the_others_keep_their_bits(faulty, kind, error, message, max_envs):
    options = {"episodes": 7, "seed": 10, "max_envs": max_envs, "workers": 1}
    (whole,) = evaluate(faulty(), **options).settings
    result = evaluate(faulty((12, 3, kind)), **options)
    (setting,), (failed,) = result.settings, result.failures
    kept = [i for i, seed in enumerate(whole.seeds) if seed != 12]
    assert setting.seeds == [10, 11, 13, 14, 15, 16]
    assert setting.lengths == [whole.lengths[i] for i in kept]
    returns = [whole.returns[i] for i in kept]
    assert setting.returns == returns if blas_rounds_rows_alike() else pytest.approx(returns)
    assert setting.mean == np.mean(setting.returns) and result.steps == sum(setting.lengths)
    assert (failed.seed, failed.step, failed.error, failed.label) == (12, 3, error, "plain policy")
    assert message in failed.message and f"{error}: " in failed.traceback
    if kind == "raise":
        assert "in _maybe_fail" in failed.traceback
    assert "\n" not in str(failed) and str(failed).startswith(f"seed 12, plain policy, step 3: {error}: ")


def test_resets_fail_too_and_the_slot_goes_on(faulty):
    result = evaluate(faulty((1, 0, "raise"), (2, 0, "nan"), (5, 0, "raise")), episodes=6, max_envs=2)
    assert result.settings[0].seeds == [0, 3, 4]
    assert [(f.seed, f.step) for f in result.failures] == [(1, 0), (2, 0), (5, 0)]
    assert "reset: BrokenError" in str(result.failures[0])


def test_pairs_are_of_the_seeds_that_both_finished(faulty, make_critic, tmp_path):
    policy = faulty((1, 2, "raise"), kind="dt")
    critic = make_critic(state_dim=4, action_dim=1)
    progress = []
    result = evaluate(
        policy,
        critic=critic,
        settings=grid((0, 3), (0.1,)),
        target_returns=[50.0, 20.0],
        episodes=4,
        progress=lambda done, total: progress.append(done),
    )
    assert [s.seeds for s in result.settings] == [[0, 2, 3]] * 4 and progress == list(range(1, 17))
    refined = result.settings[2]
    gain = np.array(refined.returns) - np.array(result.settings[0].returns)
    assert refined.paired.episodes == 3 and refined.paired.difference.mean == pytest.approx(gain.mean())
    assert len(refined.mean_q_gain) == 3
    assert [f.target_return for f in result.failures] == [50.0, 20.0] * 2
    assert [f.label for f in result.failures] == [s.label for s in result.settings]
    result.to_json(tmp_path / "result.json")
    (first, *_) = json.loads((tmp_path / "result.json").read_text())["failures"]
    assert (first["seed"], first["step"], first["error"]) == (1, 2, "BrokenError")
    assert "Traceback" in first["traceback"]


def test_a_pair_needs_both_episodes():
    tasks = [Task(setting, None, seed) for setting in (0, 1, 2) for seed in (5, 6, 7)]
    failed = Failed(1, Fault("ValueError", "", ""))
    played = [Played(value, 1, True, None, None) for value in (1.0, 2.0, 4.0, 10.0, 20.0, 40.0)]
    outcomes = [failed, *played[1:3], *played[3:5], failed, played[0], failed, failed]
    settings = grid((0, 1, 2))
    results = setting_results(settings, [None], 3, tasks, outcomes, "no such task", with_critic=False)
    assert [r.seeds for r in results] == [[6, 7], [5, 6], [5]]
    assert results[1].paired.episodes == 1 and results[1].paired.difference.mean == 18.0
    assert results[2].paired is None and results[2].mean == 1.0
    assert [(f.seed, f.label) for f in failed_episodes(tasks, outcomes, list("aaabbbccc"))] == [
        (5, "a"),
        (7, "b"),
        (6, "c"),
        (7, "c"),
    ]


def test_nothing_finished_is_one_sentence_with_the_result_at_hand(faulty):
    with pytest.raises(EpisodesFailed, match=r"2 of 2 episodes .* seed 0, plain policy, step 1: Broken") as e:
        evaluate(faulty((0, 1, "raise"), (1, 1, "raise")), episodes=2)
    (setting,) = e.value.result.settings
    assert setting.seeds == [] and setting.mean is setting.ci95 is setting.normalized is None
    assert len(e.value.result.failures) == 2


def test_an_environment_that_cannot_be_rebuilt_fails_its_episodes_alone(faulty, monkeypatch):
    built = faulty_env.FaultyEnv.__init__

    def refuse(*args, **kwargs):
        raise MemoryError("no second one")

    def once(*args, **kwargs):
        monkeypatch.setattr(faulty_env.FaultyEnv, "__init__", refuse)
        built(*args, **kwargs)

    monkeypatch.setattr(faulty_env.FaultyEnv, "__init__", once)
    result = evaluate(faulty((2, 1, "raise")), episodes=4, max_envs=1)
    assert result.settings[0].seeds == [0, 1]
    assert [f.error for f in result.failures] == ["BrokenError", "MemoryError"]


def test_closing_a_broken_environment_is_warned_of(faulty):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(faulty((0, 2, "raise")), episodes=2)
    assert any("closing it raised OSError: a broken environment" in str(w.message) for w in caught)


def test_mismatched_actions_are_no_fault_of_an_episode(make_policy):
    policy = make_policy("bc", state_dim=4, action_dim=3, env_id=faulty_env.ENV_ID)
    with pytest.raises(ValueError, match=r"actions: the environment takes Box.*3 continuous numbers"):
        evaluate(policy, episodes=2)
