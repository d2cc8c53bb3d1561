"""Latency of single actions: what is timed, what is left out, and to which part it is put down."""

import json
import time

import numpy as np
import pytest
import torch

from dtag_fast.rollout import AGSetting, evaluate, latency, measure_latency
from dtag_fast.rollout.captured import CapturedStep
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.refinement import Refinement

SETTINGS = [AGSetting(), AGSetting(3, lr=0.2), AGSetting(2, lr=0.1, optimizer="adam")]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def actions_by_seed(events):
    """seed -> list of episodes, each the actions that were executed."""
    found: dict[int, list[list]] = {}
    for event in events:
        if event[0] == "reset":
            found.setdefault(event[1], []).append([])
        else:
            found[event[1]][-1].append(event[3])
    return found


def test_each_setting_has_its_parts_and_a_total(policy, critic):
    result = measure_latency(policy, critic=critic, settings=SETTINGS, actions=12, warmup=3)
    assert (result.actions, result.warmup, result.device) == (12, 3, "cpu")
    assert result.threads == torch.get_num_threads() and result.garbage_collector
    assert result.percentiles == "numpy.percentile, method=linear"
    plain, *refined = result.settings
    assert list(plain.parts) == ["policy", "environment", "total"]
    for setting in refined:
        assert list(setting.parts) == ["policy", "refine", "environment", "total"]
    for setting in result.settings:
        assert setting.captured is None and "CUDA graphs need a GPU" in setting.not_captured
        *parts, total = setting.parts.values()
        assert total.mean == pytest.approx(sum(part.mean for part in parts))
        for times in setting.parts.values():
            assert 0 < times.p50 <= times.p95 <= times.p99


def test_percentiles_are_numpys_in_microseconds():
    times = np.arange(1, 202) * 1000  # 1 to 201 microseconds
    assert latency.Times.of(times) == latency.Times(mean=101.0, p50=101.0, p95=191.0, p99=199.0)


@pytest.mark.parametrize("slow", ["policy", "refine", "environment"])
def test_time_is_put_down_to_the_part_that_took_it(make_policy, critic, counting, monkeypatch, slow):
    owner, name = {
        "policy": (SequencePolicy, "act"),
        "refine": (latency.Refiner, "__call__"),
        "environment": (counting.CountingEnv, "step"),
    }[slow]
    usual = getattr(owner, name)

    def slower(*args, **kwargs):
        time.sleep(0.02)
        return usual(*args, **kwargs)

    monkeypatch.setattr(owner, name, slower)
    result = measure_latency(make_policy("dt"), critic=critic, settings=SETTINGS[1:2], actions=8, warmup=2)
    parts = result.settings[0].parts
    assert min(parts[slow].p50, parts["total"].p50) >= 20_000
    assert all(times.p50 < 20_000 for part, times in parts.items() if part not in (slow, "total"))


def test_warm_up_is_left_out(make_policy, counting, monkeypatch):
    usual, calls = counting.CountingEnv.step, []

    def slow_at_first(*args):
        calls.append(1)
        if len(calls) <= 4:
            time.sleep(0.1)
        return usual(*args)

    monkeypatch.setattr(counting.CountingEnv, "step", slow_at_first)
    with_it = measure_latency(make_policy("dt"), actions=4, warmup=0)
    calls.clear()
    without = measure_latency(make_policy("dt"), actions=4, warmup=4)
    assert with_it.settings[0].parts["environment"].p50 >= 100_000
    assert without.settings[0].parts["environment"].p99 < 100_000 and len(calls) == 8


@pytest.mark.parametrize("setting", SETTINGS[:2])
def test_the_actions_timed_are_those_of_an_evaluation(policy, critic, counting, setting):
    """Real episodes, from the seeds that an evaluation takes, one after the other."""
    evaluate(policy, critic=critic, settings=[setting], episodes=3, seed=4, workers=1)
    evaluated = actions_by_seed(counting.CountingEnv.events)
    count = sum(counting.episode_length(seed) for seed in (4, 5, 6))
    counting.CountingEnv.events.clear()
    measure_latency(policy, critic=critic, settings=[setting], actions=count - 2, warmup=2, seed=4)
    timed = actions_by_seed(counting.CountingEnv.events)
    assert list(timed) == [4, 5, 6]
    for seed, (episode,) in timed.items():
        assert np.allclose(episode, evaluated[seed][0], atol=2e-5)


def test_policies_of_the_present_state_and_candidates(make_policy, make_critic):
    result = measure_latency(make_policy("bc"), actions=3, warmup=0)
    assert list(result.settings[0].parts) == ["policy", "environment", "total"]
    from dtag_fast.rollout import Candidates

    options = {"critic": make_critic(), "candidates": Candidates(4), "actions": 3, "warmup": 0}
    assert measure_latency(make_policy("dt-original"), **options).settings[0].parts["policy"].p50 > 0


def test_a_captured_step_is_one_number(make_policy, make_critic, new_env):
    """The loop around the captured step, on a CPU without its graph."""
    policy, critic = make_policy("dt"), make_critic()
    actor = SequencePolicy(policy.model, 1, 50.0)
    refinement = Refinement(critic.critic, (-1.0, 1.0), SETTINGS[1:2])
    episodes = latency._Episodes(new_env(), actor, EnvironmentKind.of(policy.info), 50.0, 0)
    times = latency._together(episodes, CapturedStep(actor, refinement, capture=False), 20)
    assert times.shape == (20,) and times.min() > 0


@needs_gpu
def test_on_a_gpu_transfers_stand_apart_and_the_graph_is_one_number(make_policy, make_critic):
    policy, critic = make_policy("dt-original"), make_critic()
    policy.model.cuda()
    result = measure_latency(policy, critic=critic, settings=SETTINGS[:2], actions=20, warmup=5)
    for setting in result.settings:
        *parts, total = setting.parts.values()
        assert setting.parts["transfer"].p50 > 0
        assert total.mean == pytest.approx(sum(part.mean for part in parts))
        assert setting.not_captured is None and setting.captured.p50 > 0
    assert result.device == torch.cuda.get_device_name()


def test_measuring_changes_no_result_and_is_plain_json(policy, critic):
    def returns():
        found = evaluate(policy, critic=critic, settings=SETTINGS, episodes=4, workers=1)
        return [(s.returns, s.mean_q_gain) for s in found.settings]

    before, threads = returns(), torch.get_num_threads()
    seen = []
    result = measure_latency(
        policy, critic=critic, settings=SETTINGS, actions=5, warmup=1, progress=lambda *at: seen.append(at)
    )
    assert returns() == before and torch.get_num_threads() == threads
    assert seen == [(i, 18) for i in range(1, 19)]
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["unit"] == "microseconds" and content["settings"][1]["setting"]["steps"] == 3
    assert set(content["settings"][1]["parts"]["refine"]) == {"mean", "p50", "p95", "p99"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": 0}, "actions: expected a whole number of at least 1, got 0"),
        ({"warmup": -1}, "warmup: expected a whole number of at least 0, got -1"),
        ({"settings": [AGSetting(3)]}, r"critic: AG n=3 lr=0.03 needs a critic"),
        ({"settings": []}, "settings: expected at least one"),
        ({"target_returns": []}, "target_returns: DecisionTransformer needs at least one"),
    ],
)
def test_bad_arguments_are_named(make_policy, options, message):
    with pytest.raises(ValueError, match=message):
        measure_latency(make_policy("dt"), **options)
    with pytest.raises(ValueError, match=r"observation: expected 4 numbers .* got 3"):
        measure_latency(make_policy("dt", state_dim=4), actions=1)
    with pytest.raises(ValueError, match=r"actions: the environment takes Box.* 3 continuous numbers"):
        measure_latency(make_policy("dt", action_dim=3), actions=1)


def test_a_dict_is_no_vector(make_policy):
    pytest.importorskip("gymnasium_robotics")
    with pytest.raises(ValueError, match=r"observation: the environment gives a Dict of observation, "):
        measure_latency(make_policy("bc", state_dim=4), env_id="PointMaze_UMaze-v3", actions=1)
