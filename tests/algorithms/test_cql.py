"""CQL: losses by hand, updates against float64 formulas, the multiplier, max-backup, clips, imitation."""

import copy
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
    linear_learner,
    weights,
)

from dtag_fast.algorithms import create
from dtag_fast.algorithms.cql import Config

SMALL = Config(hidden=(16, 16), policy_hidden=(16,), batch_size=32, n_actions=4)
TINY = Config(
    hidden=(),
    policy_hidden=(),
    normalize_states=False,
    n_actions=1,
    penalty=2.0,
    initial_alpha=0.5,
    lr=0.0,
    policy_lr=0.0,
)
# what the policy draws in one update, with log-probabilities: for its own loss, for y, from s, from s'
OWN, NEXT = ([0.0, 0.25], [-1.0, -0.5]), ([0.5, -1.0], [-0.4, 0.3])
CURRENT, FOLLOWING = ([0.1, -0.2], [-0.3, 0.2]), ([0.4, 0.0], [0.1, -0.6])


@pytest.fixture
def tiny(monkeypatch):
    """tiny(**options) -> a linear learner whose policy draws the actions above, its uniform draws (2,)."""

    def make(**options):
        learner = linear_learner("cql", dataclasses.replace(TINY, **options))
        shapes = [(2, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]
        draws = iter(
            [torch.tensor(part).view(shape) for part in pair]
            for pair, shape in zip((OWN, NEXT, CURRENT, FOLLOWING), shapes, strict=True)
        )
        monkeypatch.setattr(learner.policy, "sample", lambda *_: next(draws))
        uniform = torch.empty(2, 1, 1).uniform_(-1, 1, generator=draws_of(learner))
        return learner, uniform.flatten().tolist()

    return make


def gaps_by_hand(uniform, importance=True, temperature=1.0):
    """[[D_1 of both transitions], [D_2 of both]] with Q_1 = s + 2a, Q_2 = a + 1/2, s = (0, 2)."""
    gaps = []
    for q in (lambda s, a: s + 2 * a, lambda s, a: a + 0.5):
        gaps.append([])
        for row, (s, a) in enumerate([(0.0, 0.5), (2.0, -0.5)]):
            drawn = [
                (uniform[row], math.log(0.5)),
                (CURRENT[0][row], CURRENT[1][row]),
                (FOLLOWING[0][row], FOLLOWING[1][row]),
            ]
            if importance:
                terms = [q(s, b) - density for b, density in drawn]
            else:
                terms = [q(s, b) for b, _ in drawn] + [q(s, a)]
            total = sum(math.exp(term / temperature) for term in terms)
            gaps[-1].append(temperature * math.log(total) - q(s, a))
    return gaps


def mean_of(gaps):
    """[mean D_1, mean D_2]"""
    return [sum(rows) / 2 for rows in gaps]


def test_losses_of_two_transitions_by_hand(tiny):
    """y = (1 + 0.9 min(3, 1), 2): (1.62 + 5) / 2 = 3.31 as in AWAC's case.

    policy: min_i Q_i(s, b) = (0, 0.75); mean of (0.5 * -1 - 0, 0.5 * -0.5 - 0.75).
    """
    learner, uniform = tiny()
    metrics = learner.update(BATCH)
    d = mean_of(gaps_by_hand(uniform))
    assert metrics["td_loss"].item() == pytest.approx(3.31, rel=1e-6)
    assert metrics["conservative_gap"].item() == pytest.approx(sum(d) / 2, rel=1e-5)
    assert metrics["critic_loss"].item() == pytest.approx(3.31 + 2 * sum(d), rel=1e-5)
    assert metrics["policy_loss"].item() == pytest.approx(-0.75)
    assert metrics["log_prob"].item() == pytest.approx(-0.75)
    assert metrics["alpha"].item() == pytest.approx(0.5)


def test_entropy_in_the_backup_by_hand(tiny):
    """y = 1 + 0.9 (1 + 0.5 * 0.4) = 2.08: (2 * 1.08^2 + 5) / 2."""
    learner, _ = tiny(backup_entropy=True)
    assert learner.update(BATCH)["td_loss"].item() == pytest.approx(3.6664, rel=1e-6)


def test_penalty_without_importance_sampling_by_hand(tiny):
    learner, uniform = tiny(importance_sampling=False, penalty_temperature=0.5)
    d = mean_of(gaps_by_hand(uniform, importance=False, temperature=0.5))
    assert learner.update(BATCH)["conservative_gap"].item() == pytest.approx(sum(d) / 2, rel=1e-5)


def test_difference_is_clipped_element_by_element(tiny):
    learner, uniform = tiny(difference_min=1.5, difference_max=2.0)
    gaps = gaps_by_hand(uniform)
    assert min(map(min, gaps)) < 1.5 and max(map(max, gaps)) > 2.0  # both clips do something
    d = mean_of([[min(max(x, 1.5), 2.0) for x in rows] for rows in gaps])
    assert learner.update(BATCH)["conservative_gap"].item() == pytest.approx(sum(d) / 2, rel=1e-5)


@pytest.mark.parametrize("gap, rises", [(0.5, True), (9.0, False)])
def test_multiplier_by_hand_and_the_way_it_goes(tiny, gap, rises):
    """alpha' starts at e; it grows while the difference is above the gap."""
    learner, uniform = tiny(lagrange_gap=gap)
    learner.optimizers["multiplier"].param_groups[0]["lr"] = 0.01
    d = mean_of(gaps_by_hand(uniform))
    metrics = learner.update(BATCH)
    expected = 3.31 + math.e * 2 * sum(x - gap for x in d)
    assert metrics["critic_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert metrics["multiplier"].item() == pytest.approx(math.e)
    assert learner.log_multiplier.item() == pytest.approx(1.01 if rises else 0.99)  # Adam's first step


def test_the_best_of_several_actions_is_backed_up(monkeypatch):
    """Of a' = (-0.5, 1, 0.5) at s' = 2: min_i Q' = (0, 1.5, 1), so y = 1 + 0.9 (1.5 + 0.5 * 0.7)."""
    config = dataclasses.replace(TINY, n_actions=3, max_backup=True, backup_entropy=True)
    learner = linear_learner("cql", config)
    actions = torch.tensor([[-0.5, 1.0, 0.5], [0.0, 0.0, 0.0]]).unsqueeze(-1)
    log_prob = torch.tensor([[-0.1, -0.7, -0.2], [0.0, 0.0, 0.0]]).unsqueeze(-1)
    asked = []
    monkeypatch.setattr(
        learner.policy, "sample", lambda states, g, count: asked.append(count) or (actions, log_prob)
    )
    learner.log_alpha.data.fill_(math.log(0.5))
    assert learner._targets(BATCH).flatten().tolist() == pytest.approx([2.665, 2.0])
    assert asked == [3]


def manual_update(learner_scalars, nets, adams, batch, c, g):
    """One update in float64 from torch.distributions; nets are float64 copies."""
    critic, target, policy = (nets[k] for k in ("critic", "target", "model"))
    log_alpha, log_multiplier = learner_scalars
    rows, dims = batch.actions.shape

    def draw(states, *count):
        noise = torch.randn(rows, *count, dims, generator=g).double()
        mean, log_std = (x.view(rows, *(1 for _ in count), dims) for x in policy(states))
        tanh = torch.distributions.TanhTransform(cache_size=1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        x = tanh(mean + log_std.exp() * noise)
        return x, torch.distributions.TransformedDistribution(normal, tanh).log_prob(x).sum(-1)

    s, a, r, s2, done, discount = (x.double() for x in batch)
    alpha = log_alpha.exp().item()
    own, log_prob = draw(s)
    policy_loss = (alpha * log_prob - torch.minimum(*critic(s, own))[:, 0]).mean()

    with torch.no_grad():
        a2, log_prob2 = draw(s2, c.n_actions if c.max_backup else 1)
        far = s2[:, None].expand(-1, a2.shape[1], -1)
        best, index = torch.minimum(*target(far, a2))[..., 0].max(dim=1)
        if c.backup_entropy:
            best = best - alpha * log_prob2[torch.arange(rows), index]
        y = r[:, 0] + discount[:, 0] * (1 - done[:, 0]) * best
        uniform = torch.empty(rows, c.n_actions, dims).uniform_(-1, 1, generator=g).double()
        current, current_lp = draw(s, c.n_actions)
        following, following_lp = draw(s2, c.n_actions)
    td_loss, differences = 0.0, []
    for member in range(c.members):
        q = critic(s, a)[member][:, 0]
        td_loss = td_loss + ((q - y) ** 2).mean()
        wide = s[:, None].expand(-1, c.n_actions, -1)
        terms = [
            critic(wide, actions)[member][..., 0] - density
            for actions, density in (
                (uniform, dims * math.log(0.5)),
                (current, current_lp),
                (following, following_lp),
            )
        ]
        differences.append((torch.cat(terms, dim=1).logsumexp(dim=1) - q).mean())
    multiplier = log_multiplier.exp()
    surplus = sum(d - c.lagrange_gap for d in differences)
    critic_loss = td_loss + multiplier.item() * c.penalty * surplus
    descend(adams["multiplier"], -0.5 * multiplier * c.penalty * surplus.item())
    descend(adams["alpha"], -(log_alpha * (log_prob.mean().item() - dims)))
    losses = {"policy_loss": descend(adams["model"], policy_loss)}
    losses |= {"critic_loss": descend(adams["critic"], critic_loss), "td_loss": td_loss.item()}
    average(target, critic, c.polyak)
    return losses


@pytest.mark.parametrize("options", [{}, {"max_backup": True, "backup_entropy": True}])
def test_updates_equal_the_formulas(store, options):
    config = dataclasses.replace(SMALL, polyak=0.1, lr=1e-2, policy_lr=3e-3, lagrange_gap=0.7, **options)
    learner = create("cql", store, config)
    nets, adams = doubles(learner, {"critic": 1e-2, "model": 3e-3})
    scalars = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.0, 1.0)]
    adams |= {
        "alpha": torch.optim.Adam(scalars[:1], lr=3e-3),
        "multiplier": torch.optim.Adam(scalars[1:], lr=1e-2),
    }
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    for _ in range(4):
        batch, draws = sampler.sample(g), draws_of(learner)
        losses = manual_update(scalars, nets, adams, batch, config, draws)
        metrics = learner.update(batch)
        for name, value in losses.items():
            assert metrics[name].item() == pytest.approx(value, rel=1e-3, abs=1e-4), name
        assert_nothing_left(learner)
    assert_same_networks(learner, nets)
    assert learner.log_alpha.item() == pytest.approx(scalars[0].item(), abs=1e-5) != 0.0
    assert learner.log_multiplier.item() == pytest.approx(scalars[1].item(), abs=1e-5) != 1.0


def test_the_policy_imitates_in_the_first_updates_only(store):
    """With alpha next to 0 its loss is then -log pi of the data's actions, and -min Q of its own after."""
    config = dataclasses.replace(SMALL, imitation_updates=2, auto_entropy=False, initial_alpha=1e-9)
    for capturable in (False, True):
        learner = create("cql", store, config, capturable=capturable)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        for number in range(4):
            batch, before, draws = sampler.sample(g), copy.deepcopy(learner.policy), draws_of(learner)
            critic = copy.deepcopy(learner.critic)
            loss = learner.update(batch)["policy_loss"].item()
            if number < 2:
                expected = -before.log_prob(batch.states, batch.actions).mean().item()
            else:
                own, _ = before.sample(batch.states, draws)
                expected = -torch.minimum(*critic(batch.states, own)).mean().item()
            assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6), number


def test_alpha_stays_where_it_is_not_learned(store):
    learner = create("cql", store, dataclasses.replace(SMALL, auto_entropy=False, initial_alpha=0.3))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    before = weights(learner.policy)
    for _ in range(3):
        assert learner.update(sampler.sample(g))["alpha"].item() == pytest.approx(0.3)
    assert not torch.equal(before, weights(learner.policy))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_actions": 0}, "n_actions: expected a positive integer, got 0"),
        ({"penalty_temperature": 0.0}, "penalty_temperature: expected a positive number, got 0.0"),
        ({"initial_alpha": -1.0}, "initial_alpha: expected a positive number"),
        (
            {"difference_min": 1.0, "difference_max": 1.0},
            "difference_min: expected below difference_max = 1.0, got 1.0",
        ),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_the_penalty_lowers_q_beside_the_data(store):
    """The recorded action is a function of the state; Q of random ones falls behind it."""
    behind = []
    for penalty in (0.0, 5.0):
        config = dataclasses.replace(SMALL, penalty=penalty, lr=3e-3, discount=0.9)
        learner = create("cql", store, config)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        for _ in range(200):
            learner.update(sampler.sample(g))
        table = sampler.transitions
        elsewhere = torch.rand(table.actions.shape, generator=g) * 2 - 1
        with torch.no_grad():
            q, q_elsewhere = (learner.critic(table.states, a)[0] for a in (table.actions, elsewhere))
        behind.append((q - q_elsewhere).mean().item())
    assert behind[1] > behind[0] + 0.5
