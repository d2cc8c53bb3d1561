"""What is counted, on which seeds, with which actions: everything checked against the environment's own
record."""

import json
import math
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from rounding import blas_rounds_rows_alike

from dtag_fast.ops.refine import bindings
from dtag_fast.rollout import AGSetting, evaluate, grid, measure_latency
from dtag_fast.rollout.reference import autograd_action_gradient, play_episode


def record(events):
    """seed -> [(action, reward), ...] for each time that seed was played, in order."""
    episodes: dict[int, list[list]] = {}
    for event in events:
        if event[0] == "reset":
            episodes.setdefault(event[1], []).append([])
        else:
            episodes[event[1]][-1].append((event[3], event[4]))
    return episodes


@pytest.mark.parametrize(("max_envs", "workers"), [(1, 1), (4, 1), (5, 3), (64, 2)])
def test_every_episode_is_counted_once_and_nothing_else(policy, counting, max_envs, workers):
    result = evaluate(policy, episodes=23, seed=100, max_envs=max_envs, workers=workers)
    (setting,) = result.settings
    seeds = list(range(100, 123))
    assert setting.seeds == seeds
    assert setting.lengths == [counting.episode_length(seed) for seed in seeds]
    assert setting.terminated == [not counting.ends_by_time(seed) for seed in seeds]
    played = record(counting.CountingEnv.events)
    assert sorted(played) == seeds and all(len(times) == 1 for times in played.values())
    assert setting.returns == [sum(reward for _, reward in played[seed][0]) for seed in seeds]
    assert result.steps == sum(setting.lengths) == sum(len(times[0]) for times in played.values())


@pytest.mark.parametrize("ag_steps", [0, 4])
def test_actions_are_those_of_the_literal_loop(policy, critic, counting, new_env, ag_steps):
    settings = [AGSetting(ag_steps, lr=0.3)]
    result = evaluate(policy, critic=critic, settings=settings, episodes=12, max_envs=5, workers=1)
    batched = record(counting.CountingEnv.events)
    target = None if result.settings[0].target_return is None else 50.0
    improve = autograd_action_gradient(critic.critic, ag_steps, 0.3, -1.0, 1.0) if ag_steps else None
    changed = 0.0
    for seed, wanted in zip(result.settings[0].seeds, result.settings[0].returns, strict=True):
        trace = play_episode(policy.model, new_env(), seed, target, improve)
        actions = np.array([action for action, _ in batched[seed][0]])
        assert np.allclose(actions, trace.actions, atol=2e-5)
        assert math.isclose(trace.episode_return, wanted, rel_tol=1e-5)
        plain = play_episode(policy.model, new_env(), seed, target)
        changed = max(changed, np.abs(np.array(plain.actions) - trace.actions).max())
    assert (changed > 1e-3) == (ag_steps > 0)  # Action Gradient did something


def test_all_settings_share_seeds_and_equal_their_own_evaluation(policy, critic, counting):
    settings = [
        *grid((0, 2, 5), (0.1, 0.3)),
        AGSetting(3, 0.1, optimizer="adam"),
        AGSetting(3, 0.1, reduce="mean", select="last"),
    ]
    options = {"critic": critic, "episodes": 6, "seed": 3, "workers": 1}
    together = evaluate(policy, settings=settings, max_envs=16, **options)
    assert [s.setting for s in together.settings] == settings
    for mine in together.settings:
        (alone,) = evaluate(policy, settings=[mine.setting], max_envs=16, **options).settings
        assert mine.seeds == alone.seeds == list(range(3, 9))
        assert np.allclose(mine.returns, alone.returns, rtol=1e-5)
        assert np.allclose(mine.mean_q_gain, alone.mean_q_gain, rtol=1e-3, atol=1e-5)


def test_bits_depend_on_the_episode_alone(policy, critic):
    """On one thread per worker, whatever the batch: where the BLAS rounds the rows of such batches alike."""
    options = {"critic": critic, "settings": grid((0, 4), (0.3,)), "episodes": 11}
    one = evaluate(policy, max_envs=1, workers=1, **options)
    many = evaluate(policy, max_envs=13, workers=2, **options)
    all_at_once = evaluate(policy, max_envs=64, workers=1, **options)  # more rows than the row kernel takes
    for a, b in zip(one.settings + one.settings, many.settings + all_at_once.settings, strict=True):
        if blas_rounds_rows_alike():
            assert a.returns == b.returns and a.mean_q_gain == b.mean_q_gain
        else:
            assert np.allclose(a.returns, b.returns, rtol=1e-5)


def test_the_same_evaluation_gives_the_same_bits(policy, critic):
    def run():
        result = evaluate(policy, critic=critic, settings=grid((0, 3)), episodes=7, max_envs=6, workers=2)
        return [(s.returns, s.mean_q_0, s.mean_q_gain, s.ci95) for s in result.settings]

    assert run() == run()


def test_bf16_is_named_repeats_and_depends_on_the_episode_alone(make_policy, make_critic):
    policy, critic = make_policy("reinformer"), make_critic()
    options = {"critic": critic, "settings": grid((0, 4), (0.3,)), "episodes": 11}
    runs = [
        evaluate(policy, precision="bf16", max_envs=envs, workers=workers, **options)
        for envs, workers in ((1, 1), (13, 2), (13, 2))
    ]
    assert all(run.precision == {"policy": "bf16", "refine": "bf16"} for run in runs)
    for one, *others in zip(*(run.settings for run in runs), strict=True):
        assert all(one.returns == other.returns for other in others)
    exact = evaluate(policy, precision="fp32", **options)
    assert exact.precision == {"policy": "fp32", "refine": "fp32"}
    for mine, theirs in zip(runs[0].settings, exact.settings, strict=True):
        assert mine.mean_q_0 != theirs.mean_q_0
        assert np.allclose(mine.returns, theirs.returns, rtol=0.05)


def test_fp32_holds_whatever_pytorch_is_set_to(policy, critic):
    before, options = torch.get_float32_matmul_precision(), {"critic": critic, "episodes": 2}
    settings = grid((0, 4), (0.3,))
    torch.set_float32_matmul_precision("medium")
    try:
        loose = evaluate(policy, settings=settings, **options)
        exact = evaluate(policy, settings=settings, precision="fp32", **options)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert loose.precision["refine"] == "bf16"
    assert exact.precision == {"policy": "fp32", "refine": "fp32"}


def test_q_never_falls_and_rises_somewhere(policy, critic):
    settings = grid((0, 1, 8), (0.05, 0.5), ("sgd", "adam"))
    result = evaluate(policy, critic=critic, settings=settings, episodes=9, max_envs=32)
    for s in result.settings:
        assert min(s.mean_q_gain) >= 0.0
        assert (max(s.mean_q_gain) > 0.0) == (not s.setting.is_plain)


def test_refinement_without_steps_changes_no_bit(policy, critic):
    plain = evaluate(policy, episodes=5)
    with_critic = evaluate(policy, critic=critic, settings=[AGSetting(4, lr=0.0)], episodes=5)
    assert plain.settings[0].returns == with_critic.settings[0].returns
    assert plain.settings[0].mean_q_0 is None and with_critic.settings[0].mean_q_gain == [0.0] * 5


def test_target_returns_are_played_side_by_side(make_policy):
    policy = make_policy("dt")
    both = evaluate(policy, target_returns=[50.0, -20.0], episodes=6)
    assert [s.target_return for s in both.settings] == [50.0, -20.0]
    assert both.settings[0].returns != both.settings[1].returns
    for s in both.settings:
        assert s.returns == evaluate(policy, target_returns=[s.target_return], episodes=6).settings[0].returns
    assert [s.target_return for s in evaluate(policy, episodes=1).settings] == [50.0]  # the checkpoint's


def test_pairs_are_formed_on_the_same_seeds(policy, critic):
    result = evaluate(policy, critic=critic, settings=grid((0, 5), (0.4,)), episodes=8)
    plain, refined = result.settings
    assert plain.paired is None and refined.paired.baseline == "plain policy"
    difference = np.array(refined.returns) - np.array(plain.returns)
    assert math.isclose(refined.paired.difference.mean, difference.mean(), abs_tol=1e-12)


def test_scores_name_their_references(make_policy):
    references = {"ref_min_score": -10.0, "ref_max_score": 90.0, "ref_source": "dataset"}
    (s,) = evaluate(make_policy("reinformer", **references), episodes=4).settings
    assert s.normalized.mean == pytest.approx(s.mean + 10.0)
    assert (s.normalized.ref_min, s.normalized.ref_max, s.normalized.source) == (-10.0, 90.0, "dataset")
    assert evaluate(make_policy("reinformer"), episodes=1).settings[0].normalized is None


def test_another_environment_is_played_as_it_is_registered(make_policy):
    """The data's time limit, arguments and references are those of their own environment."""
    sizes = {"state_dim": 11, "action_dim": 3, "ref_min_score": 0.0, "ref_max_score": 1.0}
    spec = {"id": "Hopper-v4", "kwargs": {"healthy_reward": 0.0}, "max_episode_steps": 5}
    policy = make_policy("dt", **sizes, env_id="Hopper-v4", env_spec=spec, max_episode_steps=5)
    for named in (None, "Hopper-v4"):
        (own,) = evaluate(policy, env_id=named, episodes=1).settings
        assert own.lengths == [5] and own.normalized.source == "dataset"
    result = evaluate(policy, env_id="Hopper-v5", episodes=1)
    (other,) = result.settings
    assert other.lengths[0] > 5 and other.returns[0] > 5  # alive in every step
    assert other.normalized.source == "d4rl: hopper" and result.not_normalized is None


def test_another_environment_has_its_own_time_limit(make_policy, tmp_path, monkeypatch):
    sizes = {"state_dim": 11, "action_dim": 3}
    policy = make_policy("dt", **sizes, env_id="Hopper-v5", max_episode_steps=11)
    entry_point = gymnasium.spec("Hopper-v5").entry_point
    gymnasium.register("DtagTest/Brief-v0", entry_point, max_episode_steps=4)
    try:
        result = evaluate(policy, env_id="DtagTest/Brief-v0", episodes=1)
    finally:
        del gymnasium.registry["DtagTest/Brief-v0"]
    assert result.settings[0].lengths == [4]
    assert result.not_normalized.startswith("neither the dataset nor")


@pytest.mark.parametrize(
    ("made_with", "why_not"),
    [
        ("max_episode_steps=9", "an episode here has up to 9"),
        ("max_episode_steps=1000, kwargs={'healthy_reward': 2.0}", "made with healthy_reward=2.0"),
        (
            "max_episode_steps=1000, additional_wrappers=("
            "gymnasium.wrappers.ClipReward.wrapper_spec(min_reward=0.0),)",
            "made with the wrapper ClipReward",
        ),
    ],
)
@pytest.mark.parametrize("of_the_data", [True, False])
def test_an_id_of_gymnasiums_that_a_module_takes_for_its_own_is_looked_at(
    make_policy, tmp_path, monkeypatch, made_with, why_not, of_the_data
):
    (tmp_path / "short_hopper.py").write_text(
        "import gymnasium, gymnasium.wrappers\n"
        f"gymnasium.register('Hopper-v3', gymnasium.spec('Hopper-v5').entry_point, {made_with})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(gymnasium.registry, "Hopper-v3", raising=False)
    data = {"env_id": "short_hopper:Hopper-v3"} if of_the_data else {"env_id": "Hopper-v5"}
    policy = make_policy("dt", state_dim=11, action_dim=3, **data)
    try:
        result = evaluate(policy, env_id="short_hopper:Hopper-v3", episodes=1)
    finally:
        sys.modules.pop("short_hopper", None)
        gymnasium.registry.pop("Hopper-v3", None)
    assert result.settings[0].normalized is None
    assert why_not in result.not_normalized


def test_json_holds_everything(make_policy, critic, tmp_path):
    policy = make_policy("dt", dataset_id="test/set-v0")
    settings = grid((0, 2), (0.1,))
    result = evaluate(policy, critic=critic, settings=settings, episodes=3, seed=9)
    result.to_json(tmp_path / "deep" / "result.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        result.to_json(tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "taken"]
    content = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert [s["seeds"] for s in content["settings"]] == [[9, 10, 11]] * 2
    for name in ("returns", "lengths", "mean", "std", "ci95", "iqm", "mean_q_gain"):
        assert content["settings"][1][name] == json.loads(json.dumps(getattr(result.settings[1], name)))
    assert content["settings"][1]["setting"]["steps"] == 2
    assert content["policy"]["dataset_id"] == "test/set-v0" and content["critic"]["algorithm"] == "dt"
    assert content["steps_per_second"] > 0 and content["versions"]["torch"] == torch.__version__
    split = content["wall_time"]["split"]
    assert set(split) == {"policy", "refine", "environment", "other"}
    assert sum(split.values()) == pytest.approx(1) and min(split.values()) >= 0


def test_critics_are_lowered_before_the_clock_starts(policy, critic, counting, monkeypatch):
    """It takes a second, which is none of the rollouts' time."""
    order = []
    lower, step = bindings.Lowering, counting.CountingEnv.step
    monkeypatch.setattr(bindings, "Lowering", lambda *args: order.append("lower") or lower(*args))
    monkeypatch.setattr(counting.CountingEnv, "step", lambda *args: order.append("step") or step(*args))
    settings = [AGSetting(), AGSetting(steps=1, lr=0.1), AGSetting(steps=1, lr=0.1, optimizer="adam")]
    evaluate(policy, critic=critic, settings=settings, episodes=1, workers=1)
    assert order[0] == "lower" and set(order[1:]) == {"step"}  # both calls share what is lowered


def test_progress_reaches_the_end(policy):
    seen = []
    evaluate(policy, episodes=5, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_a_failing_progress_stops_the_evaluation_and_restores_threads(policy):
    threads = torch.get_num_threads()

    def fail(done, total):
        raise KeyError("stop here")

    with pytest.raises(KeyError, match="stop here"):
        evaluate(policy, episodes=30, max_envs=16, workers=2, progress=fail)
    assert torch.get_num_threads() == threads


def test_dict_observations_follow_the_recorded_keys(make_policy, counting):
    plain = make_policy("dt")
    spec = {"id": counting.ENV_ID, "kwargs": {"dict_observations": True}}
    keyed = make_policy("dt", env_spec=spec, observation_keys=["observation", "goal"])
    assert evaluate(plain, episodes=6).settings[0].returns == evaluate(keyed, episodes=6).settings[0].returns
    with pytest.raises(ValueError, match=r"observation: the environment gives a Dict of goal, observation"):
        evaluate(make_policy("dt", env_spec=spec), episodes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes: expected a whole number of at least 1, got 0"),
        ({"max_envs": 0}, "max_envs: expected"),
        ({"workers": 0}, "workers: expected"),
        ({"settings": []}, "settings: expected at least one"),
        ({"settings": [AGSetting(3)]}, r"critic: AG n=3 lr=0.03 needs a critic"),
        ({"target_returns": []}, "target_returns: DecisionTransformer needs at least one"),
        ({"precision": "fp16"}, "precision: expected fp32, bf16 or None, got 'fp16'"),
        ({"target_returns": [float("nan")]}, "target_return: DecisionTransformer needs a finite return"),
    ],
)
def test_bad_arguments_are_named(make_policy, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(make_policy("dt"), **({"episodes": 1} | options))


def test_what_does_not_fit_together_is_refused(make_policy, make_critic, counting):
    with pytest.raises(ValueError, match="Reinformer predicts the returns"):
        evaluate(make_policy("reinformer"), target_returns=[1.0])
    with pytest.raises(ValueError, match="env_id: the checkpoint names no environment"):
        evaluate(make_policy("dt", env_id=None))
    with pytest.raises(
        ValueError, match=r"critic: expected the policy's .*\(3, 2, None\), got \(4, 2, None\)"
    ):
        evaluate(make_policy("dt"), critic=make_critic(state_dim=4), settings=[AGSetting(1)])
    with pytest.raises(ValueError, match=r"observation: expected 4 numbers .* got 3"):
        evaluate(make_policy("dt", state_dim=4), episodes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"critic": "runs/iql"},
            r"critic: expected a LoadedCritic, which load_critic\(run folder\) .* got str",
        ),
        ({"settings": AGSetting(3)}, r"settings: expected a list of AGSetting, got AGSetting\(steps=3"),
        ({"settings": [3]}, r"settings: expected a list of AGSetting, got \[3\]"),
        ({"target_returns": 3600}, r"target_returns: expected a list of numbers or None, got 3600"),
    ],
)
def test_arguments_of_another_kind_are_refused(make_policy, options, message):
    for play in (evaluate, measure_latency):
        with pytest.raises(TypeError, match=message):
            play(make_policy("dt"), **options)
        with pytest.raises(TypeError, match=r"policy: expected a LoadedPolicy, .* got PosixPath"):
            play(Path("runs/rf"))
        with pytest.raises(ValueError, match="seed: expected a whole number of at least 0, got -1"):
            play(make_policy("dt"), seed=-1)


def test_a_policy_that_diverged_is_refused(make_policy):
    policy = make_policy("dt")
    next(policy.model.parameters()).data.fill_(math.nan)
    with pytest.raises(ValueError, match="policy: it gave an action that is not finite"):
        evaluate(policy, episodes=1)


def test_an_episode_longer_than_the_timestep_table_is_refused(make_policy, counting):
    policy = make_policy("dt", env_spec={"id": counting.ENV_ID, "kwargs": {"lasts": 41}})
    with pytest.raises(ValueError, match="max_timestep: the policy knows 40 timesteps"):
        evaluate(policy, episodes=1)
