"""What holds for every critic: it learns, takes the shared options, leaves a critic and a policy behind."""

import dataclasses

import numpy as np
import pytest
import torch

from dtag_fast import refine
from dtag_fast.algorithms import ALGORITHMS, create
from dtag_fast.algorithms.base import DataSpec
from dtag_fast.algorithms.critics import CriticAlgorithm, reward_affine
from dtag_fast.data import Episode, TrajectoryStore, transitions
from dtag_fast.training import train
from dtag_fast.training.checkpoint import load_critic, load_policy

SMALL = {
    "iql": {"policy": True},
    "td3bc": {},
    "awac": {},
    "cql": {"policy_hidden": (16,), "n_actions": 3, "policy_lr": 1e-3, "penalty": 0.01},
}
every_critic = pytest.mark.parametrize("algorithm", SMALL)


def config_of(algorithm, **options):
    shared = {"hidden": (16, 16), "batch_size": 32, "reward_transform": "raw"}
    return ALGORITHMS[algorithm].config(**shared | SMALL[algorithm] | options)


def test_these_are_all_the_critics():
    critics = {name for name, entry in ALGORITHMS.items() if issubclass(entry.algorithm, CriticAlgorithm)}
    assert critics == set(SMALL) == {n for n, e in ALGORITHMS.items() if e.algorithm.kind == "critic"}


def td_error(learner, table, discount):
    """Mean squared error of min_i Q on all the data, bootstrapped by the target and the run's own policy."""
    with torch.no_grad():
        if hasattr(learner, "value"):
            following = learner.value(table.next_states)
        else:
            following = torch.minimum(
                *learner.target(table.next_states, learner.policy.act(table.next_states))
            )
        y = table.rewards + discount * (1 - table.terminations) * following
        return (torch.minimum(*learner.critic(table.states, table.actions)) - y).square().mean().item()


@every_critic
def test_300_updates_reduce_the_td_error(store, algorithm):
    config = config_of(algorithm, hidden=(64, 64), batch_size=64, lr=3e-3, discount=0.9)
    learner, table = create(algorithm, store, config), transitions(store)
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    before = td_error(learner, table, 0.9)
    for _ in range(300):
        learner.update(sampler.sample(g))
    assert td_error(learner, table, 0.9) < 0.2 * before


@every_critic
def test_validation_tells_errors_from_the_spread_of_their_targets(store, algorithm):
    """Without a future the targets are the rewards."""
    learner = create(algorithm, store, config_of(algorithm, discount=0.0, members=3))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    found = learner.validate(batch)
    assert found["target_variance"].item() == pytest.approx(batch.rewards.numpy().var(), rel=1e-5)
    errors = [(q - batch.rewards).square().mean() for q in learner.critic(batch.states, batch.actions)]
    assert found["td_error"].item() == pytest.approx(sum(errors).item(), rel=1e-5)


@every_critic
@pytest.mark.parametrize(
    "options",
    [{"members": 1}, {"members": 4, "layer_norm": True}, {"activation": "gelu", "hidden": (8, 8, 8)}],
)
def test_architecture_options(store, algorithm, options):
    config = config_of(algorithm, **options)
    learner = create(algorithm, store, config)
    assert learner.critic.config["members"] == len(learner.critic.members) == config.members
    assert learner.critic.config["hidden"] == list(config.hidden)
    assert learner.policy.config["activation"] == config.activation
    norms = [m for m in learner.critic.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == (config.members * len(config.hidden) if config.layer_norm else 0)
    before = [member[0].weight.clone() for member in learner.critic.members]
    for _ in range(2):
        learner.update(learner.make_sampler(store).sample(torch.Generator()))
    for member, weight in zip(learner.critic.members, before, strict=True):
        assert not torch.equal(member[0].weight, weight)


@every_critic
def test_targets_are_those_of_n_steps(store, algorithm):
    learner = create(algorithm, store, config_of(algorithm, n_step=4, discount=0.8))
    table, expected = learner.make_sampler(store).transitions, transitions(store, n_step=4, discount=0.8)
    assert all(torch.equal(a, b) for a, b in zip(table, expected, strict=True))
    assert table.discounts.min().item() == pytest.approx(0.8**4)


def rewarded_only_at_the_end(length=6):
    """One-hot states 0, 1, .., one action each, reward 1 on the last step, which terminates."""
    states = np.eye(length + 1)
    last = np.arange(length) == length - 1
    episode = Episode(states, np.zeros((length, 1)), last.astype(float), last, np.zeros(length, bool))
    return TrajectoryStore.from_episodes([episode] * 3, {"action_low": [-1.0], "action_high": [1.0]})


@every_critic
def test_six_steps_carry_a_reward_to_the_start_without_a_bootstrap(algorithm):
    """With n_step = 6 every target is discount^j itself, whatever the target network says."""
    options = {"discount": 0.9, "n_step": 6, "lr": 1e-2, "normalize_states": False}
    options |= {"penalty": 0.0} if algorithm == "cql" else {}
    data = rewarded_only_at_the_end()
    learner = create(algorithm, data, config_of(algorithm, **options))
    with torch.no_grad():
        for p in learner.target.parameters():
            p.fill_(100.0)
    sampler, g = learner.make_sampler(data), torch.Generator().manual_seed(0)
    for _ in range(200):
        learner.update(sampler.sample(g))
    expected = [0.9**j for j in (5, 4, 3, 2, 1, 0)]
    for q in learner.critic(torch.eye(7)[:6], torch.zeros(6, 1)):
        assert q[:, 0].tolist() == pytest.approx(expected, abs=0.05)


@every_critic
def test_states_are_standardised_inside_the_networks(store, algorithm):
    mean, std = store.state_statistics()
    for normalize in (True, False):
        learner = create(algorithm, store, config_of(algorithm, normalize_states=normalize))
        for network in (learner.critic, learner.target, learner.policy):
            assert torch.equal(network.normalizer.mean, torch.tensor(mean) if normalize else torch.zeros(4))
            assert torch.equal(network.normalizer.std, torch.tensor(std) if normalize else torch.ones(4))


@pytest.mark.parametrize(
    "name, expected",
    [("raw", (1.0, 0.0)), ("minus_one", (1.0, -1.0)), ("plus_minus_five", (10.0, -5.0))],
)
def test_fixed_reward_transforms(store, name, expected):
    assert reward_affine(name, DataSpec.of(store)) == expected


def test_an_unknown_reward_transform_is_refused(store):
    with pytest.raises(
        ValueError, match=r"reward_transform: expected return_range, raw, minus_one, .* 'log'"
    ):
        reward_affine("log", DataSpec.of(store))


@every_critic
def test_a_run_gives_a_critic_and_a_policy(store, algorithm, tmp_path):
    """Saved, loaded, the same bits; the critic is climbed by refine, the policy stays inside the bounds."""
    config = config_of(algorithm, reward_transform="plus_minus_five", discount=0.8)
    run = train(algorithm, store, out=tmp_path / "run", updates=4, config=config)
    learner = create(algorithm, store, config)
    critic, policy = load_critic(run), load_policy(run)
    info = critic.info
    assert (info.kind, info.reward_scale, info.reward_shift, info.discount) == ("critic", 10.0, -5.0, 0.8)
    states = torch.from_numpy(np.array(store.observations[:20]))
    actions = policy.model.act(states)
    assert actions.shape == (20, 2) and actions.abs().max() <= 1
    assert type(policy.model) is type(learner.policy)
    better = refine(critic.critic, states, actions, steps=5, lr=0.05, backend="torch")
    gain = torch.minimum(*critic.critic(states, better)) - torch.minimum(*critic.critic(states, actions))
    assert gain.min() >= -1e-6 and gain.max() > 0
    resumed = train(algorithm, store, out=tmp_path / "run", updates=4, config=config, resume=True)
    assert torch.equal(load_policy(resumed).model.act(states), actions)


@every_critic
def test_same_seed_same_bits_whatever_the_global_generator(store, algorithm):
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        learner = create(algorithm, store, config_of(algorithm), seed=7)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        for _ in range(4):
            learner.update(sampler.sample(g))
        ends.append(
            torch.cat([p.detach().flatten() for m in learner.modules.values() for p in m.parameters()])
        )
    assert torch.equal(*ends)
    other = create(algorithm, store, dataclasses.replace(config_of(algorithm), n_step=2), seed=8)
    assert not torch.equal(other.critic.members[0][0].weight, learner.critic.members[0][0].weight)
