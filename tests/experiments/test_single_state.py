"""One state: reward, data, schedule and losses by hand; methods with a critic find the peak, ODT does not."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dtag_fast.experiments import single_state_figures, single_state_report
from dtag_fast.experiments.single_state import (
    METHODS,
    Learner,
    SingleStateConfig,
    demonstrations,
    distance_from_data,
    reaches_peak,
    reward,
    run_method,
    run_single_state,
)

SHORT = SingleStateConfig(hidden=(8, 8), pretrain_epochs=1, published_epochs=1, online_epochs=2)


@pytest.fixture(scope="module")
def two_seeds():
    return [run_single_state(seed) for seed in (0, 1)]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_reward_by_hand():
    actions = column(-1, -0.95, -0.5, 0, 0.25, 0.5, 1)
    torch.testing.assert_close(reward(actions), column(0, 0.0025, 0.25, 1, 0.5, 0, -1))


@pytest.mark.parametrize(
    ("action", "distance", "at_peak"),
    [
        (-1.0, 0, False),
        (-0.9, 0.05, False),
        (-0.04, 0.54, False),
        (-0.02, 0.52, True),
        (0.0, 0.5, True),
        (0.02, 0.48, True),
        (0.03, 0.47, False),
        (0.7, 0, False),
    ],
)
def test_distance_from_data_and_peak(action, distance, at_peak):
    assert distance_from_data(action) == pytest.approx(distance)
    assert reaches_peak(action) == at_peak


def test_data_lie_in_two_intervals():
    actions = demonstrations(SingleStateConfig(), torch.Generator().manual_seed(0))[:, 0]
    assert actions.dtype == torch.float64
    low, high = actions[:100], actions[100:]
    assert len(high) == 28
    assert ((low >= -1) & (low <= -0.95)).all() and ((high >= 0.5) & (high <= 1)).all()
    assert low.min() < -0.99 < -0.96 < low.max() and high.min() < 0.6 < 0.9 < high.max()


def linear(weights: list[float], bias: float) -> nn.Linear:
    layer = nn.Linear(len(weights), 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights], dtype=torch.float64))
        layer.bias.fill_(bias)
    return layer


@pytest.mark.parametrize(
    ("method", "critic", "critic_loss", "actor_loss"),
    [
        # mu(r) = 0.5 r: of the rewards 0.6 and 0.36 it is 0.3 and 0.18, of the constant input 1 it is 0.5.
        ("odt", None, None, (0.1**2 + 0.58**2) / 2),
        # Q(a) = 3a + 1: of the actions 0.2 and -0.4 it is 1.6 and -0.2, of 0.5 it is 2.5.
        ("ddpg", linear([3.0], 1.0), (1.0**2 + 0.56**2) / 2, -2.5),
        # Q(1, a) = 2 + 3a + 1: of the actions 3.6 and 1.8, of 0.3 and 0.18 it is 3.9 and 3.54.
        ("odt-ddpg", linear([2.0, 3.0], 1.0), (3.0**2 + 1.44**2) / 2, 0.02 * 0.1732 - 3.72),
    ],
)
def test_losses_by_hand(method, critic, critic_loss, actor_loss):
    learner = Learner(method, SHORT, torch.Generator())
    assert (learner.critic is None) == (critic is None)
    learner.actor, learner.critic = linear([0.5], 0.0), critic
    actions, rewards = column(0.2, -0.4), column(0.6, 0.36)
    assert learner.act().item() == 0.5
    assert learner.actor_loss(actions, rewards).item() == pytest.approx(actor_loss, abs=1e-12)
    if critic is not None:
        assert learner.critic_loss(actions, rewards).item() == pytest.approx(critic_loss, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_update_lowers_what_it_should_and_an_actor_never_trains_the_critic(method):
    learner = Learner(method, SHORT, torch.Generator().manual_seed(0))
    actions = demonstrations(SHORT, torch.Generator().manual_seed(1))
    rewards = reward(actions)
    before = copy.deepcopy(learner)
    learner.update(actions, rewards)
    if learner.critic is not None:
        assert learner.critic_loss(actions, rewards) < before.critic_loss(actions, rewards)
        # The critic's step is that of its own loss: what the actor leaves in its gradients is not used.
        twice, alone = copy.deepcopy(learner), copy.deepcopy(learner)
        twice.critic.zero_grad()
        for one in (twice, alone):
            one.begin_phase()
            one.update(actions, rewards)
        for p, q in zip(twice.critic.parameters(), alone.critic.parameters(), strict=True):
            assert torch.equal(p, q)
    else:
        assert learner.actor_loss(actions, rewards) < before.actor_loss(actions, rewards)


def test_an_unknown_method_and_too_short_a_schedule_are_refused():
    with pytest.raises(ValueError, match="method: expected one of ddpg, odt, odt-ddpg, got 'sac'"):
        run_method("sac", 0, SHORT)
    with pytest.raises(ValueError, match="online_epochs: expected at least published_epochs = 16"):
        SingleStateConfig(online_epochs=15)


def test_same_seed_same_numbers_and_methods_start_alike():
    state = torch.get_rng_state()
    one = run_single_state(3, SHORT)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert run_single_state(3, SHORT) == one
    other = run_single_state(4, SHORT)
    assert len({run["action"][0] for run in one["methods"]}) == 1
    assert other["methods"][0]["action"][0] != one["methods"][0]["action"][0]


def test_schedule(two_seeds):
    config = SingleStateConfig()
    assert config.published_epochs == 16 and sum(2 * n + 4 for n in range(1, 17)) == 336
    for result in two_seeds:
        assert [run["method"] for run in result["methods"]] == list(METHODS)
        for run in result["methods"]:
            assert run["updates"] == [4] * 5 + [2 * n + 4 for n in range(1, config.online_epochs + 1)]
            assert len(run["action"]) == len(run["reward"]) == 1 + len(run["updates"])
            assert all(-1 <= action <= 1 for action in run["action"])
            torch.testing.assert_close(column(*run["reward"]), reward(column(*run["action"])))
            assert (run["critic"] is None) == (run["method"] == "odt")


def test_a_longer_schedule_begins_with_the_shorter_one():
    long = run_method("odt-ddpg", 0, replace(SHORT, online_epochs=4))
    short = run_method("odt-ddpg", 0, SHORT)
    assert long["action"][: len(short["action"])] == short["action"]


def test_with_a_critic_the_peak_is_reached_and_without_it_never(two_seeds):
    found = single_state_report.claims(two_seeds)
    assert len(found) == 4 and all(claim.holds for claim in found), found
    for result in two_seeds:
        ddpg, odt, both = (run["action"] for run in result["methods"])
        assert distance_from_data(odt[-1]) <= 0.05
        assert not any(map(reaches_peak, odt[1:]))
        assert abs(ddpg[-1]) <= 0.05 and abs(both[-1]) <= 0.05


def test_a_critic_learns_the_reward_where_the_policy_went(two_seeds):
    for result in two_seeds:
        for run in result["methods"]:
            if run["critic"] is not None:
                start, end = (run["critic"][moment][50] for moment in ("pretrained", "end"))  # at a = 0
                assert abs(end - 1) < 0.05 < abs(start - 1)


def test_claims_fail_where_they_should(two_seeds):
    swapped = copy.deepcopy(two_seeds)
    for result in swapped:
        names = {"ddpg": "odt", "odt": "ddpg", "odt-ddpg": "odt-ddpg"}
        for run in result["methods"]:
            run["method"] = names[run["method"]]
    assert [claim.holds for claim in single_state_report.claims(swapped)] == [False, False, False, True]


def test_table_and_figure(two_seeds):
    table = single_state_report.tables(two_seeds)["single-state"]
    ddpg, odt, both = table.rows
    assert (ddpg[0], odt[0], both[0]) == tuple(METHODS.values())
    assert ddpg[3] == both[3] == "2 of 2" and odt[2] == odt[3] == "0 of 2" and odt[6] == "never"
    figure = single_state_figures.draw(two_seeds)["single-state"]
    policies, *critics = figure.axes
    assert len(critics) == 2 and len(policies.lines) == 3 + 3 * 2 + 3
