"""The study of critics: their error on held-out episodes by hand, and a whole run on tiny data."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from suites_of_data import TINY, run_small, small_lab

from dtag_fast.data import Episode, TrajectoryStore
from dtag_fast.data.catalog import minari_root_at
from dtag_fast.experiments.rank_correlation import rank_correlation
from dtag_fast.experiments.reproduction.budget import FULL
from dtag_fast.experiments.reproduction.critic_error import CriticError, measure, what_followed
from dtag_fast.experiments.reproduction.critic_report import (
    CriticFit,
    judge,
    own_table,
    smaller_error_larger_gain,
)
from dtag_fast.experiments.reproduction.critic_study import HOLDOUT, STUDY, critics
from dtag_fast.experiments.reproduction.scores import Goal, Score
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.training import load_critic
from dtag_fast.training.validation import split_episodes


def episode(rewards: list[float], terminated: bool) -> Episode:
    """States (t,), actions (10 t,)."""
    steps = len(rewards)
    ends = np.arange(steps) == steps - 1
    observations = np.arange(steps + 1, dtype=np.float32)[:, None]
    return Episode(
        observations, 10 * observations[:-1], np.array(rewards), ends & terminated, ends & (not terminated)
    )


class Known(torch.nn.Module):
    """Two members: `q` of state and action, and more than it."""

    def __init__(self, q):
        super().__init__()
        self.q = q

    def forward(self, states, actions):
        q = self.q(states, actions)
        return q + 5, q


def test_what_followed_is_the_discounted_return_in_the_critics_units():
    store = TrajectoryStore.from_episodes([episode([1, 2, 4], True), episode([8], True)])
    followed, unseen = what_followed(store, store.rewards * 10.0 + 1, 0.5)
    np.testing.assert_allclose(followed, [11 + 21 / 2 + 41 / 4, 21 + 41 / 2, 41, 81])
    assert not unseen.any()


def test_beyond_a_time_limit_the_mean_reward_goes_on():
    store = TrajectoryStore.from_episodes([episode([3, 0], False), episode([9], True)])
    followed, unseen = what_followed(store, store.rewards.astype(float), 0.5)
    rest = 4 / (1 - 0.5)  # a mean reward of 4, for ever
    np.testing.assert_allclose(unseen, [0.25, 0.5, 0])
    np.testing.assert_allclose(followed, [3 + 0.25 * rest, 0.5 * rest, 9])


def test_a_constant_reward_is_followed_by_its_sum_wherever_it_is_cut():
    store = TrajectoryStore.from_episodes([episode([2] * 7, False)])
    np.testing.assert_allclose(what_followed(store, store.rewards.astype(float), 0.9)[0], 2 / (1 - 0.9))


def test_errors_by_hand():
    # Discount 0: G is the reward. Q, the smallest member, is twice the state.
    store = TrajectoryStore.from_episodes([episode([0, 3, 1], True)])
    found = measure(Known(lambda s, a: 2 * s), store, discount=0.0)
    returns, q = np.array([0, 3, 1]), np.array([0, 2, 4])
    off = q - returns  # 0, -1, 3
    assert (found["episodes"], found["steps"]) == (1, 3)
    assert found["rank"] == pytest.approx(0.5) == pytest.approx(found["rank_other_actions"])
    assert found["explained"] == pytest.approx(1 - off.var() / returns.var())
    assert found["error"] == pytest.approx(math.sqrt(10 / 3) / returns.std())
    assert found["bias"] == pytest.approx((2 / 3) / returns.std())


def test_steps_near_a_time_limit_are_left_out():
    store = TrajectoryStore.from_episodes([episode([1, 2, 3, 4, 5], False), episode([1], True)])
    # 0.5^4 of the weight is beyond the limit with four steps left, 0.5^3 > 0.1 with three.
    assert measure(Known(lambda s, a: s), store, discount=0.5)["steps"] == 2 + 1


def test_a_critic_that_lives_off_the_action_loses_its_rank_with_those_of_other_steps():
    rng = np.random.default_rng(0)
    store = TrajectoryStore.from_episodes([episode(list(rng.permutation(200)), True)])
    rewards = torch.from_numpy(np.array(store.rewards))
    found = measure(Known(lambda s, a: rewards[(a / 10).long()]), store, discount=0.0)
    assert found["rank"] == pytest.approx(1) and abs(found["rank_other_actions"]) < 0.3


def test_returns_that_are_all_equal_tell_nothing():
    store = TrajectoryStore.from_episodes([episode([0, 0, 0], True)])
    found = measure(Known(lambda s, a: s), store, discount=0.9)
    assert [found[key] for key in ("rank", "explained", "error", "bias")] == [None] * 4


def test_episodes_that_are_all_cut_early_are_refused():
    store = TrajectoryStore.from_episodes([episode([1, 2], False)])
    with pytest.raises(ValueError, match="held_out: expected episodes that terminate"):
        measure(Known(lambda s, a: s), store, discount=0.99)


def test_rank_correlation_is_spearmans():
    x, y = np.random.default_rng(0).permutation(50), np.arange(50)
    by_formula = 1 - 6 * np.square(x - y).sum() / (50 * (50**2 - 1))
    assert rank_correlation(np.exp(x / 5.0), y) == pytest.approx(by_formula)
    # Equal values share the ranks 2 and 3.
    assert rank_correlation([1, 2, 2, 9], [1, 3, 2, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation([1, 2, 3], [7, 7, 7]) is None


def rows_of(errors: dict[str, list[float]], gains: dict[str, list[float]]) -> list:
    """Fits and scores of one seed: task -> one number for each critic."""
    rows = []
    for task in errors:
        rows.append(score(task, "RF", 10))
        for place, (error, gain) in enumerate(zip(errors[task], gains[task], strict=True)):
            rows.append(CriticFit(task, f"critic {place}", 1, rank=1 - error, error=error))
            rows.append(score(task, f"RF+AG critic {place}", 10 + gain))
    return rows


def score(task: str, method: str, value: float) -> Score:
    return Score(task, method, 1, value, value, None, "", 2, None)


@pytest.mark.parametrize(
    "gains, holds, mean",
    (
        # Task b has the scale of its errors for itself.
        ({"a": [4, 3, 2, 1], "b": [9, 8, 7, 6]}, True, "-1.00"),
        ({"a": [4, 3, 2, 1], "b": [6, 7, 8, 9]}, False, "+0.00"),
        ({"a": [1, 2, 3, 4], "b": [6, 7, 8, 9]}, False, "+1.00"),
    ),
)
def test_the_claim_goes_by_ranks_within_tasks(gains, holds, mean):
    errors = {"a": [0.1, 0.2, 0.3, 0.4], "b": [10, 20, 30, 40]}
    judged = judge(rows_of(errors, gains), ["a", "b"])
    claim = smaller_error_larger_gain(judged, "normalised error")
    assert claim.holds is holds and mean in claim.measured
    # Two tasks of four critics: 1.645 sqrt(1/3 + 1/3) / 2.
    assert "-0.67" in claim.measured


def test_gains_of_a_setting_of_the_critics_own_stand_beside_those_of_another():
    rows = rows_of({"a": [0.1, 0.2]}, {"a": [2, 1]})
    own = score("a", "RF+AG critic 0 own", 15)
    table = own_table(judge([*rows, replace(own, setting="AG n=10 lr=0.1", tuning_gain=4.0)], ["a"]))
    assert table.rows == [
        ["a", "critic 0", "+2.0", "+5.0", "AG n=10 lr=0.1 (+4.0)"],
        ["a", "critic 1", "+1.0", "-", "-"],
    ]


def test_two_critics_are_no_comparison():
    judged = judge(rows_of({"a": [0.1, 0.2]}, {"a": [2, 1]}), ["a"])
    assert not smaller_error_larger_gain(judged, "rank error (1 - correlation)").holds


def test_large_ensembles_are_for_the_full_budget_alone():
    assert set(critics(FULL)) - set(critics(TINY)) == {"IQL 0.7, 10 members"}
    assert set(critics(TINY)) < set(critics(FULL)) and len(critics(TINY)) == 9


def test_a_critic_without_holdout_is_refused(tmp_path):
    lab = small_lab(tmp_path)
    with pytest.raises(ValueError, match="expected a training with a holdout"):
        CriticError(lab.training("maze2d-umaze", "iql", 1))


def test_a_small_run(tmp_path):
    lab = small_lab(tmp_path, hopper=("medium",))
    plan, made = run_small("critic", STUDY, lab, tmp_path, ["hopper-medium"])
    assert not made.failures and not made.missing
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    fits = {row["method"]: row for row in rows if "rank" in row}
    assert list(fits) == list(critics(TINY)) and all(fit["error"] > 0 for fit in fits.values())
    refined = {f"RF+AG {name}{own}" for name in fits for own in ("", " own")}
    assert {row["method"] for row in rows if "score" in row} == {"RF"} | refined

    # Each training once, for the reported and for the tuning seed: one policy and the critics.
    assert plan.work.kinds()["trainings"][0] == 2 * (1 + len(fits))
    tables, header = made.findings.tables, made.findings.tables["critics"].header
    assert len(tables["critics"].rows) == len(fits) and header[:3] == ["task", "critic", "updates"]
    assert len(made.findings.claims) == 2
    assert (tmp_path / "out/figures/gain-against-error.png").is_file()

    # What the piece holds is about the episodes that this training held out.
    shelf, goal = Shelf(tmp_path / "runs"), next(g for g in plan.goals if g.method == "IQL 0.9")
    training = goal.work.critic
    assert training.holdout == HOLDOUT and dict(training.changes)["expectile"] == 0.9
    critic, info = load_critic(shelf.path(training))
    with minari_root_at(tmp_path / "datasets"):
        whole = training.data.load(shelf)
    _, held_out = split_episodes(whole, HOLDOUT, training.seed)
    units = {"reward_scale": info.reward_scale, "reward_shift": info.reward_shift}
    expected = measure(critic, held_out, discount=0.99, **units)
    assert info.reward_scale != 1
    assert json.loads(shelf.path(goal.work).read_text()) == pytest.approx(expected)


def test_a_critic_that_diverged_is_told_as_such(tmp_path):
    lab = small_lab(tmp_path, hopper=("medium",))
    wild = lab.training("hopper-medium", "iql", 1, holdout=HOLDOUT, lr=1e30, policy=False)
    wild = replace(wild, updates=100)  # losses are looked at every hundredth
    policy = lab.training("hopper-medium", "reinformer", 1)
    goals = [
        Goal("hopper-medium", "wild", 1, CriticError(wild)),
        Goal("hopper-medium", "RF+AG wild", 1, lab.refined(policy, wild), row="refined"),
    ]
    study = replace(STUDY, goals=lambda lab, tasks: goals)
    _, made = run_small("critic", study, lab, tmp_path, ["hopper-medium"])
    assert not made.failures and not made.missing
    assert made.findings.tables["critics"].rows[0][8] == "-, 1 of 1 diverged"
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert [row["diverged"] for row in rows] == [1, 1]
    assert not any(claim.holds for claim in made.findings.claims)
