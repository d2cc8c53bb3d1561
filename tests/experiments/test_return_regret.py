"""Closed forms against enumeration in a tiny MDP, and what the network and the report do with them."""

import copy
import itertools

import numpy as np
import pytest
import torch

from dtag_fast.experiments import layered_mdp as mdps
from dtag_fast.experiments import return_regret_figures, return_regret_report
from dtag_fast.experiments.return_regret import (
    ReturnRegretConfig,
    _tokens,
    regret_bound,
    run_return_regret,
)

SMALL = ReturnRegretConfig(
    horizon=3,
    states=3,
    actions=2,
    episodes=60,
    offsets=(-1, 0, 4),
    d_model=8,
    n_layer=1,
    updates=3,
    played=20,
)


def tiny(seed: int = 0, eps: float = 0.3, horizon: int = 2) -> mdps.LayeredMDP:
    return mdps.random_mdp(
        np.random.default_rng(seed), horizon=horizon, states=2, actions=2, max_reward=2, eps=eps
    )


def trajectories(mdp, act):
    """All of (states, actions, rewards, probability); act(t, s, rewards so far) -> probabilities (A,)."""
    outcomes = mdp.outcomes()

    def go_on(t, state, states, actions, rewards, probability):
        if t == mdp.horizon:
            yield states, actions, rewards, probability
            return
        chances = act(t, state, rewards)
        for action, r, following in itertools.product(
            range(mdp.num_actions), range(mdp.max_reward + 1), range(mdp.num_states)
        ):
            chance = probability * chances[action] * outcomes[t, state, action, r, following]
            yield from go_on(t + 1, following, (*states, state), (*actions, action), (*rewards, r), chance)

    return go_on(0, 0, (), (), (), 1.0)


def by_behaviour(mdp):
    return list(trajectories(mdp, lambda t, s, _: mdp.behaviour[t, s]))


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_outcomes_are_probabilities_and_the_table_decides_but_for_eps(eps):
    mdp = tiny(eps=eps)
    outcomes = mdp.outcomes()
    np.testing.assert_allclose(outcomes.sum(axis=(-2, -1)), 1)
    t, s, a = np.indices(mdp.reward.shape)
    np.testing.assert_allclose(outcomes[t, s, a, mdp.reward, mdp.next_state], 1 - eps + eps / 6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distribution_of_the_return_is_that_of_the_enumeration(seed):
    mdp = tiny(seed)
    found = np.zeros(mdp.max_return + 1)
    for _, _, rewards, probability in by_behaviour(mdp):
        found[sum(rewards)] += probability
    of_start = mdps.return_probabilities(mdp)[0][0, 0]
    np.testing.assert_allclose(of_start, found, atol=1e-12)
    mean = found @ np.arange(5)
    assert mdps.behaviour_moments(mdp) == pytest.approx(
        (mean, (found @ (np.arange(5) - mean) ** 2) ** 0.5), abs=1e-12
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_closed_form_policy_is_bayes_over_the_enumeration(seed):
    mdp = tiny(seed)
    joint = np.zeros((2, 2, mdp.max_return + 1, 2))  # (t, s, return-to-go, a)
    for states, actions, rewards, probability in by_behaviour(mdp):
        for t in range(2):
            joint[t, states[t], sum(rewards[t:]), actions[t]] += probability
    total = joint.sum(axis=-1, keepdims=True)
    policy = mdps.exact_policy(mdp)
    seen = total[..., 0] > 0
    np.testing.assert_allclose(policy.given[seen], (joint / np.where(total > 0, total, 1))[seen], atol=1e-12)
    np.testing.assert_allclose(policy.given.sum(axis=-1), 1)
    # More than two rewards are not left at the last step: nothing to condition on.
    np.testing.assert_array_equal(policy.given[1, :, 3], mdp.behaviour[1])


@pytest.mark.parametrize("target", [-3, 0, 2, 3, 4, 5, 9])
def test_value_is_that_of_the_enumeration(target):
    mdp = tiny(1, horizon=3)
    policy = mdps.exact_policy(mdp)

    def act(t, state, rewards):
        left = target - sum(rewards)
        inside = 0 <= left < policy.given.shape[2]
        return policy.given[t, state, left] if inside else policy.otherwise[t, state]

    value = sum(sum(rewards) * probability for _, _, rewards, probability in trajectories(mdp, act))
    assert mdps.value_of(mdp, policy, target) == pytest.approx(value, abs=1e-12)


def test_asking_for_the_impossible_is_the_behaviour_policy():
    mdp = tiny(horizon=3)
    mean, _ = mdps.behaviour_moments(mdp)
    # Three rewards of 2 cannot bring 13 within what is possible.
    assert mdps.value_of(mdp, mdps.exact_policy(mdp), 13) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_without_chance_every_possible_return_is_achieved_exactly(seed):
    mdp = tiny(seed, eps=0.0, horizon=4)
    of_start, policy = mdps.return_probabilities(mdp)[0][0, 0], mdps.exact_policy(mdp)
    possible = np.flatnonzero(of_start)
    assert len(possible) > 1
    for target in possible:
        assert mdps.value_of(mdp, policy, int(target)) == pytest.approx(target, abs=1e-9)
    assert mdps.best_value(mdp) == pytest.approx(possible.max())


def test_best_value_is_the_best_of_all_policies():
    mdp = tiny(3)
    values = []
    for choice in itertools.product(range(2), repeat=4):
        table = np.eye(2)[np.array(choice).reshape(2, 2)]  # (t, s, a)
        paths = trajectories(mdp, lambda t, s, _, table=table: table[t, s])
        values.append(sum(sum(rewards) * probability for _, _, rewards, probability in paths))
    assert mdps.best_value(mdp) == pytest.approx(max(values), abs=1e-12)
    assert max(values) > min(values)


def test_counts_by_hand():
    mdp = tiny()
    data = mdps.Steps(
        states=np.array([[0, 1], [0, 1], [0, 1], [0, 0]]),
        actions=np.array([[0, 1], [1, 1], [1, 0], [0, 0]]),
        rewards=np.array([[2, 1], [1, 2], [2, 1], [0, 0]]),
    )
    np.testing.assert_array_equal(data.returns_to_go, [[3, 1], [3, 2], [3, 1], [0, 0]])
    policy = mdps.counted_policy(mdp, data)
    np.testing.assert_allclose(policy.given[0, 0, 3], [1 / 3, 2 / 3])
    np.testing.assert_allclose(policy.given[0, 0, 0], [1, 0])
    np.testing.assert_allclose(policy.given[0, 0, 4], [1 / 2, 1 / 2])  # never seen: of the state, 2 and 2
    np.testing.assert_allclose(policy.given[1, 1, 1], [1 / 2, 1 / 2])
    np.testing.assert_allclose(policy.given[1, 1, 0], [1 / 3, 2 / 3])
    np.testing.assert_allclose(policy.given[0, 1], 1 / 2)  # a state never seen
    np.testing.assert_allclose(policy.otherwise[1, 1], [1 / 3, 2 / 3])


def test_collected_episodes_follow_table_and_behaviour():
    mdp = tiny(2, eps=0.0, horizon=3)
    data = mdps.collect(mdp, 4000, np.random.default_rng(0))
    t = np.broadcast_to(np.arange(3), data.states.shape)
    assert not data.states[:, 0].any()
    np.testing.assert_array_equal(data.rewards, mdp.reward[t, data.states, data.actions])
    np.testing.assert_array_equal(data.states[:, 1:], mdp.next_state[t, data.states, data.actions][:, :-1])
    frequency = np.bincount(data.actions[:, 0], minlength=2) / 4000
    np.testing.assert_allclose(frequency, mdp.behaviour[0, 0], atol=0.04)


def test_with_chance_the_mean_return_is_the_exact_one():
    mdp = tiny(2, horizon=3)
    mean, deviation = mdps.behaviour_moments(mdp)
    returns = mdps.collect(mdp, 4000, np.random.default_rng(1)).rewards.sum(axis=1)
    assert abs(returns.mean() - mean) < 5 * deviation / 4000**0.5


def test_choose_takes_a_column_by_its_probability():
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(mdps.choose(rows, np.random.default_rng(0)), [0, 2, 1])
    short = np.array([[0.5, 0.5 - 1e-9]] * 1000)  # rounded sums stay in range
    assert mdps.choose(short, np.random.default_rng(0)).max() == 1


def test_bound_by_hand():
    mdp = tiny(eps=0.05)
    assert regret_bound(mdp, 0.25) == pytest.approx(0.05 * (4 + 2) * 2**2 * 2)
    assert regret_bound(mdp, 0.0) is None


def test_tokens():
    mdp = tiny()
    states, actions, asked, timesteps, mask = _tokens(
        mdp, np.array([[0, 1]]), np.array([[1, 0]]), np.array([[3, 1]])
    )
    assert states.tolist() == [[[1, 0], [0, 1]]] and actions.tolist() == [[[0, 1], [1, 0]]]
    assert asked.tolist() == [[[0.75], [0.25]]] and timesteps.tolist() == [[0, 1]] and mask.all()


def test_same_seed_same_numbers():
    state = torch.get_rng_state()
    one = run_return_regret(3, SMALL)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert run_return_regret(3, SMALL) == one
    assert run_return_regret(4, SMALL)["targets"] != one["targets"]
    assert [row["target"] - one["data_best"] for row in one["targets"]] == list(SMALL.offsets)


@pytest.fixture(scope="module")
def trained():
    config = ReturnRegretConfig(offsets=(-6, -4, 0, 4, 12), updates=300, played=300)
    return [run_return_regret(0, config)]


def test_inside_the_data_the_network_gets_what_it_asks_for_and_far_outside_it_does_not(trained):
    inside, _, best, _, outside = trained[0]["targets"]
    assert abs(inside["network"] - inside["target"]) < 0.5
    assert outside["network"] < trained[0]["best"] - 1
    assert outside["exact"] == pytest.approx(trained[0]["behaviour"])
    assert best["exact"] > trained[0]["behaviour"] + 2
    assert all(0 < row["network_error"] < 0.3 for row in trained[0]["targets"])


def test_claims_hold_and_fail_where_they_should(trained):
    assert all(claim.holds for claim in return_regret_report.claims(trained))
    for place, key, value in ((0, "bound", -1.0), (0, "alpha", 1e3), (2, "exact", 99.0)):
        wrong = copy.deepcopy(trained)
        wrong[0]["targets"][place][key] = value
        assert not all(claim.holds for claim in return_regret_report.claims(wrong)), key


def test_table_and_figure(trained):
    table = return_regret_report.tables(trained)["regret"]
    row, target = table.rows[0], trained[0]["targets"][0]
    assert row[0] == "-6" and float(row[1]) == target["target"]
    assert float(row[4]) == pytest.approx(target["target"] - target["exact"], abs=0.006)
    assert float(row[9]) == pytest.approx(trained[0]["best"] - target["network"], abs=0.006)
    assert table.rows[-1][2] == table.rows[-1][3] == "infinite"
    returns, regrets = return_regret_figures.draw(trained)["regret"].axes
    assert len(returns.lines) == 3 + 2 + 1 and len(regrets.lines) == 3 + 1
