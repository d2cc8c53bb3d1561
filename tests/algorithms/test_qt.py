"""QT: targets and losses by hand, updates against float64 formulas, the target policy's schedule, one run."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_critics import assert_nothing_left, average, fill, weights

from dtag_fast import refine
from dtag_fast.algorithms import create, parallel
from dtag_fast.algorithms.qt import Config
from dtag_fast.data import Episode, RewardWindows, TrajectoryStore, Windows
from dtag_fast.training import train
from dtag_fast.training.checkpoint import load_critic, load_policy

_SEQUENCE = {"context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2, "max_timestep": 64, "batch_size": 16}
SMALL = Config(**_SEQUENCE, critic_hidden=(16, 16), dropout=0.0)


def constant_learner(action=0.5, **options):
    """One state and one action, standardisation the identity, every policy says `action`.

    Q_1 = s + 2a, Q_2 = a + 1/2.
    """
    states = np.array([[1.0], [-1.0], [0.0]])
    episode = Episode(states, np.zeros((2, 1)), np.ones(2), np.array([False, True]), np.zeros(2, bool))
    store = TrajectoryStore.from_episodes([episode], {"action_low": [-1.0], "action_high": [1.0]})
    learner = create("qt", store, dataclasses.replace(SMALL, critic_hidden=(), **options))
    for model in (learner.model, learner.target_model):
        fill(model.action_head, [[0.0] * 16], [math.atanh(action)])
    for critic in (learner.critic, learner.target):
        fill(critic.members[0][0], [[1.0, 2.0]], [0.0])
        fill(critic.members[1][0], [[0.0, 1.0]], [0.5])
    return learner


def window_batch(states, actions, rewards, terminations, mask):
    """Lists (B, K); returns-to-go and timesteps are 0."""
    states, actions, rewards, terminations = map(torch.tensor, (states, actions, rewards, terminations))
    mask = torch.tensor(mask, dtype=torch.bool)
    zeros = torch.zeros_like(states)
    windows = Windows(states[..., None], actions[..., None], zeros[..., None], zeros.long(), mask)
    return RewardWindows(windows, rewards, terminations)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_targets_at_the_ends_of_windows_and_episodes(padding):
    """gamma = 1/2; a' = 1/2, so that v = min(s + 1, 1) at the last state s."""
    learner = constant_learner(padding=padding, discount=0.5)
    rewards = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0], [7.0], [8.0], [1.0, 2.0, 3.0, 4.0]]
    last_states = [0.25, 3.0, 3.0, 3.0, -2.0]
    terminal_steps = [None, 1, None, 0, 1]
    expected = [
        [2.875, 3.75, 3.5, None],  # cut by the window: v = 1
        [8.0, 6.0],  # the episode terminates: no v, and the last target is its reward
        [None],  # cut after one step: nothing to learn
        [8.0],
        [2.0, 2.0, 2.5, None],  # nothing is carried over a termination within the window; v = -1
    ]

    def padded(row, filler=0.0):
        fill_up = [filler] * (4 - len(row))
        return fill_up + row if padding == "left" else row + fill_up

    batch = window_batch(
        [padded([9.0] * (len(r) - 1) + [s], 50.0) for r, s in zip(rewards, last_states, strict=True)],
        [padded([0.3] * len(r)) for r in rewards],
        [padded(r) for r in rewards],
        [
            padded([float(i == t) for i in range(len(r))])
            for r, t in zip(rewards, terminal_steps, strict=True)
        ],
        [padded([1.0] * len(r)) for r in rewards],
    )
    targets, known = learner._targets(batch)
    wanted = [padded(row, None) for row in expected]
    assert known.tolist() == [[y is not None for y in row] for row in wanted]
    assert targets[known].tolist() == pytest.approx([y for row in wanted for y in row if y is not None])
    assert not targets.requires_grad


def test_losses_of_two_steps_by_hand():
    """y_0 = 2 + 0.9 min(1 + 1, 1) and Q_1 = Q_2 = 1/2 there: 2 * 2.4^2. Actions miss by 1/2 each.

    For the policy's actions Q_1 = (1.5, 2), Q_2 = (1, 1): -1.75 / 1 or -1 / 1.75. The third step is padding.
    """
    learner = constant_learner(lr=0.0, discount=0.9, eta=2.0, eta2=3.0, padding="right", context_len=3)
    batch = window_batch(
        [[0.5, 1.0, 7.0]], [[0.0, 1.0, 7.0]], [[2.0, 7.0, 0.0]], [[0.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]]
    )
    drawn = []
    for _ in range(20):
        metrics = {name: value.item() for name, value in learner.update(batch).items()}
        drawn.append(-metrics["q_loss"])
        assert metrics["critic_loss"] == pytest.approx(11.52, rel=1e-5)
        assert metrics["target_q"] == pytest.approx(2.9, rel=1e-5)
        assert metrics["action_loss"] == pytest.approx(0.25, rel=1e-5)
        assert metrics["q"] == pytest.approx((1.75 + 1) / 2, rel=1e-5)
        assert metrics["loss"] == pytest.approx(0.75 - 2 * drawn[-1], rel=1e-5)
    assert {round(q, 4) for q in drawn} == {1.75, round(1 / 1.75, 4)}


def test_the_coin_is_that_of_the_first_process(monkeypatch):
    """Two processes: both take the draw of process 0, which the mean leaves as 0 or 1/2."""
    learner = constant_learner()
    before = learner.generator.get_state()
    own = [bool(learner._coin(torch.zeros(()))) for _ in range(8)]
    assert len(set(own)) == 2
    learner.generator.set_state(before)
    monkeypatch.setattr("dtag_fast.algorithms.qt.mean_over_processes", lambda x: x / 2)
    assert [bool(learner._coin(torch.zeros(()))) for _ in range(8)] == own
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    assert not any(bool(learner._coin(torch.zeros(()))) for _ in range(8))  # adds nothing of its own


def literal_targets(nets, batch, gamma):
    """y of every step, one at a time, in float64; None where it is not known."""
    states, actions, returns, timesteps, mask = batch.windows
    policy = nets["target_model"](states.double(), actions.double(), returns.double(), timesteps, mask)
    raw = nets["model"].normalizer.inverse(states.double())
    targets = []
    for b in range(len(mask)):
        steps = [t for t in range(mask.shape[1]) if mask[b, t]]
        last, row = steps[-1], dict.fromkeys(range(mask.shape[1]))
        if batch.terminations[b, last]:
            row[last] = following = batch.rewards[b, last].double()
        else:
            following = torch.minimum(*nets["target"](raw[b, last], policy.actions[b, last]))[0]
        for t in reversed(steps[:-1]):
            row[t] = following = batch.rewards[b, t].double() + gamma * following
        targets.append(row)
    return targets


def manual_update(nets, adams, batch, c, number, first):
    """Update `number`, counted from 0, in float64; `first`: the member whose Q is climbed."""
    lr = c.lr * 0.5 * (1 + math.cos(math.pi * min(number / c.lr_horizon, 1)))
    states, actions, returns, timesteps, mask = batch.windows
    actions = actions.double()
    raw = nets["model"].normalizer.inverse(states.double())
    with torch.no_grad():
        targets = literal_targets(nets, batch, c.discount)
    known = [(b, t, y) for b, row in enumerate(targets) for t, y in row.items() if y is not None]
    errors = [(q - y) ** 2 for b, t, y in known for q in nets["critic"](raw[b, t], actions[b, t])]
    critic_loss = sum(errors).squeeze() / len(known)
    descend(adams["critic"], nets["critic"], critic_loss, lr, c.max_grad_norm)

    own = nets["model"](states.double(), actions, returns.double(), timesteps, mask).actions
    q = [member[mask] for member in nets["critic"](raw, own)]
    size = q[1 - first].abs().mean().item()
    action_loss = ((own - actions) ** 2)[mask].mean()
    loss = c.eta2 * action_loss - c.eta * q[first].mean() / size
    descend(adams["model"], nets["model"], loss, lr, c.max_grad_norm)
    average(nets["target"], nets["critic"], c.polyak)
    if number > c.ema_start and number % c.ema_every == 0:
        average(nets["target_model"], nets["model"], 1 - c.ema_decay)
    return {"critic_loss": critic_loss.item(), "loss": loss.item(), "action_loss": action_loss.item()}


def descend(adam, network, loss, lr, max_norm):
    adam.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm)
    adam.param_groups[0]["lr"] = lr
    adam.step()


def test_updates_equal_the_formulas(store):
    """With clips that bite, a schedule that moves and a target policy that does; no gradient stays behind."""
    config = dataclasses.replace(
        SMALL, lr=1e-2, lr_horizon=8, polyak=0.1, ema_decay=0.5, ema_start=1, ema_every=2, eta=0.7, eta2=1.3
    )
    config = dataclasses.replace(config, max_grad_norm=0.5, weight_decay=0.1)
    learner = create("qt", store, config)
    nets = {name: copy.deepcopy(module).double() for name, module in learner.modules.items()}
    adams = {
        "model": torch.optim.Adam(nets["model"].parameters(), lr=1.0, weight_decay=0.1),
        "critic": torch.optim.Adam(nets["critic"].parameters(), lr=1.0),
    }
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    clipped = []
    for number in range(6):
        batch = sampler.sample(g)
        draws = torch.Generator().set_state(learner.generator.get_state())
        first = 0 if torch.randint(2, (), generator=draws) else 1
        losses = manual_update(nets, adams, batch, config, number, first)
        metrics = learner.update(batch)
        for name, value in losses.items():
            assert metrics[name].item() == pytest.approx(value, rel=2e-3, abs=1e-5), (number, name)
        clipped.append(min(metrics["grad_norm"], metrics["critic_grad_norm"]) > 0.5)
        assert_nothing_left(learner)
    assert any(clipped)
    for name, module in learner.modules.items():
        for (parameter, p), q in zip(module.named_parameters(), nets[name].parameters(), strict=True):
            if parameter.endswith("qkv.bias"):  # that of the keys has no effect: Adam steps on rounding
                p, q = (bias.view(3, -1)[[0, 2]] for bias in (p, q))
            torch.testing.assert_close(p.double(), q, rtol=1e-3, atol=1e-4, msg=f"{name} {parameter}")


@pytest.mark.parametrize("capturable", [False, True])
def test_the_target_policy_moves_every_few_updates_after_a_start(store, capturable):
    config = dataclasses.replace(SMALL, ema_start=4, ema_every=2, ema_decay=0.75, lr=1e-2)
    learner = create("qt", store, config, capturable=capturable)
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    moved = {"target_model": [], "target": []}
    for _ in range(9):
        before = {name: weights(learner.modules[name]) for name in moved}
        learner.update(sampler.sample(g))
        for name, changes in moved.items():
            changes.append(not torch.equal(before[name], weights(learner.modules[name])))
        if moved["target_model"][-1]:
            expected = 0.75 * before["target_model"] + 0.25 * weights(learner.model)
            torch.testing.assert_close(weights(learner.target_model), expected, rtol=1e-5, atol=1e-7)
    assert moved == {"target_model": [n in (6, 8) for n in range(9)], "target": [True] * 9}


def test_targets_do_not_hang_on_dropout(store):
    learner = create("qt", store, dataclasses.replace(SMALL, dropout=0.5))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    learner.update(batch)
    assert learner.model.training and not learner.target_model.training
    assert torch.equal(*(learner._targets(batch)[0] for _ in range(2)))


def test_a_batch_without_targets_leaves_the_critic_alone():
    """Windows of one step that are cut there: the policy learns, the critic has nothing to."""
    learner = constant_learner()
    row = [[0.0, 0.0, 0.0, 1.0]]
    before = weights(learner.critic)
    metrics = learner.update(window_batch(row, row, row, [[0.0] * 4], row))
    assert all(value.isfinite() for value in metrics.values())
    assert metrics["critic_loss"] == metrics["critic_grad_norm"] == 0 < metrics["grad_norm"]
    assert torch.equal(weights(learner.critic), before)


def test_the_critic_learns_and_pulls_the_policy(store):
    """300 updates: the critic's error falls, and actions are worth more with the term of Q than without."""
    q = []
    for eta in (0.0, 5.0):
        config = dataclasses.replace(SMALL, eta=eta, lr=3e-3, discount=0.9, ema_start=0, batch_size=32)
        learner = create("qt", store, config)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        test_batch = sampler.sample(torch.Generator().manual_seed(1))
        before = learner.validate(test_batch)
        for _ in range(300):
            learner.update(sampler.sample(g))
        after = learner.validate(test_batch)
        assert after["td_error"] < 0.4 * before["td_error"]
        if eta == 0:
            assert after["loss"] < 0.3 * before["loss"]
        windows = test_batch.windows
        states = learner.model.normalizer.inverse(windows.states)
        q.append(torch.stack(learner.critic(states, learner.model(*windows).actions))[:, windows.mask].mean())
    assert q[1] > q[0] + 0.1


def test_validation_tells_errors_from_the_spread_of_their_targets(store):
    """Without a future the targets are the rewards, but at an open end."""
    learner = create("qt", store, dataclasses.replace(SMALL, discount=0.0))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    found, (targets, known) = learner.validate(batch), learner._targets(batch)
    rewards = batch.rewards[known]
    assert torch.equal(targets[known], rewards) and known.any(dim=1).all()
    assert found["target_variance"].item() == pytest.approx(rewards.numpy().var(), rel=1e-5)
    assert found["target_q"].item() == pytest.approx(rewards.mean().item(), rel=1e-5)


def test_one_run_holds_a_policy_and_a_critic_that_refine_climbs(store, tmp_path):
    run = train("qt", store, config=SMALL, out=tmp_path / "run", updates=4)
    policy, critic = load_policy(run), load_critic(run)
    assert policy.info.algorithm == critic.info.algorithm == "qt" and policy.info.kind == "policy"
    assert critic.info.discount == 0.99 and policy.info.context_len == 4
    assert policy.info.target_returns == [pytest.approx(store.episode_returns.max())]
    states, actions = torch.from_numpy(store.observations[:5].copy()), torch.zeros(5, 2)
    better = refine(critic.critic, states, actions, steps=5, lr=0.05)
    values = [torch.minimum(*critic.critic(states, a)).mean() for a in (actions, better)]
    assert values[1] > values[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"context_len": 1}, "context_len: expected an integer of at least 2, got 1"),
        ({"discount": 1.5}, r"discount: expected a number in \[0, 1\], got 1.5"),
        ({"polyak": 0.0}, r"polyak: expected a number in \(0, 1\], got 0.0"),
        ({"ema_decay": -0.1}, r"ema_decay: expected a number in \[0, 1\], got -0.1"),
        ({"ema_every": 0}, "ema_every: expected a positive integer, got 0"),
        ({"lr_horizon": 1.5}, "lr_horizon: expected a positive integer, got 1.5"),
        ({"eta": float("nan")}, "eta: expected a number of at least 0, got nan"),
        ({"eta2": -1.0}, "eta2: expected a number of at least 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
