"""TD3+BC: losses by hand, updates against float64 formulas, the delay, the target's noise."""

import dataclasses
import math

import pytest
import torch
from tiny_critics import (
    BATCH,
    assert_nothing_left,
    assert_same_networks,
    average,
    descend,
    doubles,
    draws_of,
    fill,
    linear_learner,
    weights,
)

from dtag_fast.algorithms import create
from dtag_fast.algorithms.td3bc import Config
from dtag_fast.data import Episode, TrajectoryStore

SMALL = Config(hidden=(16, 16), batch_size=32)
TINY = Config(hidden=(), normalize_states=False, target_noise=0.0, lr=0.0, policy_delay=1)


def test_losses_of_two_transitions_by_hand():
    """pi(s) = tanh(s / 2), so a' = tanh 1 and 0; min_i Q' = Q_2' there.

    y = (1 + 0.9 (0.761594 + 0.5), 2); Q_1 = (1, 1), Q_2 = (1, 0): mean of (2 * 1.135435^2, 1 + 4).
    Q_1(s, pi(s)) = (0, 3.523188), so lambda = 2.5 / 1.761594; imitation: mean of (0.5^2, 1.261594^2).
    """
    learner = linear_learner("td3bc", TINY)
    for policy in (learner.policy, learner.target_policy):
        fill(policy.action_head, [[0.5]], [0.0])
    metrics = learner.update(BATCH)
    assert metrics["critic_loss"].item() == pytest.approx(3.7892120496, rel=1e-6)
    assert metrics["q"].item() == pytest.approx(0.75)
    assert metrics["q_weight"].item() == pytest.approx(1.4191691040, rel=1e-6)
    assert metrics["imitation_loss"].item() == pytest.approx(0.9208099072, rel=1e-6)
    assert metrics["policy_loss"].item() == pytest.approx(-1.5791900928, rel=1e-6)


def manual_update(nets, adams, batch, c, number, g):
    """Update `number`, counted from 1, in float64; nets are float64 copies."""
    critic, target, policy, target_policy = (nets[k] for k in ("critic", "target", "model", "target_policy"))
    noise = torch.randn(batch.actions.shape, generator=g).double()
    s, a, r, s2, done, discount = (x.double() for x in batch)
    smooth = (c.target_noise * noise).clamp(-c.target_noise_clip, c.target_noise_clip)
    a2 = (target_policy(s2) + smooth).clamp(-1, 1)
    y = (r + discount * (1 - done) * torch.minimum(*target(s2, a2))).detach()
    q1, q2 = critic(s, a)
    losses = {"critic_loss": descend(adams["critic"], ((q1 - y) ** 2).mean() + ((q2 - y) ** 2).mean())}
    if number % c.policy_delay == 0:
        own = policy(s)
        q = critic(s, own)[0]
        weight = c.alpha / q.abs().mean().item()
        loss = -weight * q.mean() + ((own - a) ** 2).mean()
        losses["policy_loss"] = descend(adams["model"], loss)
        average(target, critic, c.polyak)
        average(target_policy, policy, c.polyak)
    return losses


def test_updates_equal_the_formulas(store):
    config = dataclasses.replace(SMALL, polyak=0.1, lr=1e-2, target_noise=0.4)
    learner = create("td3bc", store, config)
    nets, adams = doubles(learner, {"critic": 1e-2, "model": 1e-2})
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    for number in range(1, 6):
        batch, draws = sampler.sample(g), draws_of(learner)
        losses = manual_update(nets, adams, batch, config, number, draws)
        metrics = learner.update(batch)
        for name, value in losses.items():
            assert metrics[name].item() == pytest.approx(value, rel=1e-3), (number, name)
        assert_nothing_left(learner)
    assert_same_networks(learner, nets)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_policy_and_targets_move_in_every_delayed_update_only(store, delay):
    learner = create("td3bc", store, dataclasses.replace(SMALL, policy_delay=delay, polyak=0.5, lr=1e-2))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    moved = {name: [] for name in learner.modules}
    for _ in range(6):
        before = {name: weights(module) for name, module in learner.modules.items()}
        learner.update(sampler.sample(g))
        for name, module in learner.modules.items():
            moved[name].append(not torch.equal(before[name], weights(module)))
    due = [number % delay == 0 for number in range(1, 7)]
    assert moved == {"critic": [True] * 6, "model": due, "target": due, "target_policy": due}


def test_metrics_of_the_policy_stand_until_its_next_update(store):
    learner = create("td3bc", store, SMALL)
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    losses = [learner.update(sampler.sample(g))["policy_loss"].item() for _ in range(5)]
    assert losses[0] == 0.0 and losses[1] == losses[2] != losses[3] == losses[4]


def test_target_actions_are_noisy_within_the_clip_and_the_bounds():
    """Q' = a: the target is r + 0.9 a', so it shows the action that was evaluated."""
    learner = linear_learner("td3bc", dataclasses.replace(TINY, target_noise=0.2, target_noise_clip=0.3))
    for member in learner.target.members:
        fill(member[0], [[0.0, 1.0]], [0.0])
    fill(learner.target_policy.action_head, [[0.0]], [math.atanh(0.8)])
    batch = type(BATCH)(*(column[:1].expand(4000, 1) for column in BATCH))
    actions = (learner._targets(batch) - 1.0) / 0.9
    assert actions.min().item() == pytest.approx(0.5, abs=1e-5)  # 0.8 - clip
    assert actions.max().item() == pytest.approx(1.0, abs=1e-5)  # the bound, below 0.8 + clip
    inside = (actions > 0.55) & (actions < 0.95)  # between them it is normal: 1.25 and 0.75 deviations
    assert inside.double().mean().item() == pytest.approx(0.6677, abs=0.03)


def test_losses_do_not_depend_on_the_units_of_actions(store):
    """Bounds of 10 times the width, actions and the critic's weights on them scaled accordingly."""
    episodes = [store.episode(i) for i in range(store.num_episodes)]
    wide = TrajectoryStore.from_episodes(
        [Episode(e.observations, 10 * e.actions, *e[2:]) for e in episodes],
        {"action_low": [-10.0, -10.0], "action_high": [10.0, 10.0]},
    )
    config = dataclasses.replace(SMALL, policy_delay=1)
    learners = [create("td3bc", data, config) for data in (store, wide)]
    with torch.no_grad():
        for network in (learners[1].critic, learners[1].target):
            for member in network.members:
                member[0].weight[:, 4:] /= 10
    metrics = [
        learner.update(learner.make_sampler(data).sample(torch.Generator().manual_seed(0)))
        for learner, data in zip(learners, (store, wide), strict=True)
    ]
    for name in ("critic_loss", "imitation_loss"):  # Q is the same before its step, pi throughout
        assert metrics[1][name].item() == pytest.approx(metrics[0][name].item(), rel=1e-4), name


@pytest.mark.parametrize(
    "options, message",
    [
        ({"policy_delay": 0}, "policy_delay: expected a positive integer, got 0"),
        ({"alpha": -1.0}, "alpha: expected a number of at least 0, got -1.0"),
        ({"target_noise": float("nan")}, "target_noise: expected"),
        ({"n_step": 0}, "n_step: expected a positive integer, got 0"),
        ({"polyak": 0.0}, r"polyak: expected a number in \(0, 1\], got 0.0"),
        ({"discount": 1.5}, "discount: expected"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
