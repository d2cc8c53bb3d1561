"""td3-odt, ddpg-odt and td3: losses by hand, updates against float64 formulas, the delay, one run."""

import copy
import dataclasses
import math

import pytest
import torch
from tiny_critics import average, draws_of, fill, weights
from tiny_sequences import (
    assert_updates_equal,
    config_of,
    constant_learner,
    descend_model,
    in_doubles,
    manual_critic,
    two_steps,
)

from dtag_fast import refine
from dtag_fast.algorithms import create
from dtag_fast.algorithms.lamb import Lamb, clip_
from dtag_fast.algorithms.losses import masked_mse
from dtag_fast.algorithms.td3_odt import Config, DDPGConfig, TD3Config
from dtag_fast.data import Episode, TrajectoryStore
from dtag_fast.training import load_critic, load_policy, train

STILL = {"target_noise": 0.0, "lr": 0.0, "critic_lr": 0.0, "policy_delay": 1, "discount": 0.9}


def numbers(metrics):
    return {name: value.item() for name, value in metrics.items()}


def test_losses_of_two_steps_by_hand():
    """mu = 1/2 always. a' = 1/2: y = (2 + 0.9 min(2, 1), 7); Q_1 = (0.5, 3), Q_2 = (0.5, 1.5).

    Squared errors: 2 * 2.4^2 and 4^2 + 5.5^2. Q_1(s, mu) = (1.5, 2); mu misses by 1/2 twice.
    """
    found = numbers(constant_learner("td3-odt", alpha=0.5, imitation=2.0, **STILL).update(two_steps()))
    expected = {"critic_loss": 28.885, "q": 1.375, "target_q": 4.95, "imitation_loss": 0.25}
    expected |= {"policy_q": 1.75, "q_weight": 0.5, "loss": 2 * 0.25 - 0.5 * 1.75}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_the_scale_of_q_can_be_taken_out():
    """alpha / mean |Q_1(s, mu)| = 0.5 / 1.75."""
    learner = constant_learner("td3-odt", alpha=0.5, normalize_q=True, **STILL)
    found = numbers(learner.update(two_steps()))
    assert found["q_weight"] == pytest.approx(0.5 / 1.75, rel=1e-4)
    assert found["loss"] == pytest.approx(0.25 - 0.5, rel=1e-4)


def test_ddpg_has_one_critic_no_noise_and_no_delay():
    """y = (2 + 0.9 * 2, 7) of the one critic: errors 3.3^2 and 4^2."""
    learner = constant_learner("ddpg-odt", alpha=0.5, lr=0.0, critic_lr=0.0, discount=0.9)
    assert len(learner.critic.members) == 1 and learner.period == 1
    before = learner.generator.get_state()
    found = numbers(learner.update(two_steps()))
    assert found["critic_loss"] == pytest.approx((3.3**2 + 16) / 2, rel=1e-4)
    assert found["loss"] == pytest.approx(0.25 - 0.5 * 1.75, rel=1e-4)
    assert torch.equal(learner.generator.get_state(), before)


def manual_update(learner, nets, optimizers, batch, number, g):
    """Update `number`, counted from 0, in float64."""
    c = learner.config
    noise = torch.randn(batch.windows.actions.shape, generator=g).double()
    batch = in_doubles(batch)
    windows, following, rewards, terminal = batch
    raw, raw_next = (nets["model"].normalizer.inverse(w.states) for w in (windows, following))
    with torch.no_grad():
        smooth = (c.target_noise * noise).clamp(-c.target_noise_clip, c.target_noise_clip)
        action = (nets["target_model"](*following).actions + smooth).clamp(-1, 1)
        value = torch.minimum(*nets["target"](raw_next, action)).squeeze(-1)
        y = rewards + c.discount * (1 - terminal) * value
    losses = {"critic_loss": manual_critic(nets, optimizers["critic"], batch, y)}
    steps_made, rest = divmod(number + 1, c.policy_delay)
    if rest == 0:
        mu = nets["model"](*windows).actions
        q = nets["critic"](raw, mu)[0].squeeze(-1)
        per_step = c.imitation * ((mu - windows.actions) ** 2).mean(dim=-1) - c.alpha * q
        loss = per_step[windows.mask].mean()
        descend_model(optimizers["model"], loss, c, steps_made - 1)
        average(nets["target"], nets["critic"], c.polyak)
        average(nets["target_model"], nets["model"], c.polyak)
        losses["loss"] = loss.item()
    return losses


@pytest.mark.parametrize("name, imitation, alpha", [("td3-odt", 1.0, 0.3), ("td3", 0.0, 0.3)])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_updates_equal_the_formulas(store, name, imitation, alpha, padding):
    """With imitation = 0 they are TD3's."""
    c = config_of(
        name, imitation=imitation, alpha=alpha, polyak=0.1, lr=1e-2, critic_lr=1e-2, padding=padding
    )
    learner = create(name, store, c)
    assert_updates_equal(learner, store, manual_update)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_policy_and_targets_move_in_every_delayed_update_only(store, delay):
    c = config_of("td3-odt", policy_delay=delay, polyak=0.5, lr=1e-2, alpha=0.1)
    learner = create("td3-odt", store, c)
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    moved = {name: [] for name in learner.modules}
    deviations = weights(learner.model.log_std_head)
    for _ in range(6):
        before = {name: weights(module) for name, module in learner.modules.items()}
        learner.update(sampler.sample(g))
        for name, module in learner.modules.items():
            moved[name].append(not torch.equal(before[name], weights(module)))
    due = [number % delay == 0 for number in range(1, 7)]
    assert moved == {"critic": [True] * 6, "model": due, "target": due, "target_model": due}
    assert torch.equal(weights(learner.model.log_std_head), deviations)  # no part of it


def test_the_warm_up_is_of_steps_of_the_policy(store):
    learner = create("td3-odt", store, config_of("td3-odt", warmup=4, lr=1e-2, policy_delay=2))
    sampler, g, rates = learner.make_sampler(store), torch.Generator().manual_seed(0), []
    for _ in range(10):
        learner.update(sampler.sample(g))
        rates.append(learner.optimizers["model"].param_groups[0]["lr"])
    assert rates[1::2] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])


def test_metrics_of_the_policy_stand_until_its_next_update(store):
    learner = create("td3-odt", store, config_of("td3-odt", lr=1e-2))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    losses = [learner.update(sampler.sample(g))["loss"].item() for _ in range(5)]
    assert losses[0] == 0.0 and losses[1] == losses[2] != losses[3] == losses[4]


def test_without_alpha_the_policy_imitates_alone_to_the_bit(store):
    """Even beside a critic that has no numbers; and the run of dropout is the same."""
    c = config_of("td3-odt", alpha=0.0, target_noise=0.0, policy_delay=1, dropout=0.2, lr=1e-2)
    learner = create("td3-odt", store, c)
    alone = copy.deepcopy(learner.model)
    parameters = [p for p in alone.parameters() if p.requires_grad]
    optimizer = Lamb(parameters, lr=c.lr, weight_decay=c.weight_decay, eps=c.eps, betas=c.betas)
    for p in learner.critic.parameters():
        p.data.fill_(torch.nan)
    sampler, g, own = learner.make_sampler(store), torch.Generator().manual_seed(0), draws_of(learner)
    for n in range(3):
        batch = sampler.sample(g)
        windows = batch.windows
        learner.update(batch)
        unit = alone.train().distribution(*windows, generator=own).mean.tanh()
        masked_mse(unit, alone.action_bounds.inverse(windows.actions), windows.mask).backward()
        clip_([p.grad for p in parameters], c.max_grad_norm)
        optimizer.param_groups[0]["lr"] = c.lr * min((n + 1) / c.warmup, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(weights(learner.model), weights(alone)) and weights(alone).isfinite().all()


def test_training_goes_on_with_another_alpha(store):
    """As when an offline run is taken online: all state fits."""
    offline, online = (create("td3-odt", store, config_of("td3-odt", alpha=a, lr=1e-2)) for a in (0.0, 0.1))
    sampler, g = offline.make_sampler(store), torch.Generator().manual_seed(0)
    for _ in range(4):
        metrics = offline.update(sampler.sample(g))
    assert "policy_q" not in metrics
    for name, network in online.exports.items():
        network.load_state_dict(offline.exports[name].state_dict())
    online.load_state_dict(copy.deepcopy(offline.state_dict()))
    metrics = [online.update(sampler.sample(g)) for _ in range(2)]
    assert online.updates_done == 6 and metrics[0]["loss"] != metrics[1]["loss"]
    assert metrics[0]["policy_q"] == 0 != metrics[1]["policy_q"]


def test_each_step_moves_its_own_network(store):
    still = {"policy_delay": 1, "alpha": 0.5, "polyak": 1e-9}
    for rates, moved in (
        ({"lr": 1e-2, "critic_lr": 0.0}, "model"),
        ({"lr": 0.0, "critic_lr": 1e-2}, "critic"),
    ):
        learner = create("td3-odt", store, config_of("td3-odt", **still, **rates))
        before = {name: weights(learner.modules[name]) for name in ("model", "critic")}
        learner.update(learner.make_sampler(store).sample(torch.Generator().manual_seed(0)))
        changed = [
            name for name, was in before.items() if not torch.equal(was, weights(learner.modules[name]))
        ]
        assert changed == [moved]


def test_target_actions_are_noisy_within_the_clip_and_the_bounds():
    """Q' = a: v shows the action that was evaluated. mu' = 0.8."""
    learner = constant_learner("td3-odt", math.atanh(0.8), target_noise=0.2, target_noise_clip=0.3)
    for member in learner.target.members:
        fill(member[0], [[0.0, 1.0]], [0.0])
    following = type(two_steps().following)(*(x.expand(1500, *x.shape[1:]) for x in two_steps().following))
    actions = learner._next_values(following)
    assert actions.min().item() == pytest.approx(0.5, abs=1e-5)
    assert actions.max().item() == pytest.approx(1.0, abs=1e-5)
    inside = (actions > 0.55) & (actions < 0.95)  # between them it is normal: 1.25 and 0.75 deviations
    assert inside.double().mean().item() == pytest.approx(0.6677, abs=0.03)


def test_targets_do_not_hang_on_dropout(store):
    learner = create("td3-odt", store, config_of("td3-odt", dropout=0.5, target_noise=0.0, policy_delay=1))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    learner.update(batch)
    assert learner.model.training and not learner.target_model.training
    assert torch.equal(*(learner._targets(batch) for _ in range(2)))


def test_losses_do_not_depend_on_the_units_of_actions(store):
    """Bounds of 10 times the width; windows of one step, as past actions are tokens."""
    episodes = [store.episode(i) for i in range(store.num_episodes)]
    wide = TrajectoryStore.from_episodes(
        [Episode(e.observations, 10 * e.actions, *e[2:]) for e in episodes],
        {"action_low": [-10.0, -10.0], "action_high": [10.0, 10.0]},
    )
    c = config_of("td3-odt", context_len=1, eval_context_len=1, policy_delay=1, alpha=0.1, critic_lr=0.0)
    learners = [create("td3-odt", data, c) for data in (store, wide)]
    with torch.no_grad():
        for network in (learners[1].critic, learners[1].target):
            for member in network.members:
                member[0].weight[:, 4:] /= 10
    metrics = [
        numbers(learner.update(learner.make_sampler(data).sample(torch.Generator().manual_seed(0))))
        for learner, data in zip(learners, (store, wide), strict=True)
    ]
    for name in ("critic_loss", "imitation_loss", "policy_q", "loss"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-4), name


def test_half_precision_is_of_the_targets_forward_alone(store):
    learners = [
        create("td3-odt", store, config_of("td3-odt", target_precision=p, target_noise=0.0, discount=1.0))
        for p in ("fp32", "bf16")
    ]
    batch = learners[0].make_sampler(store).sample(torch.Generator().manual_seed(0))
    full, half = (learner._targets(batch) for learner in learners)
    assert full.dtype == half.dtype == torch.float32 and not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
    windows = batch.windows
    assert torch.equal(*(learner._policy_parts(windows)["loss"] for learner in learners))


@pytest.mark.parametrize("name", ["td3-odt", "ddpg-odt", "td3"])
def test_one_run_holds_a_policy_and_a_critic_that_refine_climbs(store, tmp_path, name):
    c = config_of(name, reward_scale=2.0, critic_reward_scale=0.01, discount=0.9)
    run = train(name, store, config=c, out=tmp_path / "run", updates=2)
    policy, critic = load_policy(run), load_critic(run)
    assert policy.info.algorithm == name and policy.info.kind == "policy" and policy.info.context_len == 2
    assert critic.info.discount == 0.9
    assert (policy.info.reward_scale, critic.info.reward_scale) == (2.0, pytest.approx(0.02))
    states, actions = torch.from_numpy(store.observations[:5].copy()), torch.zeros(5, 2)
    better = refine(critic.critic, states, actions, steps=5, lr=0.05)
    values = [torch.stack(critic.critic(states, a)).amin(dim=0).mean() for a in (actions, better)]
    assert values[1] > values[0]


def test_a_critic_without_numbers_is_noticed(store, tmp_path):
    with pytest.raises(FloatingPointError, match=r"critic_loss became (nan|inf): training diverged"):
        config = config_of("td3-odt", critic_lr=1e30)
        train("td3-odt", store, config=config, out=tmp_path / "run", updates=10, log_every=5)


def test_it_explores_with_noise_and_fills_its_own_buffer(store):
    learner = create("td3-odt", store, config_of("td3-odt", paper_timeouts=True, critic_reward_scale=0.5))
    assert learner.exploration == "noise" and learner.kind == "policy"
    buffer = learner.make_replay(2)
    for i in range(3):
        buffer.add(store.episode(i))
    assert buffer.num_episodes == 2 and buffer.num_steps == 7 + 2
    learner.update(buffer.sample(torch.Generator().manual_seed(0)))
    episodes, starts = torch.tensor([0]), torch.tensor([3])
    batch = buffer.windows(episodes, starts)  # the last four steps of an episode that was cut
    assert batch.terminations.tolist() == [[0.0, 0.0, 0.0, 1.0]]
    assert batch.rewards[0].tolist() == pytest.approx((0.5 * store.episode(1).rewards[3:]).tolist())


def test_the_critic_learns_and_pulls_the_policy(store):
    """200 updates: the critic's error falls, and actions are worth more with the critic than without."""
    q = []
    for alpha in (0.0, 2.0):
        c = config_of("td3-odt", alpha=alpha, lr=2e-2, warmup=10, critic_lr=3e-3, discount=0.9, polyak=0.05)
        learner = create("td3-odt", store, c)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        test_batch = sampler.sample(torch.Generator().manual_seed(1))
        before = learner.validate(test_batch)
        for _ in range(200):
            learner.update(sampler.sample(g))
        after = learner.validate(test_batch)
        assert after["td_error"] < 0.5 * before["td_error"]
        if alpha == 0:
            assert after["action_error"] < 0.5 * before["action_error"]
        windows = test_batch.windows
        q.append(learner._q(learner.critic, windows, learner.model(*windows).actions)[0][windows.mask].mean())
    assert q[1] > q[0] + 0.1


def test_validation_draws_from_a_stream_of_its_own_and_changes_nothing(store):
    learner = create("td3-odt", store, config_of("td3-odt"))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    state, first = learner.generator.get_state(), numbers(learner.validate(batch))
    assert torch.equal(learner.generator.get_state(), state) and numbers(learner.validate(batch)) == first


@pytest.mark.parametrize(
    "options, message",
    [
        ({"policy_delay": 0}, "policy_delay: expected a positive integer, got 0"),
        ({"critic_members": 0}, "critic_members: expected a positive integer, got 0"),
        ({"alpha": -1.0}, "alpha: expected a number of at least 0, got -1.0"),
        ({"imitation": 0.0}, "imitation: expected a positive number where alpha = 0, got 0"),
        ({"target_noise": float("nan")}, "target_noise: expected a number of at least 0, got nan"),
        ({"critic_reward_scale": 0.0}, "critic_reward_scale: expected a positive number, got 0"),
        ({"polyak": 0.0}, r"polyak: expected a number in \(0, 1\], got 0.0"),
        ({"discount": 1.5}, r"discount: expected a number in \[0, 1\], got 1.5"),
        ({"eval_context_len": 21}, "eval_context_len: expected 1 to context_len = 20"),
        ({"target_precision": "fp16"}, "target_precision: expected one of auto, fp32, bf16, got 'fp16'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_an_embedding_of_timesteps_needs_a_row_for_the_last_observation(store):
    c = config_of("td3-odt", max_timestep=50, timestep_embedding=True)
    with pytest.raises(ValueError, match="max_timestep: expected at least 51, the most observations"):
        create("td3-odt", store, c)
    create("td3-odt", store, dataclasses.replace(c, max_timestep=51))


def test_the_ablations_differ_from_td3_odt_in_their_defaults():
    differ = {
        config: {
            field.name: getattr(config(), field.name)
            for field in dataclasses.fields(config)
            if getattr(config(), field.name) != getattr(Config(), field.name)
        }
        for config in (DDPGConfig, TD3Config)
    }
    assert differ[DDPGConfig] == {"critic_members": 1, "policy_delay": 1, "target_noise": 0.0}
    assert differ[TD3Config] == {"imitation": 0.0, "alpha": 0.1}
