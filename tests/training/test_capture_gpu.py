"""Captured training on a GPU: the losses of updates made one by one, resumed, and nothing else than replays.

Skipped without a GPU; test_capture.py looks at the same things with graphs that run on the CPU.
"""

import dataclasses
import json
import warnings

import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.awac import Config as AWAC
from dtag_fast.algorithms.awac_odt import Config as AWACODT
from dtag_fast.algorithms.bc import Config as BC
from dtag_fast.algorithms.cql import Config as CQL
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.edt import Config as EDT
from dtag_fast.algorithms.iql import Config as IQL
from dtag_fast.algorithms.iql_odt import Config as IQLODT
from dtag_fast.algorithms.odt import Config as ODT
from dtag_fast.algorithms.qt import Config as QT
from dtag_fast.algorithms.reinformer import Config as Reinformer
from dtag_fast.algorithms.sac_odt import Config as SACODT
from dtag_fast.algorithms.stacking import Stack
from dtag_fast.algorithms.td3_odt import Config as TD3ODT
from dtag_fast.algorithms.td3bc import Config as TD3BC
from dtag_fast.data.seed_sampler import SeedSampler
from dtag_fast.ops.per_seed import Generators
from dtag_fast.training import train
from dtag_fast.training.capture import WARM_UPDATES, TrainingSteps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = "cuda"
_SEQUENCE = {"context_len": 5, "d_model": 64, "n_layer": 2, "n_head": 2, "max_timestep": 32, "batch_size": 32}
CONFIGS = {
    "dt": DT(**_SEQUENCE, warmup=100),
    "dt:original": DT.original(**{**_SEQUENCE, "n_head": 1}, warmup=100),
    "reinformer": Reinformer(**_SEQUENCE, warmup=100),
    "odt": ODT(**_SEQUENCE, warmup=100),
    "bc": BC(hidden=(64, 64), warmup=100),
    "edt": EDT(**_SEQUENCE, warmup=100),
    "qt": QT(**_SEQUENCE, critic_hidden=(64, 64), ema_start=20, ema_every=3, lr_horizon=300),
    "iql": IQL(hidden=(64, 64), batch_size=64, polyak=0.05),
    "iql:policy": IQL(hidden=(64, 64), batch_size=64, policy=True, policy_dropout=0.1, policy_horizon=150),
    "td3bc": TD3BC(hidden=(64, 64), batch_size=64, polyak=0.05),
    "td3bc:delay": TD3BC(hidden=(64, 64), batch_size=64, policy_delay=3),
    "awac": AWAC(hidden=(64, 64), batch_size=64, n_step=3),
    "cql": CQL(hidden=(64,), policy_hidden=(64,), batch_size=64, lagrange_gap=1.0, imitation_updates=50),
    "td3-odt": TD3ODT(**_SEQUENCE, critic_hidden=(64, 64), warmup=100, alpha=0.1),
    "sac-odt": SACODT(**_SEQUENCE, critic_hidden=(64, 64), warmup=100, alpha=0.1),
    "awac-odt": AWACODT(**_SEQUENCE, critic_hidden=(64, 64), warmup=100, alpha=0.1),
    "iql-odt": IQLODT(**_SEQUENCE, critic_hidden=(64, 64), warmup=100, alpha=0.1),
}


@pytest.fixture(params=CONFIGS)
def case(request):
    """(algorithm, config)"""
    return request.param.partition(":")[0], CONFIGS[request.param]


def make_steps(case, store, captured=True, capturable=True, **options):
    learner = create(case[0], store, case[1], seed=1, device=DEVICE, capturable=capturable)
    generator = torch.Generator(DEVICE).manual_seed(2)
    eager = None if captured else "to compare with"
    return learner, TrainingSteps(
        learner, learner.make_sampler(store), generator, eager=eager, insist=captured, **options
    )


def trajectory(steps, updates, most=None):
    """Sums of the metrics after each call, and the number of updates in it."""
    made, counts, sums = 0, [], []
    while made < updates:
        count, metrics = steps.advance(min(updates - made, most or updates))
        counts.append(count)
        sums.append({name: value.double().clone() for name, value in metrics.items()})
        made += count
    return counts, {name: torch.stack([s[name] for s in sums]) for name in sums[0]}


def summed(counts, metrics):
    """Metrics of single updates, added up over runs of `counts` updates."""
    return {
        name: torch.stack([part.sum() for part in values.split(counts)]) for name, values in metrics.items()
    }


def assert_close(ours, theirs, rtol):
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values.isfinite().all(), name
        scale = theirs[name].abs().mean().item()
        torch.testing.assert_close(values, theirs[name], rtol=rtol, atol=rtol * scale, msg=name)


@pytest.mark.parametrize("capturable", [True, False], ids=["counts on the device", "counts on the host"])
def test_200_updates_have_the_losses_of_updates_one_by_one(case, store, capturable):
    learner, steps = make_steps(case, store, steps_per_replay=8)
    counts, captured = trajectory(steps, 200)
    assert steps.execution == "in CUDA graphs of 8 and 1" and learner.updates_done == 200
    assert counts[:WARM_UPDATES] == [1] * WARM_UPDATES and max(counts) == 8
    _, plain = make_steps(case, store, captured=False, capturable=capturable)
    single, metrics = trajectory(plain, 200)
    assert single == [1] * 200
    assert_close(captured, summed(counts, metrics), rtol=1e-3 if capturable else 5e-3)


def test_the_random_numbers_are_those_of_updates_one_by_one(case, store):
    states = []
    for captured in (True, False):
        learner, steps = make_steps(case, store, captured, steps_per_replay=4)
        trajectory(steps, 30)
        states.append((learner.generator.get_state(), steps._generator.get_state()))
    assert torch.equal(states[0][0], states[1][0]) and torch.equal(states[0][1], states[1][1])


def test_several_updates_in_a_replay_are_as_many_replays_of_one(case, store):
    _, several = make_steps(case, store, steps_per_replay=8)
    _, single = make_steps(case, store, steps_per_replay=1)
    counts, sums = trajectory(several, 60)
    ones, metrics = trajectory(single, 60)
    assert ones == [1] * 60 and 8 in counts
    assert single.execution == "in CUDA graphs of 1"
    assert_close(sums, summed(counts, metrics), rtol=1e-3)


def test_a_stack_of_seeds_has_the_losses_of_the_seeds(case, store):
    """In graphs, and of the same operators: PyTorch's, as the kernels take one seed."""
    name, config = case
    if hasattr(config, "attention"):
        config = dataclasses.replace(config, attention="sdpa")
    learners = [create(name, store, config, seed=seed, device=DEVICE, capturable=True) for seed in (1, 2)]
    alone = create(name, store, config, seed=2, device=DEVICE, capturable=True)
    sampler, eager = alone.make_sampler(store), "to compare with"
    generators = Generators([torch.Generator(DEVICE).manual_seed(seed) for seed in (1, 2)])
    stack = Stack(learners).learner
    steps = TrainingSteps(stack, SeedSampler(sampler), generators, insist=True, steps_per_replay=4)
    counts, found = trajectory(steps, 60)
    own = torch.Generator(DEVICE).manual_seed(2)
    _, expected = trajectory(TrainingSteps(alone, sampler, own, eager=eager), 60)
    assert max(counts) == 4
    assert_close({k: v[:, 1] for k, v in found.items()}, summed(counts, expected), rtol=5e-3)


class OneBatch:
    """Always the same batch."""

    def __init__(self, batch):
        self.batch = batch

    def sample(self, generator):
        return self.batch


@pytest.mark.parametrize("algorithm", ["dt", "reinformer"])
def test_dropout_differs_from_replay_to_replay_and_follows_its_generator(store, algorithm):
    config = dataclasses.replace(CONFIGS[algorithm], lr=0.0)
    if algorithm == "reinformer":
        config = dataclasses.replace(config, temperature_lr=0.0)
    learner = create(algorithm, store, config, device=DEVICE, capturable=True)
    generator = torch.Generator(DEVICE).manual_seed(0)
    batch = learner.make_sampler(store).sample(generator)
    steps = TrainingSteps(learner, OneBatch(batch), generator, insist=True, steps_per_replay=2)
    trajectory(steps, WARM_UPDATES + 2)
    before = learner.generator.get_state()
    _, metrics = trajectory(steps, 10, most=1)
    losses = metrics["grad_norm"].tolist()
    assert len(set(losses)) == 10
    learner.generator.set_state(before)
    _, metrics = trajectory(steps, 10, most=1)
    assert metrics["grad_norm"].tolist() == pytest.approx(losses, rel=1e-4)


def test_replays_allocate_nothing_that_stays_and_wait_for_nothing(case, store):
    _, steps = make_steps(case, store, steps_per_replay=4)
    trajectory(steps, WARM_UPDATES + 4 + 1)
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            steps.advance(4)
            steps.advance(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == allocated and torch.cuda.memory_reserved() == reserved


def records(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "speed/"))} for line in lines]


@pytest.mark.parametrize("ways", [(None, None), (True, False), (False, True)])
def test_a_run_goes_on_from_a_checkpoint(case, store, tmp_path, ways):
    """Ended in the middle of a window of the log, captured or not before and after."""
    name, config = case
    options = {"config": config, "device": DEVICE, "log_every": 20, "checkpoint_every": 50, "seed": 1}
    whole = train(name, store, out=tmp_path / "whole", updates=120, **options)
    out = tmp_path / "parts"
    train(name, store, out=out, updates=70, capture=ways[0], **options)
    train(name, store, out=out, updates=120, capture=ways[1], resume=True, **options)
    execution = json.loads((out / "config.json").read_text())["execution"]
    assert execution == (
        "one by one: capture=False was asked for" if ways[1] is False else "in CUDA graphs of 10 and 1"
    )
    for ours, theirs in zip(records(out), records(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=5e-3, abs=1e-4)


def test_what_cannot_be_captured_is_trained_one_by_one_with_the_reason(store):
    """A learner that looks at a number on the host, which a capture forbids."""
    case = "dt", CONFIGS["dt"]
    learner, steps = make_steps(case, store)
    steps._insist = False
    update = learner.update

    def looking(batch):
        metrics = update(batch)
        assert metrics["loss"].item() > 0
        return metrics

    learner.update = looking
    for _ in range(WARM_UPDATES):
        steps.advance(10)
    with pytest.warns(RuntimeWarning, match="updates are made one by one: the capture failed, "):
        steps.advance(10)
    assert steps.execution.startswith("one by one: the capture failed, ")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # once is enough
        trajectory(steps, 20, most=1)
    assert learner.updates_done == WARM_UPDATES + 21
    plain_learner, plain = make_steps(case, store, captured=False)
    trajectory(plain, WARM_UPDATES + 21)
    assert torch.equal(learner.generator.get_state(), plain_learner.generator.get_state())
    for p, q in zip(learner.model.parameters(), plain_learner.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)


def test_divergence_stops_a_captured_run(store, tmp_path):
    config = dataclasses.replace(CONFIGS["dt"], lr=1e38, warmup=0)
    with pytest.raises(FloatingPointError, match="training diverged"):
        train("dt", store, config=config, device=DEVICE, out=tmp_path / "run", updates=60, log_every=20)
