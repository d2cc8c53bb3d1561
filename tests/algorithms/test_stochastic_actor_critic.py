"""What sac-odt, awac-odt and iql-odt share: ODT where alpha is 0, actions at the bounds, runs."""

import pytest
import torch
from tiny_critics import assert_nothing_left, weights
from tiny_sequences import config_of, constant_learner, two_steps

from dtag_fast import refine
from dtag_fast.algorithms import create
from dtag_fast.data import TransitionWindows
from dtag_fast.training import load_critic, load_policy, train

NAMES = ("sac-odt", "awac-odt", "iql-odt")
every_algorithm = pytest.mark.parametrize("name", NAMES)


@every_algorithm
def test_without_alpha_the_policy_is_odts_to_the_bit(store, name):
    """From the same random numbers: the critic draws its own after them. It may even have no numbers."""
    options = {"dropout": 0.2, "lr": 1e-2}
    learner, alone = (create(n, store, config_of(n, **options), seed=3) for n in (name, "odt"))
    for p in learner.critic.parameters():
        p.data.fill_(torch.nan)
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    for _ in range(4):
        batch = sampler.sample(g)
        alone.generator.set_state(learner.generator.get_state())
        metrics, expected = learner.update(batch), alone.update(batch.windows)
        assert {key: metrics[key].item() for key in expected} == {k: v.item() for k, v in expected.items()}
    assert torch.equal(weights(learner.model), weights(alone.model))
    assert torch.equal(learner.log_temperature, alone.log_temperature)


@every_algorithm
@pytest.mark.parametrize("log_std", [-4.999, 1.999])
@pytest.mark.parametrize("mean", [-40.0, 0.0, 40.0])
def test_actions_on_the_bounds_under_extreme_policies_stay_finite(name, mean, log_std):
    learner = constant_learner(name, mean, log_std, alpha=0.1, lr=1e-3)
    batch = two_steps()
    actions = torch.tensor([[[1.0], [-1.0], [1.0]]])
    windows = [w._replace(actions=actions) for w in batch[:2]]
    for _ in range(2):
        metrics = learner.update(TransitionWindows(*windows, *batch[2:]))
        assert all(value.isfinite() for value in metrics.values()), metrics
    for module in learner.modules.values():
        assert weights(module).isfinite().all()


@every_algorithm
def test_each_step_moves_its_own_network(store, name):
    """Without a learning rate of its own a network stays, whatever the others' losses say of it."""
    for rates, moved in (
        ({"lr": 1e-2, "critic_lr": 0.0}, {"model"}),
        ({"lr": 0.0, "critic_lr": 1e-2}, {"critic", "value"}),
    ):
        learner = create(name, store, config_of(name, alpha=0.5, **rates))
        trained = [key for key in learner.optimizers if key in learner.modules]
        before = {key: weights(learner.modules[key]) for key in trained}
        learner.update(learner.make_sampler(store).sample(torch.Generator().manual_seed(0)))
        changed = {key for key, was in before.items() if not torch.equal(was, weights(learner.modules[key]))}
        assert changed == moved & set(trained)
        assert_nothing_left(learner)


@every_algorithm
def test_targets_follow_in_every_update(store, name):
    learner = create(name, store, config_of(name, polyak=0.25, lr=1e-2, critic_lr=1e-2, alpha=0.1))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    pairs = {"target": "critic"} | ({} if name == "iql-odt" else {"target_model": "model"})
    assert set(learner.modules) == set(pairs) | set(learner.exports)
    for _ in range(3):
        before = {target: weights(learner.modules[target]) for target in pairs}
        learner.update(sampler.sample(g))
        for target, online in pairs.items():
            expected = 0.75 * before[target] + 0.25 * weights(learner.modules[online])
            torch.testing.assert_close(weights(learner.modules[target]), expected, rtol=1e-5, atol=1e-7)
            assert not torch.equal(before[target], expected)


@every_algorithm
def test_targets_do_not_hang_on_dropout(store, name):
    learner = create(name, store, config_of(name, dropout=0.5))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    learner.update(batch)
    assert learner.model.training
    found = []
    for _ in range(2):
        learner.generator.manual_seed(5)  # of the actions drawn
        found.append(learner._targets(batch, *learner._given()))
    assert torch.equal(*found)


@every_algorithm
def test_what_padding_holds_is_not_learned_from(store, name):
    config = config_of(name, alpha=0.5, critic_lr=1e-2, lr=1e-2)
    learner, twin = (create(name, store, config) for _ in range(2))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(1))
    hidden = ~batch.windows.mask
    assert hidden.any()
    rewards, ends = batch.rewards.clone(), batch.terminations.clone()
    rewards[hidden], ends[hidden] = 1e3, 1.0
    metrics = learner.update(batch), twin.update(batch._replace(rewards=rewards, terminations=ends))
    assert {k: v.item() for k, v in metrics[0].items()} == {k: v.item() for k, v in metrics[1].items()}


@every_algorithm
def test_one_run_holds_a_policy_and_a_critic_that_refine_climbs(store, tmp_path, name):
    config = config_of(name, critic_reward_scale=0.01, discount=0.9, alpha=0.1)
    run = train(name, store, config=config, out=tmp_path / "run", updates=2)
    policy, critic = load_policy(run), load_critic(run)
    assert policy.info.algorithm == name and policy.info.kind == "policy"
    assert critic.info.discount == 0.9 and critic.info.reward_scale == 0.01
    states, actions = torch.from_numpy(store.observations[:5].copy()), torch.zeros(5, 2)
    better = refine(critic.critic, states, actions, steps=5, lr=0.05)
    values = [torch.stack(critic.critic(states, a)).amin(dim=0).mean() for a in (actions, better)]
    assert values[1] > values[0]


@pytest.mark.parametrize("name", ["odt", *NAMES])
def test_it_explores_with_its_own_draws_and_fills_its_own_buffer(store, name):
    learner = create(name, store, config_of(name))
    assert learner.exploration == "sample"
    buffer = learner.make_replay(None)
    buffer.add_all(store.episode(i) for i in range(store.num_episodes))
    sampled = buffer.sample(torch.Generator().manual_seed(0))
    expected = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    for ours, theirs in zip(*map(torch.utils._pytree.tree_leaves, (sampled, expected)), strict=True):
        assert torch.equal(ours, theirs)
    learner.update(sampled)


@every_algorithm
def test_200_updates_learn_actions_and_values(store, name):
    """odt's settings of a fast training; targets of the critic move while it is fitted to them."""
    options = {"lr": 2e-2, "warmup": 10, "critic_lr": 3e-3, "discount": 0.9, "polyak": 0.05, "alpha": 0.05}
    learner = create(name, store, config_of(name, **options))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    test_batch = sampler.sample(torch.Generator().manual_seed(1))
    before = learner.validate(test_batch)
    for _ in range(200):
        learner.update(sampler.sample(g))
    after = learner.validate(test_batch)
    assert after["td_error"] < 0.5 * before["td_error"]
    assert after["action_error"] < 0.5 * before["action_error"] and after["nll"] < before["nll"] - 1


@every_algorithm
def test_validation_draws_from_a_stream_of_its_own(store, name):
    learner = create(name, store, config_of(name))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    state = learner.generator.get_state()
    first, second = ({k: v.item() for k, v in learner.validate(batch).items()} for _ in range(2))
    assert first == second and torch.equal(learner.generator.get_state(), state)
