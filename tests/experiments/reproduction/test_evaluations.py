"""Choice of a setting by hand-computed cases; evaluations of real policies, diverged ones among them."""

import json
from dataclasses import replace

import gymnasium
import pytest

from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.random_policy import make_random
from dtag_fast.executors.choice import InThisProcess
from dtag_fast.experiments.reproduction.datasets import Data
from dtag_fast.experiments.reproduction.evaluations import Evaluation, choose, read
from dtag_fast.experiments.reproduction.runner import make_plan, run
from dtag_fast.experiments.reproduction.scores import NOTHING_CHOSEN, Goal, score_of
from dtag_fast.experiments.reproduction.trainings import divergence
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.rollout import AGSetting

DIVERGED = {"diverged": {"metric": "loss", "value": "nan", "update": 3}}


def tuning(steps, targets, *means) -> dict:
    """What an evaluation wrote: `means` of each setting's targets, setting by setting."""
    places = [(n, target) for n in steps for target in targets]
    rows = [
        {"setting": {"steps": n}, "target_return": target, "mean": mean}
        for (n, target), mean in zip(places, means, strict=True)
    ]
    return {"settings": rows, "settings_asked": len(steps)}


@pytest.mark.parametrize(
    "tunings, target, setting, means",
    [
        pytest.param([tuning([0, 5, 5], [None], 1.0, 3.0, 2.0)], None, 1, [1, 3, 2], id="best-of-one"),
        pytest.param([tuning([0, 5], [None], 9.0, 3.0)], None, 1, [9, 3], id="worse-than-the-plain-policy"),
        pytest.param([tuning([0], [None], 4.0)], None, None, [4], id="none-with-steps"),
        pytest.param(
            [tuning([0, 5, 5], [None], 1.0, 4.0, 2.0), tuning([0, 5, 5], [None], 3.0, 0.0, 3.0)],
            *(None, 2, [2, 2, 2.5]),
            id="mean-of-several",
        ),
        pytest.param(
            [tuning([0, 5, 5], [10.0, 20.0], 1.0, 2.0, 9.0, 3.0, 0.0, 4.0)],
            *(20.0, 2, [2, 3, 4]),  # not 10, for which a refined setting has 9: the plain policy decides
            id="target-of-the-plain-policy",
        ),
        pytest.param(
            [tuning([5, 7], [10.0, 20.0], 1.0, 2.0, 9.0, 3.0)], 10.0, 1, [1, 9], id="no-plain-setting"
        ),
        pytest.param(
            [tuning([0, 5, 5], [10.0, 20.0], 2.0, 2.0, 3.0, 8.0, 3.0, 9.0)], 10.0, 1, [2, 3, 3], id="ties"
        ),
        pytest.param(
            [DIVERGED, tuning([0, 5], [7.0], 1.0, 2.0)], 7.0, 1, [1, 2], id="one-diverged"
        ),
        pytest.param([DIVERGED, DIVERGED], None, None, [], id="all-diverged"),
        pytest.param([], None, None, [], id="none"),
        pytest.param(
            [tuning([0, 5, 5], [None], 1.0, 9.0, 2.0), tuning([0, 5, 5], [None], 1.0, None, 2.0)],
            *(None, 2, [1, None, 2]),
            id="no-episode-finished",
        ),
        pytest.param([tuning([0, 5], [1.0, 2.0], None, None, None, None)], 1.0, 1, [None] * 2, id="nothing"),
    ],
)  # fmt: skip
def test_choice(tunings, target, setting, means):
    found = choose(tunings)
    assert found == {"target_return": target, "setting": setting, "means": means}
    json.dumps(found, allow_nan=False)


def do(root, *works) -> Shelf:
    with InThisProcess() as crew:
        assert run(make_plan(works, root, False), root, crew) == []
    return Shelf(root)


def test_a_setting_and_a_return_are_chosen_by_another_policy_and_other_episodes(
    hopper, tmp_path, make_training
):
    policy, critic = make_training("dt"), make_training("iql")
    settings = (AGSetting(), AGSetting(2, 0.01), AGSetting(2, 0.1))
    first = Evaluation(
        *(make_training("dt", 0), make_training("iql", 0), settings, (400.0, 3600.0)), episodes=2, seed=50_000
    )
    second = replace(first, policy=make_training("dt", 5))
    goal = Evaluation(policy, critic, episodes=2, seed=1_000, chosen_by=(first, second))
    shelf = do(tmp_path, goal)
    tunings = [read(work, shelf) for work in (first, second)]
    assert [row["seeds"] for row in tunings[0]["settings"]] == [[50_000, 50_001]] * 6
    found = read(goal, shelf)
    assert found["chosen"] == choose(tunings) and found["settings_asked"] == 2
    target, best = found["chosen"]["target_return"], settings[found["chosen"]["setting"]]
    assert [row["target_return"] for row in found["settings"]] == [target] * 2
    assert [row["setting"]["lr"] for row in found["settings"]][1] == best.lr and best.steps == 2
    refined, plain = (
        score_of(Goal("hopper-medium", "DT", 1, goal, row), shelf) for row in ("refined", "plain")
    )
    assert (refined.setting, plain.setting) == (best.label, "plain policy")
    assert plain.target_return == target and plain.dataset == "local/hopper/medium-v0"
    assert refined.mean_return == found["settings"][1]["mean"] and refined.q_gain > plain.q_gain == 0
    returns = [found["chosen"]["means"][place] for place in (0, found["chosen"]["setting"])]
    low, high = (found["settings"][0]["normalized"][end] for end in ("ref_min", "ref_max"))
    assert refined.tuning_gain == pytest.approx(100 * (returns[1] - returns[0]) / (high - low))
    assert plain.tuning_gain is None


def test_of_several_targets_the_first_is_reported_and_a_number_names_a_setting(
    hopper, tmp_path, make_training
):
    settings = (AGSetting(), AGSetting(2, 0.01), AGSetting(2, 0.1))
    work = Evaluation(make_training("dt"), make_training("iql"), settings, (400.0, 3600.0), episodes=1)
    shelf = do(tmp_path, work)
    found = {row: score_of(Goal("t", "DT", 1, work, row), shelf) for row in ("plain", "refined", 0, 1, 2)}
    assert {score.target_return for score in found.values()} == {400.0}
    assert found["plain"] == found[0] and found["refined"] == found[2] != found[1]
    assert found[1].setting == "AG n=2 lr=0.01"


def test_a_training_that_diverges_is_a_result(hopper, tmp_path, make_training):
    """And so is one that learns from a critic that did, and an evaluation of either."""
    policy, critic = (
        make_training("dt", lr=1e30, warmup=0, updates=20),
        make_training("iql", lr=1e30, updates=20),
    )
    taught = replace(make_training("dt", q_weight=1.0), critic=critic)
    works = [
        Evaluation(policy, episodes=1),
        Evaluation(make_training("bc"), critic, (AGSetting(2),), episodes=1),
        Evaluation(taught, episodes=1),
    ]
    chosen, free = (
        Evaluation(make_training(name), episodes=1, chosen_by=(works[0],)) for name in ("dt", "bc")
    )
    shelf = do(tmp_path, *works, chosen, free)
    for work, lost in zip(works, (policy, critic, critic), strict=True):
        found = read(work, shelf)["diverged"]
        assert found == divergence(shelf.path(lost)) and found.keys() == {"metric", "value", "update"}
        score = score_of(Goal("hopper-medium", "DT", 1, work), shelf)
        assert 1 <= score.diverged == found["update"] <= 20
        assert (score.value, score.setting, score.episodes) == (None, "diverged", 0)
    assert read(chosen, shelf)["chosen"] == {"target_return": None, "setting": None, "means": []}
    # a return had to be chosen for DT and was not; BC asks for none
    for work, row, alone in ((chosen, "plain", False), (chosen, "refined", False), (free, "plain", True)):
        score = score_of(Goal("hopper-medium", "DT", 1, work, row), shelf)
        assert score.diverged is None and (score.value is not None) is alone
        assert score.setting == ("plain policy" if alone else NOTHING_CHOSEN)
    assert divergence(shelf.path(make_training("bc"))) is None


def test_a_critic_that_diverges_costs_the_policy_alone_nothing(hopper, tmp_path, make_training):
    lost, settings = make_training("iql", lr=1e30, updates=20), (AGSetting(), AGSetting(2))
    tuning = Evaluation(make_training("dt", 0), lost, settings, (400.0, 3600.0), episodes=1, seed=50_000)
    alone = replace(tuning, critic=None, settings=(AGSetting(),))
    policy = make_training("dt")
    swept = Evaluation(policy, lost, settings, episodes=1, chosen_by=(alone,))
    works = [
        Evaluation(policy, lost, episodes=1, chosen_by=(tuning,)),  # no critic here and there
        Evaluation(policy, make_training("iql"), episodes=1, chosen_by=(tuning,)),  # none there
        Evaluation(policy, episodes=1, chosen_by=(alone,)),
    ]
    shelf = do(tmp_path, tuning, *works, swept)
    update = divergence(shelf.path(lost))["update"]
    scores = [
        {row: score_of(Goal("t", "DT", 1, work, row), shelf) for row in ("plain", "refined")}
        for work in works[:2]
    ]
    plain = score_of(Goal("t", "DT", 1, works[2]), shelf)
    assert plain.value is not None and scores[0]["plain"] == plain
    assert scores[1]["plain"] == replace(plain, q_gain=0.0)
    assert [s["refined"].diverged for s in scores] == [update, None]
    assert scores[1]["refined"].setting == NOTHING_CHOSEN
    by_place = [score_of(Goal("t", "DT", 1, swept, place), shelf) for place in (0, 1)]
    assert by_place[0] == plain and (by_place[1].diverged, by_place[1].value) == (update, None)


def test_a_choice_leaves_out_tunings_without_their_critic():
    plain, refined = ({"setting": {"steps": n, "starts": 1}, "target_return": None} for n in (0, 2))
    whole = {"settings": [plain | {"mean": 1.0}, refined | {"mean": 3.0}], "settings_asked": 2}
    alone = {"settings": [plain | {"mean": 9.0}], "settings_asked": 1, "critic_diverged": {"update": 3}}
    assert choose([whole, alone]) == {"target_return": None, "setting": 1, "means": [1.0, 3.0]}
    assert choose([alone]) == {"target_return": None, "setting": None, "means": [9.0]}


@pytest.mark.filterwarnings("ignore:environment. closing it")
def test_where_no_episode_is_finished_there_is_no_number(tmp_path, monkeypatch, make_training):
    import faulty_env

    faults = tuple((seed, 1, "raise") for seed in (1_000, 1_001))
    gymnasium.register("DtagTest/Doomed-v0", entry_point=faulty_env.FaultyEnv, kwargs={"faults": faults})
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    with minari_root_at(tmp_path / "minari"):
        make_random("DtagTest/Doomed-v0", 60, 0, "local/doomed/random-v0", max_episode_steps=12)
        data = Data("local/doomed/random-v0")
        work = Evaluation(replace(make_training("bc"), data=data), episodes=2, seed=1_000)
        some = replace(work, seed=1_001)
        shelf = do(tmp_path / "runs", work, some)
    assert len(read(work, shelf)["failures"]) == 2
    assert score_of(Goal("doomed", "BC", 1, work), shelf) is None
    assert score_of(Goal("doomed", "BC", 1, some), shelf).episodes == 1
    assert score_of(Goal("doomed", "BC", 1, replace(work, seed=5)), shelf) is None  # never made
