"""EDT: losses by hand, classes of returns, what trains each head, and a policy to evaluate elastically."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_critics import assert_nothing_left, fill
from torch.nn import functional as F

from dtag_fast.algorithms import create
from dtag_fast.algorithms.edt import Config
from dtag_fast.data import Episode, TrajectoryStore, Windows
from dtag_fast.rollout import SequencePolicy
from dtag_fast.training import load_policy, train

_SEQUENCE = {"context_len": 4, "d_model": 16, "n_layer": 1, "n_head": 2, "max_timestep": 64, "batch_size": 16}
SMALL = Config(**_SEQUENCE, dropout=0.0, warmup=0, lr=1e-2)


@pytest.fixture
def constant():
    """A learner of one state and one action whose heads are constants: 0, return 1, logits (0, log 3)."""
    states = np.array([[1.0], [-1.0], [0.0]])
    episode = Episode(states, np.zeros((2, 1)), np.ones(2), np.array([False, True]), np.zeros(2, bool))
    store = TrajectoryStore.from_episodes([episode], {"action_low": [-2.0], "action_high": [2.0]})
    config = dataclasses.replace(SMALL, return_classes=2, return_range=(0.0, 8.0), return_scale=2.0)
    learner = create("edt", store, dataclasses.replace(config, expectile=0.9, class_weight=0.1))
    model = learner.model
    fill(model.action_head, [[0.0] * 16], [0.0])
    fill(model.return_head, [[0.0] * 16], [1.0])
    fill(model.class_head, [[0.0] * 16] * 2, [0.0, float(np.log(3))])
    fill(model.state_head, [[0.0] * 17], [0.5])
    return learner


def test_losses_of_a_window_by_hand(constant):
    """Three real steps; returns are 3, 0, 4 in units of return_scale, so that the highest class begins at 4.

    u = 2, -1, 3; classes 0, 0, 1 of two; next states 1.5 and -0.5 against 0.5.
    """
    states, actions, returns = (
        torch.tensor([[row]]).mT
        for row in ([7.0, 1.5, -0.5, 50.0], [1.0, 2.0, -2.0, 50.0], [3.0, 0.0, 4.0, 50.0])
    )
    mask = torch.tensor([[True, True, True, False]])
    batch = Windows(states, actions, returns, torch.arange(4)[None], mask)
    losses = {name: value.item() for name, value in constant.validate(batch).items()}
    parts = {
        "action_loss": 9 / 3,
        "state_loss": (1.0 + 1.0) / 2,
        "return_loss": (0.9 * 4 + 0.1 * 1 + 0.9 * 9) / 3,
        "class_loss": -np.log([1 / 4, 1 / 4, 3 / 4]).mean(),
    }
    loss = parts["action_loss"] + parts["state_loss"] + 0.5 * parts["return_loss"]
    assert losses == pytest.approx(parts | {"loss": loss + 0.1 * parts["class_loss"]}, rel=1e-5)


def test_classes_are_equal_parts_of_the_range_and_the_ends_take_what_is_beyond(store):
    config = dataclasses.replace(SMALL, return_classes=5, return_range=(-4.0, 12.0), return_scale=2.0)
    learner = create("edt", store, config)
    returns = torch.tensor([-100.0, -4.0, -0.1, 0.1, 3.9, 4.1, 8.1, 11.9, 12.0, 99.0]) / 2
    assert learner._classes(returns).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 4, 4]


def test_the_range_is_that_of_the_data_by_default(store):
    learner = create("edt", store, dataclasses.replace(SMALL, reward_scale=2.0, reward_shift=-3.0))
    returns = 2.0 * store.episode_returns - 3.0 * store.episode_lengths
    assert learner.return_range == pytest.approx((returns.min(), max(returns.max(), 0)))


def test_a_window_of_one_step_has_no_next_state(constant):
    one = torch.ones(1, 1, 1)
    batch = Windows(one, one, one, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool))
    metrics = constant.update(batch)
    assert metrics["state_loss"] == 0 and all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize(
    "weight, head",
    [("state_weight", "state_head"), ("return_weight", "return_head"), ("class_weight", "class_head")],
)
def test_each_head_is_trained_by_its_own_term(store, weight, head):
    """Without its term a head stays as it is, weight decay aside; the others move."""
    learner = create("edt", store, dataclasses.replace(SMALL, weight_decay=0.0, **{weight: 0.0}))
    sampler = learner.make_sampler(store)
    names = ("action_head", "state_head", "return_head", "class_head")
    before = {name: getattr(learner.model, name).weight.detach().clone() for name in names}
    learner.update(sampler.sample(torch.Generator().manual_seed(0)))
    moved = {name: not torch.equal(before[name], getattr(learner.model, name).weight) for name in names}
    assert moved == {name: name != head for name in names}
    assert_nothing_left(learner)


def test_200_updates_learn_all_four(store):
    learner = create("edt", store, dataclasses.replace(SMALL, lr=3e-3, class_weight=0.5, expectile=0.5))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    batch = sampler.sample(torch.Generator().manual_seed(1))
    before = learner.validate(batch)
    for _ in range(200):
        learner.update(sampler.sample(g))
    after = learner.validate(batch)
    for name, share in (("action_loss", 0.5), ("return_loss", 0.5), ("class_loss", 0.7)):
        assert after[name] < share * before[name], name
    assert after["state_loss"] < before["state_loss"]  # states are noise: its least is their variance


def test_updates_follow_the_formula(store):
    """One batch: gradients equal those of the loss written out with PyTorch's functions."""
    learner = create("edt", store, dataclasses.replace(SMALL, max_grad_norm=1e9))
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(0))
    out, mask = learner.model(*batch), batch.mask
    u = (batch.returns_to_go - out.returns)[mask]
    expectile = (torch.where(u > 0, 0.99, 0.01) * u**2).mean()
    classes = F.cross_entropy(
        out.return_logits[mask], learner._classes(batch.returns_to_go[mask]).squeeze(-1)
    )
    pairs = mask[:, 1:]
    state = F.mse_loss(out.next_states[:, :-1][pairs], batch.states[:, 1:][pairs])
    loss = F.mse_loss(out.actions[mask], batch.actions[mask]) + state + 0.5 * expectile + 0.001 * classes
    grads = torch.autograd.grad(loss, list(learner.model.parameters()))
    metrics = learner.update(batch)
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
    assert metrics["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-4)


def test_a_run_holds_a_policy_that_chooses_its_history(store, tmp_path):
    run = train("edt", store, config=SMALL, out=tmp_path / "run", updates=3)
    policy = load_policy(run)
    assert policy.info.algorithm == "edt" and policy.model.predicts_returns
    acting = [SequencePolicy(policy.model, 2, history_lengths=n) for n in (None, [4, 2])]
    rng = np.random.default_rng(0)
    for _ in range(6):
        states = rng.normal(size=(2, 4)).astype(np.float32)
        for one in acting:
            actions = one.act(states, np.ones(2, bool))
            assert actions.shape == (2, 2) and np.abs(actions).max() <= 1
            one.record(actions, np.ones(2), np.ones(2, bool))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"expectile": 1.0}, "expectile: expected a number between 0 and 1, got 1.0"),
        ({"return_classes": 1}, "return_classes: expected at least 2, got 1"),
        (
            {"return_range": (2.0, 1.0)},
            r"return_range: expected two rising numbers or none, got \(2.0, 1.0\)",
        ),
        ({"return_range": (2.0,)}, "return_range: expected two rising numbers or none"),
        ({"class_weight": -1.0}, "class_weight: expected a number of at least 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
