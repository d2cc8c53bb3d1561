"""The online loop: what it plays, keeps, learns, logs; stopped and resumed; broken environments."""

import dataclasses

import faulty_env
import gymnasium
import pytest
import torch
from run_folders import assert_same_run, records, tensors, weight_sum

from dtag_fast.finetuning import finetune
from dtag_fast.finetuning.experience import Experience
from dtag_fast.finetuning.iterations import episode_seed
from dtag_fast.rollout import evaluate
from dtag_fast.training import load_policy
from dtag_fast.training.files import read_json


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def start_of(trained, store, quick):
    """finetune with what all tests have in common."""

    def go(algorithm, out, env_steps=40, source=None, online=None, **options):
        return finetune(
            trained(source or algorithm),
            algorithm,
            out=out,
            env_steps=env_steps,
            store=store,
            online=quick if online is None else online,
            **options,
        )

    return go


@pytest.mark.parametrize("algorithm", ["odt", "td3-odt", "sac-odt", "awac-odt", "iql-odt", "ddpg-odt", "td3"])
def test_every_algorithm_plays_learns_and_is_stopped_and_resumed(start_of, tmp_path, algorithm):
    """Stopped after every fourth question, the run ends with the bits and the log of one that never was."""
    options = {"evaluate": weight_sum, "eval_every": 2, "checkpoint_every": 1, "seed": 3}
    whole = start_of(algorithm, tmp_path / "whole", **options)
    lines = records(whole)
    assert lines[-1]["eval/env_steps"] >= 40 and "online/return_mean" in lines[-2]
    stopped, calls = tmp_path / "stopped", iter(range(10_000))
    for _ in range(100):
        start_of(algorithm, stopped, resume=True, stop=lambda: next(calls) % 4 == 3, **options)
        if records(stopped) == lines:
            break
    assert_same_run(whole, stopped)


def test_log_of_an_iteration(start_of, tmp_path, store):
    run = start_of("td3-odt", tmp_path / "run", evaluate=weight_sum, eval_every=2)
    first, second = [r for r in records(run) if "online/episodes" in r][:2]
    assert records(run)[0]["eval/env_steps"] == 0
    assert first["step"] == 3 + 3 * 2 and second["step"] == 3 + 2 * 3 * 2  # two critic updates for one
    assert (first["online/episodes"], second["online/episodes"]) == (2, 4)
    assert second["online/env_steps"] == 2 * (first["online/length_mean"] + second["online/length_mean"])
    assert (first["buffer/episodes"], second["buffer/episodes"]) == (5, 5)
    assert first["online/failed_episodes"] == 0
    assert "train/critic_loss" in first and first["train/q_weight"] == pytest.approx(0.1)


def test_the_buffer_begins_with_the_best_episodes_and_loses_the_lowest_first(trained, store):
    from dtag_fast.finetuning.start import begin

    learner = begin(trained("odt"), "odt", store).learner
    experience = Experience(learner.make_replay(4), store, 3)
    best = sorted(store.episode_returns)[-3:]
    assert list(experience.buffer.episode_returns) == best
    new = store.episode(0)
    experience.add([new, new])
    assert list(experience.buffer.episode_returns) == [*best[1:], *[new.rewards.sum()] * 2]
    assert (experience.episodes, experience.env_steps) == (2, 2 * len(new.actions))
    assert Experience(learner.make_replay(4), store, 0).buffer.num_episodes == 0
    assert Experience(learner.make_replay(9), store, None).buffer.num_episodes == store.num_episodes


def test_played_in_worker_processes_to_the_same_bits(start_of, tmp_path):
    here = start_of("td3-odt", tmp_path / "here", env_steps=30)
    there = start_of("td3-odt", tmp_path / "there", env_steps=30, env_processes=2)
    assert_same_run(here, there)


def test_playing_while_learning(start_of, tmp_path, quick):
    """Each iteration learns from what was there when it began; stopped and resumed to the same bits."""
    online = dataclasses.replace(quick, overlap=True)
    whole = start_of("td3-odt", tmp_path / "whole", online=online)
    stopped, stop = tmp_path / "stopped", iter([True])
    start_of("td3-odt", stopped, online=online, stop=lambda: next(stop, False))
    assert len(records(stopped)) == 1
    start_of("td3-odt", stopped, online=online, resume=True)
    assert_same_run(whole, stopped)
    one = start_of("td3-odt", tmp_path / "one", online=online, env_steps=1)
    other = start_of("td3-odt", tmp_path / "other", env_steps=1)
    assert records(one)[0]["online/return_mean"] == records(other)[0]["online/return_mean"]
    assert records(one)[0]["train/critic_loss"] != records(other)[0]["train/critic_loss"]


def test_seeds_differ(start_of, tmp_path):
    runs = [start_of("odt", tmp_path / str(seed), env_steps=20, seed=seed) for seed in (0, 1)]
    ours, theirs = map(tensors, runs)
    name = "model.safetensors: action_head.weight"
    assert not torch.equal(ours[name], theirs[name])


def test_minimum_of_steps(start_of, tmp_path, quick):
    online = dataclasses.replace(quick, steps_per_iteration=30, episodes_per_iteration=1)
    run = start_of("odt", tmp_path / "run", env_steps=1, online=online)
    (record,) = records(run)
    assert record["online/env_steps"] >= 30
    assert record["online/env_steps"] - 12 < 30  # no episode more than needed


def test_a_kind_of_everything(start_of, tmp_path, quick):
    """Curriculum, guide, delayed rewards and Action Gradient on the way, together; resumed like any other."""
    online = dataclasses.replace(
        quick, curriculum_decay=0.5, guide_steps=5, reward_delay=3, explore_ag_steps=2, explore_ag_lr=0.1
    )
    whole = start_of("td3-odt", tmp_path / "whole", online=online)
    stopped, stop = tmp_path / "stopped", iter([True])
    start_of("td3-odt", stopped, online=online, stop=lambda: next(stop, False))
    start_of("td3-odt", stopped, online=online, resume=True)
    assert_same_run(whole, stopped)
    plain = start_of("td3-odt", tmp_path / "plain")
    assert records(plain)[0] != records(whole)[0]


def test_a_fine_tuned_run_is_a_run(start_of, tmp_path, trained):
    run = start_of("td3-odt", tmp_path / "run", source="odt")
    policy = load_policy(run)
    assert policy.info.algorithm == "td3-odt" and policy.info.env_id == "InvertedPendulum-v5"
    config = read_json(run / "config.json")
    assert config["start"]["took"] == "the policy"
    assert config["online"]["buffer_capacity"] == 5
    again = start_of("td3-odt", tmp_path / "again", source="td3-odt", env_steps=10)
    assert load_policy(again).info.step > load_policy(trained("td3-odt")).info.step


def test_another_environment_is_the_one_of_the_run(start_of, tmp_path):
    run = start_of("odt", tmp_path / "run", env_id="InvertedPendulum-v4", env_steps=5)
    info = load_policy(run).info
    assert (info.env_id, info.env_spec, info.dataset_id) == ("InvertedPendulum-v4", None, "toy/pendulum-v0")


@pytest.fixture
def brief():
    """The id of the data's environment with episodes of two steps."""
    gymnasium.register(
        "DtagTest/Brief-v0", gymnasium.spec("InvertedPendulum-v5").entry_point, max_episode_steps=2
    )
    yield "DtagTest/Brief-v0"
    del gymnasium.registry["DtagTest/Brief-v0"]


def test_another_environment_has_its_own_time_limit_as_in_an_evaluation(start_of, trained, tmp_path, brief):
    run = start_of("odt", tmp_path / "run", env_id=brief, env_steps=4)
    assert [r["online/env_steps"] for r in records(run)] == [4]  # two episodes
    for evaluated in (
        evaluate(load_policy(run), episodes=2),
        evaluate(load_policy(trained("odt")), env_id=brief, episodes=2),
    ):
        assert evaluated.env_id == brief and evaluated.settings[0].lengths == [2, 2]


def test_what_is_gone_on_with_stays_in_its_environment(start_of, tmp_path, store, quick, brief):
    """Other data bring their own."""
    run = start_of("odt", tmp_path / "run", env_id=brief, env_steps=4)
    options = {"env_steps": 4, "online": quick}
    again = finetune(run, "odt", out=tmp_path / "again", store=store, **options)
    assert load_policy(again).info.env_id == brief and records(again)[0]["online/env_steps"] == 4
    other = type(store).from_episodes(
        [store.episode(i) for i in range(store.num_episodes)], store.metadata | {"dataset_id": "toy/other-v0"}
    )
    elsewhere = finetune(run, "odt", out=tmp_path / "elsewhere", store=other, **options)
    assert load_policy(elsewhere).info.env_id == "InvertedPendulum-v5"


def test_references_are_those_of_the_environment_that_was_played(trained, tmp_path, store, quick):
    """D4RL knows the data by their name, and not the environment."""
    named = type(store).from_episodes(
        [store.episode(i) for i in range(store.num_episodes)],
        store.metadata
        | {"dataset_id": "hopper-medium-v2", "ref_min_score": 0.0, "ref_max_score": 1.0, "ref_source": "own"},
    )
    options = {"store": named, "env_steps": 1, "online": quick}
    own = finetune(trained("odt"), "odt", out=tmp_path / "own", **options)
    assert evaluate(load_policy(own), episodes=1).settings[0].normalized.source == "own"
    run = finetune(trained("odt"), "odt", out=tmp_path / "run", env_id="InvertedPendulum-v4", **options)
    result = evaluate(load_policy(run), episodes=1)
    assert result.env_id == "InvertedPendulum-v4" and result.settings[0].normalized is None
    assert result.not_normalized == "neither the dataset nor D4RL's table has references for this task"


def test_the_module_of_its_environment_may_be_told(start_of, tmp_path):
    """Data of a version that did not record it keep all else that they say of the environment."""
    named = "gymnasium.envs.mujoco:InvertedPendulum-v5"
    info = load_policy(start_of("odt", tmp_path / "run", env_id=named, env_steps=5)).info
    before = load_policy(start_of("odt", tmp_path / "other", env_steps=5)).info
    assert info.env_id == named
    assert (info.env_spec, info.max_episode_steps) == (before.env_spec, before.max_episode_steps)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"online": {"buffer_capacity": 6}}, "resume: online.buffer_capacity was 5"),
        ({"env_id": "Pendulum-v1"}, "resume: online.env_id was 'InvertedPendulum-v5'"),
        ({"seed": 1}, "resume: seed was 0"),
        ({"source": "td3-odt"}, "resume: start.algorithm was 'odt'"),
    ],
)
def test_resumed_with_something_else(start_of, tmp_path, quick, change, sentence):
    start_of("odt", tmp_path, source="odt", env_steps=10, resume=True)
    options = {"source": "odt"} | change
    if "online" in change:
        options["online"] = dataclasses.replace(quick, **change["online"])
    with pytest.raises(ValueError, match=sentence):
        start_of("odt", tmp_path, env_steps=10, resume=True, **options)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"env_steps": 0}, "env_steps: expected a whole number of at least 1, got 0"),
        ({"eval_every": 0}, "eval_every: expected a whole number of at least 1"),
        ({"checkpoint_every": True}, "checkpoint_every: expected a whole number of at least 1, got True"),
        ({"keep_last": 0}, "keep_last: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_numbers(start_of, tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        start_of("odt", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_critic_to_climb_on_the_way(start_of, tmp_path, quick):
    with pytest.raises(ValueError, match="explore_ag_steps: odt trains no critic"):
        start_of("odt", tmp_path / "run", online=dataclasses.replace(quick, explore_ag_steps=2))


def with_faults(store, faults):
    """The data of an environment that fails in the t-th step of its n-th episode, for each (n, t)."""
    faults = [(episode_seed(0, number), step, "raise") for number, step in faults]
    spec = {"id": faulty_env.ENV_ID, "kwargs": {"faults": faults}, "max_episode_steps": 12, "wrapper": None}
    return type(store).from_episodes(
        [store.episode(index) for index in range(store.num_episodes)],
        store.metadata | {"env_id": faulty_env.ENV_ID, "env_spec": spec},
    )


@pytest.mark.filterwarnings("ignore:environment. closing it raised OSError:RuntimeWarning")
@pytest.mark.parametrize("processes", [0, 1])
def test_a_broken_environment_costs_its_episode(trained, store, quick, tmp_path, processes):
    options = {"online": quick, "out": tmp_path / "run", "env_steps": 40, "env_processes": processes}
    broken = with_faults(store, [(1, 3), (2, 0)])
    with pytest.warns(
        RuntimeWarning, match=r"collection: seed .* step 3: BrokenError: .* the episode is lost"
    ):
        run = finetune(trained("odt"), "odt", store=broken, **options)
    last = records(run)[-1]
    assert last["online/failed_episodes"] == 2 and last["online/env_steps"] >= 40


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_environment_that_only_fails_ends_the_run_with_all_saved(trained, store, quick, tmp_path):
    broken = with_faults(store, [(number, 2) for number in range(2, 40)])
    options = {"store": broken, "online": quick, "out": tmp_path / "run", "env_steps": 40}
    with pytest.raises(RuntimeError, match=r"environment: 10 episodes in a row failed.*BrokenError"):
        finetune(trained("odt"), "odt", **options)
    assert records(tmp_path / "run")[-1]["online/episodes"] == 2
    healthy = with_faults(store, [])
    run = finetune(trained("odt"), "odt", **options | {"store": healthy}, resume=True)
    assert records(run)[-1]["online/env_steps"] >= 40


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("overlap", [False, True])
def test_what_a_round_had_finished_when_its_environment_broke_is_kept(
    trained, store, quick, tmp_path, overlap
):
    """Of a round of one episode after the other, 0 and 2 are finished; 1 fails, and all from 3 on."""
    one_by_one = {"episodes_per_iteration": 1, "steps_per_iteration": 50, "offline_episodes": 3}
    online = dataclasses.replace(quick, overlap=overlap, **one_by_one)
    options = {"online": online, "out": tmp_path / "run", "env_steps": 40, "checkpoint_every": 100}
    options |= {"evaluate": weight_sum, "eval_every": 1}
    broken = with_faults(store, [(1, 2), *((number, 2) for number in range(3, 40))])
    with pytest.raises(RuntimeError, match=r"environment: 10 episodes in a row failed.*BrokenError"):
        finetune(trained("odt"), "odt", store=broken, **options)
    _, kept = records(tmp_path / "run")
    assert kept["step"] == 3 + quick.updates_per_iteration and kept["buffer/episodes"] == 3 + 2
    assert (kept["online/episodes"], kept["online/failed_episodes"]) == (2, 1)
    assert kept["online/env_steps"] == 2 * kept["online/length_mean"]

    # The checkpoint holds them, and episode 3 is the next.
    run = finetune(trained("odt"), "odt", store=with_faults(store, [(3, 2)]), resume=True, **options)
    _, again, evaluated, *_, last, _ = records(run)
    assert again == kept and evaluated["eval/env_steps"] == kept["online/env_steps"]
    assert last["online/failed_episodes"] == 2 and last["online/env_steps"] >= kept["online/env_steps"] + 50
    assert evaluated["step"] == kept["step"]
