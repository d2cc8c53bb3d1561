"""Action Gradient settings: grids, names, refusals."""

import pytest

from dtag_fast import SGD, Adam, ClipNorm
from dtag_fast.rollout import AGSetting, Behaviour, grid
from dtag_fast.rollout.settings import is_plain_record


def test_a_grid_has_every_combination_and_one_plain_policy():
    settings = grid((0, 5), (0.01, 0.03), ("sgd", "adam"), reduce="mean")
    assert settings[0] == AGSetting() and sum(s.is_plain for s in settings) == 1
    refined = {(s.steps, s.lr, s.optimizer, s.reduce) for s in settings[1:]}
    assert refined == {(5, lr, o, "mean") for lr in (0.01, 0.03) for o in ("sgd", "adam")}
    assert len(settings) == 5


def test_a_behaviour_stands_in_place_of_lr_and_its_like():
    weights = (Behaviour(0.2), Behaviour(0.4, 2.0))
    settings = grid((0, 5, 10), (0.01, 0.03), behaviour=weights, reduce="mean", gradient="unit")
    assert settings[:5] == grid((0, 5, 10), (0.01, 0.03), reduce="mean", gradient="unit")
    assert settings[5:] == [AGSetting(n, reduce="mean", behaviour=b) for b in weights for n in (5, 10)]
    assert grid((0, 5), (), behaviour=weights[:1]) == [AGSetting(), AGSetting(5, behaviour=weights[0])]
    with pytest.raises(TypeError, match=r"behaviour: expected a sequence of Behaviour\(...\), got Behaviour"):
        grid((5,), behaviour=weights[0])
    with pytest.raises(TypeError, match=r"behaviour: expected Behaviour\(...\) or None, got 0.4"):
        grid((5,), behaviour=(0.4,))


def test_of_settings_that_make_no_step_only_what_matters_is_left():
    settings = grid((0, 5), (0.01, 0.03), ("sgd", "adam"), starts=(1, 4), select="last", reduce="mean")
    plain, best_of_four, *refined = settings
    assert plain == AGSetting() and plain.is_plain
    assert best_of_four == AGSetting(reduce="mean", starts=4) and not best_of_four.is_plain
    assert len(refined) == 8 and all(s.select == "last" and s.essence == s for s in refined)
    assert [s.starts for s in refined[:2]] == [1, 4]
    assert grid((0, 5), (), behaviour=[Behaviour()], starts=(4,)) == [
        AGSetting(behaviour=Behaviour(), starts=4),
        AGSetting(5, behaviour=Behaviour(), starts=4),
    ]


def test_a_spread_is_of_several_starts():
    found = grid((0, 5), (0.1,), starts=(1, 4), spread=(0.5, 1.0))
    assert found[:3] == [AGSetting(), AGSetting(starts=4, spread=0.5), AGSetting(starts=4)]
    assert found[3:] == [
        AGSetting(5, 0.1),
        AGSetting(5, 0.1, starts=4, spread=0.5),
        AGSetting(5, 0.1, starts=4),
    ]
    assert [s.label for s in found[-2:]] == ["AG n=5 lr=0.1 starts=4 spread=0.5", "AG n=5 lr=0.1 starts=4"]
    assert AGSetting(5, spread=0.5).label == "AG n=5 lr=0.03"


def test_the_plain_policy_is_known_in_files():
    settings = [AGSetting(), AGSetting(0, 0.5, reduce="mean"), AGSetting(starts=2), AGSetting(3)]
    assert [is_plain_record(s.to_dict()) for s in settings] == [True, True, False, False]
    assert is_plain_record({"steps": 0}) and not is_plain_record({"steps": 1})


def test_labels_say_what_differs_from_the_default():
    assert AGSetting().label == "plain policy"
    assert AGSetting(10).label == "AG n=10 lr=0.03"
    assert AGSetting(10, select="last", starts=4).label == "AG n=10 lr=0.03 select=last starts=4"
    assert AGSetting(0, 0.5, "adam", "mean", starts=16).label == "AG n=0 reduce=mean starts=16"
    label = AGSetting(5, behaviour=Behaviour(), starts=2).label
    assert label == "AG n=5 behaviour weight=0.4 radius=1 starts=2"
    label = AGSetting(5, 0.01, SGD(momentum=0.9), reduce=1, radius=0.2).label
    assert label == "AG n=5 lr=0.01 optimizer=SGD(momentum=0.9, nesterov=False) reduce=1 radius=0.2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps: expected a whole number of at least 0, got -1"),
        ({"steps": 2.0}, "steps: expected"),
        ({"lr": -0.1}, "lr: expected a finite number"),
        ({"lr": float("nan")}, "lr: expected a finite number"),
        ({"optimizer": "lion"}, "optimizer: expected"),
        ({"reduce": "max"}, "reduce: expected"),
        ({"gradient": "sign"}, "gradient: expected"),
        ({"select": "first"}, "select: expected"),
        ({"radius": -1.0}, "radius: expected"),
        ({"starts": 0}, "starts: expected a whole number of at least 1, got 0"),
        ({"starts": 2.0}, "starts: expected"),
        ({"starts": True}, "starts: expected"),
        ({"spread": -0.5}, "spread: expected a finite number of at least 0, got -0.5"),
        ({"spread": "1"}, "spread: expected"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AGSetting(**({"steps": 1} | options))


def test_a_setting_as_plain_values_keeps_the_kind_of_its_options():
    plain = AGSetting(5, optimizer=Adam(eps=0.1), gradient=ClipNorm(2.0)).to_dict()
    assert plain["optimizer"] == {"name": "Adam", "betas": (0.9, 0.999), "eps": 0.1}
    assert plain["gradient"] == {"name": "ClipNorm", "limit": 2.0} and plain["reduce"] == "min"
