"""ODT: the squashed Gaussian against its density, updates against the published formulas, the dual step."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from dtag_fast.algorithms import create
from dtag_fast.algorithms.lamb import Lamb, clip_
from dtag_fast.algorithms.losses import squashed_gaussian_nll
from dtag_fast.algorithms.odt import Config
from dtag_fast.data import TrajectoryStore, Windows
from dtag_fast.models.policies import inverse_tanh

SMALL = Config(
    context_len=4,
    eval_context_len=2,
    d_model=16,
    n_layer=2,
    n_head=2,
    max_timestep=64,
    batch_size=16,
    dropout=0.0,
    warmup=10,
)
F64 = torch.float64


def nll_of(actions, mean, log_std, dtype=F64):
    actions, mean, log_std = (torch.as_tensor(x, dtype=dtype) for x in (actions, mean, log_std))
    return squashed_gaussian_nll(inverse_tanh(actions), mean, log_std)


def test_densities_written_out():
    """-log p(a) = ((atanh a - mu) / sigma)^2 / 2 + log sigma + log(2 pi) / 2 + log(1 - a^2), with a pen."""
    by_hand = {(0.5, 0.3, -0.2): 0.4776177, (-0.9, 0.1, 0.4): 0.2135496, (0.0, -1.0, 1.0): 1.9866061}
    for (a, mu, log_std), expected in by_hand.items():
        assert nll_of([a], [mu], [log_std]).item() == pytest.approx(expected, abs=1e-6)
    columns = [list(column) for column in zip(*by_hand, strict=True)]
    assert nll_of(*columns).item() == pytest.approx(sum(by_hand.values()), abs=1e-6)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, -1.0), (-0.3, 0.6)])
def test_densities_add_up_to_one(mean, log_std):
    u = torch.linspace(-9, 9, 200_001, dtype=F64)[:, None]  # the whole of (-1, 1) but for its very ends
    a = u.tanh()[:, 0]
    density = torch.exp(-squashed_gaussian_nll(u, torch.full_like(u, mean), torch.full_like(u, log_std)))
    assert torch.trapezoid(density, a).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("log_std", [-5.0, 0.0, 2.0])
@pytest.mark.parametrize("action", [-1.0, 1.0, -1.0 - 1e-3, 3.0])
def test_likelihoods_at_the_bounds_are_finite_and_so_are_their_gradients(action, log_std):
    mean = torch.tensor([-8.0, 0.0, 8.0], requires_grad=True)
    log_stds = torch.full((3,), log_std, requires_grad=True)
    nll = nll_of([action] * 3, mean, log_stds, torch.float32)
    nll.backward()
    assert nll.isfinite() and mean.grad.isfinite().all() and log_stds.grad.isfinite().all()
    edge = 1 - 1e-6
    inside = nll_of([math.copysign(edge, action)] * 3, mean.detach(), log_stds.detach())
    assert nll.item() == pytest.approx(inside.item(), rel=0.05)  # float32 places the edge to 6 %


def batch_of(learner, store, seed=0) -> Windows:
    batch = learner.make_sampler(store).sample(torch.Generator().manual_seed(seed))
    return Windows(*(x.double() for x in batch[:3]), *batch[3:])


def published_loss(model, batch, noise, temperature):
    """As published, by torch.distributions, over the real steps one by one."""
    mean, log_std = model.distribution(*batch)
    mean, std = mean[batch.mask], log_std[batch.mask].exp()  # (M, A)
    policy = TransformedDistribution(Normal(mean, std), [TanhTransform(cache_size=1)])
    recorded = batch.actions[batch.mask].clamp(-1 + 1e-6, 1 - 1e-6)
    log_likelihood = policy.log_prob(recorded).sum(dim=1).mean()
    sample = torch.tanh(mean + std * noise[batch.mask])
    entropy = -policy.log_prob(sample).sum(dim=1).mean()
    return -(log_likelihood + temperature * entropy), entropy.item()


def test_an_update_equals_the_published_step_by_step(store):
    config = dataclasses.replace(SMALL, lr=1e-2)
    learner, twin = (create("odt", store, config, seed=3) for _ in range(2))
    for model in (learner.model, twin.model):
        model.double()
    optimizer = Lamb(twin.model.parameters(), lr=0.0, weight_decay=5e-4)
    log_temperature = torch.tensor(math.log(0.1), requires_grad=True)
    dual = torch.optim.Adam([log_temperature], lr=1e-4)
    for n in range(4):
        batch = batch_of(learner, store, n)
        assert not batch.mask.all() and batch.mask[:, -1].all()  # padded on the left
        noise = torch.randn(batch.actions.shape, generator=twin.generator, dtype=F64)
        temperature = log_temperature.exp()
        loss, entropy = published_loss(twin.model, batch, noise, temperature.item())
        optimizer.zero_grad()
        loss.backward()
        clip_([p.grad for p in twin.model.parameters()], 0.25)
        optimizer.param_groups[0]["lr"] = 1e-2 * (n + 1) / 10
        optimizer.step()

        metrics = learner.update(batch)
        assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert metrics["entropy"].item() == pytest.approx(entropy, rel=1e-5)
        assert metrics["temperature"].item() == pytest.approx(temperature.item(), rel=1e-6)
        dual.zero_grad()
        (temperature * (entropy + 2)).backward()
        dual.step()
    assert learner.log_temperature.item() == pytest.approx(log_temperature.item(), abs=1e-7)
    for p, q in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_the_temperature_rises_while_the_entropy_is_below_its_target(store):
    learner = create("odt", store, SMALL)
    learner.model.double()
    learner.model.log_std_head.bias.data.fill_(-20.0)  # deviation e^-5: entropy about -7 for two dimensions
    metrics = learner.update(batch_of(learner, store))
    assert metrics["entropy"] < -2 and learner.log_temperature.item() > math.log(0.1)


def test_the_loss_moves_the_policy_and_the_dual_step_the_temperature_alone(store):
    learner = create("odt", store, dataclasses.replace(SMALL, lr=0.0))
    before = [p.detach().clone() for p in learner.model.parameters()]
    learner.model.double()
    learner.update(batch_of(learner, store))
    assert all(torch.equal(p.double(), q) for p, q in zip(before, learner.model.parameters(), strict=True))
    assert learner.log_temperature.item() != pytest.approx(math.log(0.1), abs=1e-6)
    frozen = create("odt", store, dataclasses.replace(SMALL, temperature_lr=0.0))
    frozen.model.double()
    frozen.update(batch_of(frozen, store))
    assert frozen.log_temperature.item() == pytest.approx(math.log(0.1), abs=1e-7)
    changed = [not torch.equal(p.double(), q) for p, q in zip(before, frozen.model.parameters(), strict=True)]
    assert all(changed)


def test_actions_on_other_bounds_are_the_same_densities(store):
    """The same data with actions in [1, 5]: the same losses, so that the target -A keeps its meaning."""
    episodes = [store.episode(i) for i in range(store.num_episodes)]
    wide = TrajectoryStore.from_episodes(
        [episode._replace(actions=episode.actions * 2 + 3) for episode in episodes],
        store.metadata | {"action_low": [1.0, 1.0], "action_high": [5.0, 5.0]},
    )
    config = dataclasses.replace(SMALL, context_len=1, eval_context_len=1)  # no past action is a token
    metrics = []
    for data in (store, wide):
        learner = create("odt", data, config)
        learner.model.double()
        metrics.append(learner.update(batch_of(learner, data)))
    for name in ("nll", "entropy"):
        assert metrics[0][name].item() == pytest.approx(metrics[1][name].item(), rel=1e-5)
    actions = learner.model(*batch_of(learner, wide)).actions
    assert actions.min() > 1 and actions.max() < 5


def test_a_short_run_learns_the_recorded_actions(store):
    """Actions are a function of the state: their density rises far above that of any constant one."""
    config = dataclasses.replace(SMALL, lr=2e-2, warmup=20, dropout=0.1)
    learner = create("odt", store, config)
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    losses = [learner.update(sampler.sample(g))["nll"].item() for _ in range(400)]
    assert sum(losses[:10]) / 10 > 1.0 and sum(losses[-10:]) / 10 < -1.0


def test_acting_looks_back_eval_context_len_steps(store):
    learner = create("odt", store, SMALL)
    assert learner.model.config.context_len == learner.facts()["context_len"] == 2
    assert batch_of(learner, store).mask.shape[1] == 4
    for wrong in (0, 5):
        with pytest.raises(
            ValueError, match=f"eval_context_len: expected 1 to context_len = 4, .* got {wrong}"
        ):
            dataclasses.replace(SMALL, eval_context_len=wrong)
    with pytest.raises(ValueError, match="initial_temperature: expected a positive number, got 0"):
        Config(initial_temperature=0.0)
