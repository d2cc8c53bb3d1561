"""Discrete actions: the losses by hand, what an update does with them, and who learns them."""

import copy
import dataclasses
import math

import cartpole
import pytest
import torch

from dtag_fast.algorithms import ALGORITHMS, DataSpec, create
from dtag_fast.algorithms.dt import Config as DTConfig
from dtag_fast.algorithms.lamb import Lamb, clip_
from dtag_fast.algorithms.losses import masked_agreement, masked_cross_entropy
from dtag_fast.algorithms.reinformer import Config as ReinformerConfig
from dtag_fast.data import Windows

SMALL = {"context_len": 4, "d_model": 16, "n_layer": 2, "n_head": 2, "max_timestep": 500, "batch_size": 16}
CONFIGS = {
    "dt": DTConfig(**SMALL),
    "dt-original": DTConfig.original(**SMALL),
    "reinformer": ReinformerConfig(**SMALL),
}
every_kind = pytest.mark.parametrize("kind", CONFIGS)


@pytest.fixture(scope="module")
def discrete_store():
    return cartpole.scripted_store(6, steps=40)


def make(kind, store, seed=0, **changes):
    config = dataclasses.replace(CONFIGS[kind], **changes)
    return create(kind.split("-")[0], store, config, seed=seed)


def batch_of(learner, store, seed=0) -> Windows:
    return learner.make_sampler(store).sample(torch.Generator().manual_seed(seed))


def parameters(learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


def test_cross_entropy_and_agreement_by_hand():
    """Two windows of two steps, the last one padding: logits log 1, log 2, log 5 give 1/8, 2/8, 5/8."""
    logits = torch.tensor([1.0, 2.0, 5.0]).log().expand(2, 2, 3).clone().requires_grad_()
    target = torch.eye(3)[torch.tensor([[2, 0], [1, 1]])]
    target[1, 1] = 0.0
    mask = torch.tensor([[True, True], [True, False]])
    loss = masked_cross_entropy(logits, target, mask)
    assert loss.item() == pytest.approx((math.log(8 / 5) + math.log(8) + math.log(4)) / 3, rel=1e-6)
    loss.backward()
    probabilities = torch.tensor([1.0, 2.0, 5.0]) / 8
    expected = (probabilities - target) / 3 * mask[..., None]
    torch.testing.assert_close(logits.grad, expected)
    predicted = torch.eye(3)[torch.tensor([[2, 2], [1, 1]])]
    assert masked_agreement(predicted, target, mask).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cross_entropy_is_taken_in_the_wider_type(dtype):
    logits, target = torch.tensor([[[200.0, 0.0]]], dtype=dtype), torch.tensor([[[0.0, 1.0]]])
    loss = masked_cross_entropy(logits, target, torch.ones(1, 1, dtype=torch.bool))
    assert loss.item() == 200.0 and loss.dtype == torch.promote_types(dtype, torch.float32)


def published(learner, batch):
    """Of a batch, with boolean indexing and PyTorch's own losses."""
    out, mask = learner.model(*batch), batch.mask
    loss = torch.nn.functional.cross_entropy(out.action_logits[mask], batch.actions[mask].argmax(-1))
    if out.returns is not None:
        returns = batch.returns_to_go[mask]
        u = (returns - out.returns[mask]) / returns.abs().mean()
        tau = learner.config.expectile
        loss = loss + (torch.where(u < 0, 1 - tau, tau) * u**2).mean()
    return loss


@every_kind
def test_an_update_is_one_step_down_the_cross_entropy(kind, discrete_store):
    learner, twin = (make(kind, discrete_store, 3, dropout=0.0, warmup=2, lr=1e-3) for _ in range(2))
    for model in (learner.model, twin.model):
        model.double()
    settings = {"lr": 1e-3, "weight_decay": 1e-4}
    if kind == "reinformer":
        optimizer = Lamb(twin.model.parameters(), **settings)
    else:
        optimizer = torch.optim.AdamW(twin.model.parameters(), **settings)
    for n in range(4):
        batch = batch_of(learner, discrete_store, n)
        batch = Windows(*(x.double() for x in batch[:3]), *batch[3:])
        loss = published(twin, batch)
        optimizer.zero_grad()
        loss.backward()
        clip_([p.grad for p in twin.model.parameters()], 0.25)
        optimizer.param_groups[0]["lr"] = 1e-3 * min((n + 1) / 2, 1)
        optimizer.step()
        metrics = learner.update(batch)
        assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert 0 <= metrics["accuracy"].item() <= 1
        assert "temperature" not in metrics
    for p, q in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@every_kind
def test_the_gradient_reaches_every_parameter_that_acts(kind, discrete_store):
    learner = make(kind, discrete_store, dropout=0.0)
    published(learner, batch_of(learner, discrete_store)).backward()
    for name, p in learner.model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


@every_kind
def test_what_stands_in_padding_changes_no_bit(kind):
    ends, short = [], cartpole.scripted_store(6, steps=3)
    for fill in (0.0, 50.0):
        learner = make(kind, short)
        batch = batch_of(learner, short)
        assert not batch.mask.all()
        assert not batch.actions[~batch.mask].any() and (batch.actions[batch.mask].sum(-1) == 1).all()
        floats = [torch.where(batch.mask[..., None], x, fill) for x in batch[:3]]
        learner.update(Windows(*floats, *batch[3:]))
        ends.append(parameters(learner))
    assert torch.equal(*ends)


@every_kind
def test_state_goes_on_to_the_same_bits(kind, discrete_store):
    """Dropout on; saved after three updates and taken back by a learner of another seed."""
    learner, other = make(kind, discrete_store, seed=7), make(kind, discrete_store, seed=8)
    sampler, g = learner.make_sampler(discrete_store), torch.Generator().manual_seed(0)
    for _ in range(3):
        learner.update(sampler.sample(g))
    other.model.load_state_dict(learner.model.state_dict())
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert learner.state_dict()["extra"] == {}
    later = g.get_state()
    for one in (learner, other):
        g.set_state(later)
        for _ in range(3):
            one.update(sampler.sample(g))
    assert torch.equal(parameters(learner), parameters(other))


@every_kind
def test_validation_says_loss_and_accuracy(kind, discrete_store):
    learner = make(kind, discrete_store, dropout=0.0)
    batch = batch_of(learner, discrete_store)
    found, out = learner.validate(batch), learner.model(*batch)
    agree = (out.action_logits.argmax(-1) == batch.actions.argmax(-1))[batch.mask].float().mean()
    assert found["accuracy"].item() == pytest.approx(agree.item())
    assert sum(found[name].item() for name in found if name != "accuracy") == pytest.approx(
        published(learner, batch).item(), rel=1e-5
    )


@every_kind
def test_capturable_learners_train_the_same_within_rounding(kind, discrete_store):
    config, curves = dataclasses.replace(CONFIGS[kind], warmup=20, lr=1e-3), []
    for capturable in (False, True):
        learner = create(kind.split("-")[0], discrete_store, config, capturable=capturable)
        sampler, g = learner.make_sampler(discrete_store), torch.Generator().manual_seed(0)
        curves.append(torch.stack([learner.update(sampler.sample(g))["loss"] for _ in range(50)]))
    torch.testing.assert_close(*curves, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"dt", "reinformer"}))
def test_the_others_refuse(name, discrete_store):
    sentence = (
        rf"^actions: {name} learns continuous actions, those of the data are Discrete\(2\); .* dt and rei"
    )
    with pytest.raises(ValueError, match=sentence):
        create(name, discrete_store, ALGORITHMS[name].config())


@pytest.mark.parametrize("kind", ["dt", "reinformer"])
def test_a_term_of_q_is_refused(kind, discrete_store, trained_critic):
    config = dataclasses.replace(CONFIGS[kind], q_weight=0.5)
    for critic in (None, trained_critic):
        with pytest.raises(
            ValueError, match=r"^q_weight: .* continuous actions, those of the data are Discrete"
        ):
            create(kind, discrete_store, config, critic=critic)


def test_facts_of_the_data(discrete_store):
    data = DataSpec.of(discrete_store)
    assert (data.action_dim, data.action_low, data.action_high) == (2, [], [])
    assert data.discrete == discrete_store.discrete_actions
