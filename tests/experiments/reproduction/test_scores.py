"""Numbers over training seeds, and the tables of them."""

from dataclasses import replace

import pytest

from dtag_fast.experiments.reproduction import quoted
from dtag_fast.experiments.reproduction.optimizer_study import OPTIMIZERS
from dtag_fast.experiments.reproduction.scores import (
    Score,
    gain_table,
    over_seeds,
    score_table,
    setting_table,
    values_of,
    with_interval,
)
from dtag_fast.experiments.reproduction.tasks import GYM, MAZE2D
from dtag_fast.ops.refine import Adam
from dtag_fast.rollout.settings import AGSetting


def score(task, method, seed, value, **about) -> Score:
    known = {
        "mean_return": 10 * value if value is not None else None,
        "q_gain": None,
        "setting": "plain policy",
    }
    return Score(task, method, seed, value, **{**known, "episodes": 0, "target_return": None, **about})


def lost(task, method, seed, update) -> Score:
    return score(task, method, seed, None, diverged=update, setting="diverged")


SCORES = [
    *(score("a", "DT", seed, value) for seed, value in ((1, 1.0), (2, 2.0), (3, 6.0))),
    *(score("a", "DT+AG", seed, value) for seed, value in ((1, 2.0), (2, 1.0), (3, 8.0))),
    *(score("b", "DT", seed, value) for seed, value in ((1, 10.0), (2, 20.0))),
    *(score("b", "DT+AG", seed, value) for seed, value in ((2, 24.0), (3, 30.0))),
    score("a", "BC", 1, 5.0),
    lost("a", "BC", 2, 7),
]


@pytest.mark.parametrize(
    "values, mean_and_deviation, mean_and_interval",
    [
        ([], "-", "-"),
        ([5.0], "5.0", "+5.0"),
        ([1.0, 3.0], "2.0 ± 1.4", "+2.0 (-10.7 to +14.7)"),  # t = 12.706 of one degree of freedom
        ([1.0, 2.0, 6.0], "3.0 ± 2.6", "+3.0 (-3.6 to +9.6)"),  # s = sqrt(7), t = 4.303
        ([-4.0, -4.0], "-4.0 ± 0.0", "-4.0 (-4.0 to -4.0)"),
    ],
)
def test_numbers_over_seeds(values, mean_and_deviation, mean_and_interval):
    assert (over_seeds(values), with_interval(values)) == (mean_and_deviation, mean_and_interval)


def test_values_of_a_method_are_scores_or_returns():
    assert values_of(SCORES, "a", "DT") == {1: 1.0, 2: 2.0, 3: 6.0} and values_of(SCORES, "c", "DT") == {}
    assert values_of(SCORES, "a", "BC") == {1: 5.0}
    bare = [score("a", "DT", 1, None, mean_return=7.0), score("a", "DT", 2, 0.0, mean_return=9.0)]
    assert values_of(bare, "a", "DT") == {1: 7.0, 2: 0.0}


def test_table_of_scores():
    table = score_table(SCORES, ["a", "b"], ["BC", "DT", "DT+AG"])
    assert table.header == ["task", "BC", "DT", "DT+AG"]
    assert table.rows == [
        ["a", "5.0, 1 of 2 diverged", "3.0 ± 2.6", "3.7 ± 3.8"],
        ["b", "-", "15.0 ± 7.1", "27.0 ± 4.2"],
        ["total of these 2", "-", "18.0", "30.7"],
    ]
    assert score_table(SCORES, ["a"], ["DT"]).rows == [["a", "3.0 ± 2.6"]]


def test_quoted_totals_stand_beside_totals_over_the_same_tasks_alone():
    others = {"BC, theirs": {"a": 1.5, "b": 2.0, "c": 4.25, "total": 7.75}, "RF, theirs": {"total": 9.0}}

    def rows(tasks, of):
        return score_table(SCORES, tasks, ["DT"], others, of).rows

    assert rows(["a", "b"], ["b", "a"])[1:] == [
        ["b", "15.0 ± 7.1", "2", "-"], ["total of these 2", "18.0", "7.75", "9"]
    ]  # fmt: skip
    assert rows(["a", "b"], ["a", "b", "c"])[1:] == [
        ["b", "15.0 ± 7.1", "2", "-"],
        ["total of these 2", "18.0", "-", "-"],
        ["total of all 3", "-", "7.75", "9"],
    ]
    assert rows(["a"], ["a"]) == [["a", "3.0 ± 2.6", "1.5", "-"]]
    assert rows(["a"], ["a", "b"]) == [["a", "3.0 ± 2.6", "1.5", "-"], ["total of all 2", "-", "7.75", "9"]]


def test_quoted_numbers_are_complete_and_their_totals_sums():
    for tasks in (GYM, MAZE2D):
        columns = quoted.corl(("BC", "DT"), tasks)
        assert list(columns) == ["BC, CORL's readme", "DT, CORL's readme"]
        for column in columns.values():
            assert set(column) == {*tasks, "total"}
            assert column["total"] == pytest.approx(sum(column[task] for task in tasks), abs=0.051)
    assert quoted.corl(("DT",), MAZE2D)["DT, CORL's readme"]["total"] == 85.4


def test_returns_are_no_part_of_a_total():
    scores = [score("a", "DT", 1, 50.0), score("b", "DT", 1, None), score("b", "BC", 1, 3.0)]
    scores[1] = replace(scores[1], mean_return=3000.0)
    scores.append(score("a", "BC", 1, 4.0))
    table = score_table(scores, ["a", "b"], ["DT", "BC"])
    assert table.rows == [
        ["a", "50.0", "4.0"],
        ["b", "3000.0 (returns)", "3.0"],
        ["total of these 2", "-", "7.0"],
    ]


def test_gains_pair_trainings_of_one_seed():
    table = gain_table(SCORES, ["a", "b", "c"], [("DT", "DT+AG"), ("BC", "DT")])
    assert table.header == ["task", "DT+AG - DT", "DT - BC"]
    assert table.rows == [
        [
            "a",
            "+0.7 (-3.1 to +4.5), 2 of 3 up",
            "-4.0, 0 of 1 up, 1 diverged",
        ],  # of 1, -1, 2: s = 1.5275, t = 4.303
        ["b", "+4.0, 1 of 1 up", "-"],
        ["c", "-", "-"],
    ]


def test_table_of_settings_tells_those_of_trainings_that_did_not_diverge():
    scores = [
        lost("a", "DT", 1, 3),
        score("a", "DT", 2, 1.0, target_return=400.0),
        score("a", "DT+AG", 1, 1.0, setting="AG n=10 lr=0.1", target_return=400.0),
        score("b", "DT+AG", 1, 1.0, setting="AG n=10 lr=0.3", tuning_gain=-2.04),
    ]
    table = setting_table(scores, ["a", "b"], ["DT", "DT+AG"])
    assert table.rows == [
        ["a", "plain policy, return 400", "AG n=10 lr=0.1, return 400"],
        ["b", "-", "AG n=10 lr=0.3 (-2.0)"],
    ]


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), "adam", Adam(betas=(0.8, 0.9))])
def test_table_of_settings_leaves_the_optimizer_to_the_name_of_the_method(optimizer):
    label = AGSetting(10, 0.1, optimizer=optimizer, select="last").label
    table = setting_table([score("a", "DT+AG", 1, 1.0, setting=label)], ["a"], ["DT+AG"])
    assert table.rows == [["a", "AG n=10 lr=0.1 select=last"]]
