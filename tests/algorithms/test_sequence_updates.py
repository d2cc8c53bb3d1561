"""Decision Transformer, Reinformer and ODT: one update is exactly the published one, and training learns."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from dtag_fast.algorithms import ALGORITHMS, DataSpec, create
from dtag_fast.algorithms.dt import Config as DTConfig
from dtag_fast.algorithms.lamb import Lamb, clip_
from dtag_fast.algorithms.odt import Config as ODTConfig
from dtag_fast.algorithms.reinformer import Config as ReinformerConfig
from dtag_fast.data import TrajectoryStore, Windows

SMALL = {"context_len": 4, "d_model": 16, "n_layer": 2, "n_head": 2, "max_timestep": 64, "batch_size": 16}
CONFIGS = {
    "dt": DTConfig(**SMALL),
    "reinformer": ReinformerConfig(**SMALL),
    "odt": ODTConfig(**SMALL, eval_context_len=2),
}
STYLES = [*CONFIGS.items(), ("dt", DTConfig.original(**SMALL))]
every_style = pytest.mark.parametrize("name, config", STYLES, ids=[*CONFIGS, "dt-original"])


def batch_of(learner, store, seed=0) -> Windows:
    return learner.make_sampler(store).sample(torch.Generator().manual_seed(seed))


def in_float64(learner, store, seed=0) -> Windows:
    """A batch in float64: in float32 the gradient of a key bias is rounding noise, which Adam blows up."""
    batch = batch_of(learner, store, seed)
    return Windows(*(x.double() for x in batch[:3]), *batch[3:])


def reinformer_loss(model, batch, expectile, temperature):
    """Section by section as published, with boolean indexing instead of weights."""
    out, mask = model(*batch), batch.mask
    real_return = batch.returns_to_go[mask]
    error = real_return - out.returns[mask]
    u = error / real_return.abs().mean()
    return_loss = (torch.where(u < 0, 1 - expectile, expectile) * u**2).mean()
    normal = torch.distributions.Normal(out.actions, out.log_std.exp().expand_as(out.actions))
    log_likelihood = normal.log_prob(batch.actions).sum(dim=2)[mask].mean()
    entropy = normal.entropy().sum(dim=2).mean()
    return return_loss - log_likelihood - temperature * entropy


def test_reinformer_update_equals_the_published_step_by_step(store):
    config = dataclasses.replace(CONFIGS["reinformer"], dropout=0.0, warmup=10, lr=1e-2)
    learner, twin = (create("reinformer", store, config, seed=3) for _ in range(2))
    for model in (learner.model, twin.model):
        model.double()
    optimizer = Lamb(twin.model.parameters(), lr=0.0, weight_decay=config.weight_decay)
    temperature = 0.1
    for n in range(4):
        batch = in_float64(learner, store, n)
        loss = reinformer_loss(twin.model, batch, config.expectile, temperature)
        optimizer.zero_grad()
        loss.backward()
        clip_([p.grad for p in twin.model.parameters()], 0.25)
        optimizer.param_groups[0]["lr"] = 1e-2 * (n + 1) / 10
        optimizer.step()

        metrics = learner.update(batch)
        assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert metrics["temperature"].item() == pytest.approx(temperature, rel=1e-5)
        # Adam's first steps have the length lr; the entropy of unit normals is above its target of -2
        temperature = math.exp(math.log(temperature) - config.temperature_lr)
    for p, q in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_temperature_rises_while_the_entropy_is_below_its_target(store):
    learner = create("reinformer", store, CONFIGS["reinformer"])
    learner.model.action_log_std.data.fill_(-5.0)
    learner.update(batch_of(learner, store))
    assert learner.log_temperature.item() > math.log(0.1)


def test_dt_update_equals_the_published_one(store):
    config = dataclasses.replace(CONFIGS["dt"], dropout=0.0, warmup=2, lr=1e-3)
    learner, twin = (create("dt", store, config, seed=3) for _ in range(2))
    for model in (learner.model, twin.model):
        model.double()
    optimizer = torch.optim.AdamW(twin.model.parameters(), lr=1e-3, weight_decay=1e-4)
    for n in range(4):
        batch = in_float64(learner, store, n)
        loss = F.mse_loss(twin.model(*batch).actions[batch.mask], batch.actions[batch.mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 0.25)
        optimizer.param_groups[0]["lr"] = 1e-3 * min((n + 1) / 2, 1)
        optimizer.step()
        assert learner.update(batch)["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    for p, q in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@every_style
def test_the_clip_bounds_the_gradient(store, name, config):
    learner = create(name, store, config)
    g = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(learner.model.action_head.weight, std=10.0, generator=g)
    seen = []
    learner.optimizers["model"].register_step_pre_hook(
        lambda optimizer, args, kwargs: seen.append(
            torch.cat([p.grad.flatten() for p in learner.model.parameters()]).norm().item()
        )
    )
    metrics = learner.update(batch_of(learner, store))
    assert metrics["grad_norm"] > 0.25 and seen == pytest.approx([0.25], rel=1e-4)


@every_style
def test_what_stands_in_padding_changes_no_bit(store, name, config):
    results = []
    for fill in (0.0, 50.0):
        learner = create(name, store, config)
        batch = batch_of(learner, store)
        assert not batch.mask.all()
        floats = [torch.where(batch.mask[..., None], x, fill) for x in batch[:3]]
        learner.update(Windows(*floats, *batch[3:]))
        results.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(*results)


@every_style
def test_training_learns_the_recorded_actions(store, name, config):
    learner = create(name, store, dataclasses.replace(config, lr=1e-2, warmup=20, dropout=0.0))
    sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
    batch = batch_of(learner, store, 99)

    def error():
        return (learner.model(*batch).actions - batch.actions)[batch.mask].square().mean().item()

    before = error()
    for _ in range(150):
        learner.update(sampler.sample(g))
    assert error() < 0.1 * before


@every_style
def test_same_seed_same_bits_and_no_global_randomness(store, name, config):
    """Dropout on; the global generator is moved between updates, and left alone by them."""
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        learner = create(name, store, config, seed=7)
        sampler, g = learner.make_sampler(store), torch.Generator().manual_seed(0)
        before = torch.get_rng_state()
        for _ in range(3):
            learner.update(sampler.sample(g))
        assert torch.equal(before, torch.get_rng_state())
        ends.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(*ends)
    other = create(name, store, config, seed=8)
    assert not torch.equal(torch.cat([p.detach().flatten() for p in other.model.parameters()]), ends[0])


def test_return_scale_defaults_to_the_largest_return(store):
    learner = create("dt", store, CONFIGS["dt"])
    assert learner.return_scale == pytest.approx(abs(store.episode_returns).max())
    assert learner.facts()["target_returns"] == pytest.approx([store.episode_returns.max()])
    assert learner.model.config.return_scale == learner.return_scale


def test_reward_transform_reaches_the_returns_to_go(store):
    config = dataclasses.replace(CONFIGS["dt"], reward_scale=100.0, reward_shift=1.0, return_scale=1.0)
    batch = batch_of(create("dt", store, config), store)
    plain = batch_of(
        create("dt", store, dataclasses.replace(config, reward_scale=1.0, reward_shift=0.0)), store
    )
    lengths = torch.tensor([30, 7, 2, 50])
    left = batch.returns_to_go - 100 * plain.returns_to_go  # one for each step that is left
    rounded = left.round()
    torch.testing.assert_close(left, rounded, atol=1e-2, rtol=0)
    assert rounded[batch.mask].min() >= 1 and rounded.max() <= lengths.max()


def test_original_configuration():
    config = DTConfig.original(batch_size=8)
    assert (config.norm, config.padding, config.weighting, config.start) == (
        "pre",
        "left",
        "length",
        "anywhere",
    )
    assert config.batch_size == 8


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_config_is_frozen_and_hashable(name):
    config = ALGORITHMS[name].config()
    hash(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0


def test_bad_settings_are_refused(store):
    with pytest.raises(ValueError, match=r"max_timestep: expected at least 50, the most steps .*, got 49"):
        create("dt", store, dataclasses.replace(CONFIGS["dt"], max_timestep=49))
    with pytest.raises(ValueError, match="return_scale: expected a positive number, got 0"):
        create("dt", store, dataclasses.replace(CONFIGS["dt"], return_scale=0.0))
    with pytest.raises(ValueError, match="expectile: expected a number between 0 and 1, got 1"):
        ReinformerConfig(expectile=1.0)
    with pytest.raises(ValueError, match="initial_temperature: expected a positive number, got 0"):
        ReinformerConfig(initial_temperature=0.0)
    with pytest.raises(TypeError, match=r"config: expected dtag_fast\.algorithms\.dt\.Config"):
        create("dt", store, CONFIGS["reinformer"])


def test_the_time_limit_of_the_environment_counts_too(store):
    limited = TrajectoryStore.from_episodes([store.episode(0)], store.metadata | {"max_episode_steps": 1000})
    with pytest.raises(ValueError, match="max_timestep: expected at least 1000"):
        create("dt", limited, CONFIGS["dt"])


def test_a_store_without_action_bounds_is_refused(store):
    metadata = {k: v for k, v in store.metadata.items() if k != "action_low"}
    bare = TrajectoryStore.from_episodes([store.episode(0)], metadata)
    with pytest.raises(ValueError, match="metadata: expected 'action_low'"):
        DataSpec.of(bare)
