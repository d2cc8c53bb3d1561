"""Captured training without a GPU: what a graph would do, where replays end, and why there may be none.

The graphs are those of cpu_graph.py; test_capture_gpu.py has the same on a GPU.
"""

import dataclasses
import json

import pytest
import torch
from cpu_graph import CpuRecorder, FailingRecorder, HostAccess
from safetensors.torch import load_file

from dtag_fast.algorithms import TrainedCritic, create, stream_seed
from dtag_fast.algorithms.adt import Config as ADT
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.models import TwinCritic, ValueNet, sequence
from dtag_fast.training import capture, loop, train
from dtag_fast.training.capture import TrainingSteps, why_not_capture
from dtag_fast.training.plan import until_due

# Schedules that still move during the few updates of a test.
MOVING = {
    "dt": {"warmup": 40},
    "reinformer": {"warmup": 40},
    "odt": {"warmup": 40},
    "bc": {"warmup": 40},
    "edt": {"warmup": 40},
    "qt": {"lr_horizon": 40, "polyak": 0.1, "ema_decay": 0.9, "ema_start": 10, "ema_every": 3},
    "td3-odt": {"warmup": 40, "polyak": 0.1, "policy_delay": 3},
    "sac-odt": {"warmup": 40, "polyak": 0.1},
    "awac-odt": {"warmup": 40, "polyak": 0.1},
    "iql-odt": {"warmup": 40, "polyak": 0.1},
    "iql": {"policy_horizon": 40},
    "td3bc": {"polyak": 0.1, "policy_delay": 3},  # graphs of 4 start at every place in its period
    "awac": {"polyak": 0.1},
    "cql": {"imitation_updates": 15},
}
CASES = ["dt-original", *MOVING]


@pytest.fixture(params=CASES)
def case(request, configs):
    """(algorithm, config)"""
    name = "dt" if request.param == "dt-original" else request.param
    config = dataclasses.replace(configs[name], **MOVING[name])
    if request.param == "dt-original":
        fields = {k: v for k, v in vars(config).items() if k in ("context_len", "d_model", "batch_size")}
        config = DT.original(**fields | {"n_head": 2, "warmup": 40, "max_timestep": 32})
    return name, config


@pytest.fixture(autouse=True)
def masks_unseen(monkeypatch):
    """As on a GPU, where looking at a mask would wait for the device."""
    monkeypatch.setattr(sequence, "check_sides", lambda mask, padding: None)


@pytest.fixture
def cpu_graphs(monkeypatch):
    """Updates on the CPU are captured, in graphs that stand in for CUDA's, of PyTorch's operators alone."""
    monkeypatch.setattr("dtag_fast.ops.mlp.api.why_missing", lambda: "the stand-in replays operators")
    monkeypatch.setattr(loop, "why_not_capture", lambda device: None)
    monkeypatch.setattr(capture, "GraphRecorder", CpuRecorder)


def training(case, store, capturable=True, critic=None):
    """A learner, its sampler and the generator of its batches."""
    learner = create(case[0], store, case[1], seed=1, capturable=capturable, critic=critic)
    return learner, learner.make_sampler(store), torch.Generator().manual_seed(2)


def one_by_one(learner, sampler, generator, updates):
    return [learner.update(sampler.sample(generator)) for _ in range(updates)]


def parameters(learner):
    return [p.detach().clone() for module in learner.modules.values() for p in module.parameters()]


def test_replays_are_updates_bit_for_bit(case, store, cpu_graphs):
    """Graphs of 4 and 1; random numbers, schedules, optimizers and averages go on from replay to replay."""
    assert_replays_are_updates(training(case, store), training(case, store))


@pytest.mark.parametrize("algorithm", ["dt", "reinformer", "adt"])
def test_replays_that_learn_from_a_critic_are_updates_too(algorithm, configs, store, cpu_graphs):
    if algorithm == "adt":
        small = ("context_len", "d_model", "n_layer", "n_head", "max_timestep", "batch_size")
        config = ADT(**{name: getattr(configs["dt"], name) for name in small}, warmup=40)
    else:  # the weight of Q rises within the replays
        config = dataclasses.replace(configs[algorithm], q_weight=2.0, q_start=7, q_ramp=15)
    networks = TwinCritic(store.state_dim, store.action_dim, hidden=(8,)), ValueNet(store.state_dim)
    critic = TrainedCritic(*networks)
    plain, captured = (training((algorithm, config), store, critic=critic) for _ in range(2))
    assert_replays_are_updates(plain, captured)


def assert_replays_are_updates(plain, captured):
    steps = TrainingSteps(*captured, steps_per_replay=4)
    made, counts = 0, []
    while made < 30:
        count, sums = steps.advance(30 - made)
        expected = one_by_one(*plain, count)
        for name, value in sums.items():
            assert value.item() == pytest.approx(sum(m[name].double() for m in expected).item(), rel=1e-14)
        made += count
        counts.append(count)
        assert captured[0].updates_done == captured[0].schedule_step.item() == made
    assert counts == [1] * capture.WARM_UPDATES + [4] * 6 + [1] * 3
    assert steps.execution == "in CUDA graphs of 4 and 1"
    assert all(torch.equal(*pair) for pair in zip(parameters(captured[0]), parameters(plain[0]), strict=True))
    assert torch.equal(captured[0].generator.get_state(), plain[0].generator.get_state())


def test_a_replay_is_seen_by_who_looks_at_versions(configs, store, cpu_graphs):
    """A real replay writes where Python does not see it."""
    learner, sampler, generator = training(("dt", configs["dt"]), store)
    steps = TrainingSteps(learner, sampler, generator, steps_per_replay=4)
    for _ in range(capture.WARM_UPDATES + 1):
        steps.advance(4)
    steps._graphs = {size: (lambda: None, sums) for size, (_, sums) in steps._graphs.items()}
    before = [p._version for p in learner.model.parameters()]
    steps.advance(4)
    assert all(p._version > v for p, v in zip(learner.model.parameters(), before, strict=True))


@pytest.mark.parametrize("algorithm", ["dt", "reinformer"])
def test_the_stand_in_finds_what_looks_at_numbers(algorithm, store, configs):
    learner, sampler, generator = training((algorithm, configs[algorithm]), store, capturable=False)
    with pytest.raises(HostAccess, match="reads a number"):
        CpuRecorder(None, []).record(lambda: learner.update(sampler.sample(generator)))


def test_the_stand_in_freezes_numbers_of_the_host(store, configs, cpu_graphs):
    """A learning rate that lies on the host stays as it was captured."""
    case = "iql", dataclasses.replace(configs["iql"], policy_horizon=3, lr=1e-2)
    plain, frozen = training(case, store), training(case, store, capturable=False)
    frozen[0]._compiled._settled = "the stand-in replays operators"
    one_by_one(*frozen, 1), one_by_one(*plain, 1)
    learner, sampler, generator = frozen
    replay = CpuRecorder(None, [learner.generator, generator]).record(
        lambda: learner.update(sampler.sample(generator))
    )
    for _ in range(3):
        replay()
    one_by_one(*plain, 3)
    same = [torch.equal(*pair) for pair in zip(parameters(learner), parameters(plain[0]), strict=True)]
    assert any(same) and not all(same)  # the critic's rate is constant, the policy's is not


def test_a_learner_that_keeps_numbers_on_the_host_is_not_captured(store, configs):
    steps = TrainingSteps(*training(("dt", configs["dt"]), store, capturable=False))
    assert steps.execution == "one by one: the learner was created without capturable=True"
    assert steps.advance(10)[0] == 1


def test_a_failed_capture_goes_on_one_by_one_and_says_why(case, store, monkeypatch):
    monkeypatch.setattr(capture, "GraphRecorder", FailingRecorder)
    plain, captured = training(case, store), training(case, store)
    reports = []
    steps = TrainingSteps(*captured, steps_per_replay=4, report=reports.append)
    assert reports == []
    for _ in range(capture.WARM_UPDATES):
        steps.advance(20)
    with pytest.warns(RuntimeWarning, match="one by one: the capture failed, operation not permitted$"):
        steps.advance(20)
    assert reports == [steps.execution] == ["one by one: the capture failed, operation not permitted"]
    assert steps.advance(20)[0] == 1
    one_by_one(*plain, capture.WARM_UPDATES + 2)
    assert captured[0].updates_done == capture.WARM_UPDATES + 2
    assert all(torch.equal(*pair) for pair in zip(parameters(captured[0]), parameters(plain[0]), strict=True))


def test_a_failed_capture_is_an_error_where_it_is_insisted_on(store, configs, monkeypatch):
    monkeypatch.setattr(capture, "GraphRecorder", FailingRecorder)
    steps = TrainingSteps(*training(("dt", configs["dt"]), store), insist=True)
    for _ in range(capture.WARM_UPDATES):
        steps.advance(20)
    with pytest.raises(RuntimeError, match="capture: the capture failed, operation not permitted; leave it"):
        steps.advance(20)


def test_reasons(monkeypatch):
    assert why_not_capture("cpu") == "CUDA graphs need a CUDA device, the device is cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not_capture("cuda") == "PyTorch sees no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_not_capture(torch.device("cuda", 1)) is None


@pytest.mark.parametrize(
    "step, updates, periods, expected",
    [
        (0, 1000, [100, 5000], 100),
        (99, 1000, [100, 5000], 1),
        (100, 1000, [100, 250], 100),
        (200, 1000, [100, 250], 50),
        (950, 977, [100, 5000], 27),
        (0, 3, [7], 3),
    ],
)
def test_updates_until_something_is_due(step, updates, periods, expected):
    assert until_due(step, updates, periods) == expected


def records(run):
    """The log without the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "speed/"))} for line in lines]


def execution(run):
    return json.loads((run / "config.json").read_text())["execution"].split(";")[0]


def test_by_default_a_cpu_trains_as_ever_and_says_so(case, store, tmp_path):
    name, config = case
    run = train(name, store, config=config, out=tmp_path / "run", updates=6, seed=1)
    assert execution(run) == "one by one: CUDA graphs need a CUDA device, the device is cpu"
    learner = create(name, store, config, seed=1)
    generator = torch.Generator().manual_seed(stream_seed(1, "batches"))
    one_by_one(learner, learner.make_sampler(store), generator, 6)
    for stem, network in learner.exports.items():
        saved = load_file(run / "checkpoints" / "last" / f"{stem}.safetensors")
        assert all(torch.equal(saved[k], v) for k, v in network.state_dict().items())


def test_a_captured_run_logs_and_saves_where_it_is_due(case, store, tmp_path, cpu_graphs):
    name, config = case
    options = {"config": config, "updates": 23, "log_every": 5, "checkpoint_every": 9, "seed": 1}
    captured = train(name, store, out=tmp_path / "captured", steps_per_replay=4, **options)
    plain = train(name, store, out=tmp_path / "plain", capture=False, **options)
    assert execution(captured) == "in CUDA graphs of 4 and 1"
    assert execution(plain) == "one by one: capture=False was asked for"
    folders = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (captured, plain)]
    assert folders[0] == folders[1] == ["18", "23", "9", "last"]
    assert [row["step"] for row in records(captured)] == [5, 10, 15, 20]
    for ours, theirs in zip(records(captured), records(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("ways", [(None, None), (False, None), (None, False)])
def test_runs_go_on_captured_or_not(case, store, tmp_path, cpu_graphs, weights_of, ways):
    name, config = case
    options = {"config": config, "log_every": 4, "checkpoint_every": 7, "steps_per_replay": 3, "seed": 1}
    whole = train(name, store, out=tmp_path / "whole", updates=22, **options)
    out = tmp_path / "parts"
    train(name, store, out=out, updates=10, capture=ways[0], **options)  # ends within a window of the log
    train(name, store, out=out, updates=22, capture=ways[1], resume=True, **options)
    for ours, theirs in zip(records(out), records(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    if ways == (None, None):
        ours, theirs = weights_of(out), weights_of(whole)
        sums = {name for name in ours if "window" in name}  # of the log, added up in another order
        assert sums and all(torch.equal(ours[k], theirs[k]) for k in ours.keys() - sums)


def test_insisting_where_it_cannot_be_is_refused_before_anything_is_written(store, configs, tmp_path):
    with pytest.raises(ValueError, match="capture: CUDA graphs need a CUDA device, the device is cpu; leave"):
        train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=2, capture=True)
    with pytest.raises(ValueError, match="capture: expected True, False or None, got 'yes'"):
        train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=2, capture="yes")
    with pytest.raises(ValueError, match="steps_per_replay: expected a positive integer, got 0"):
        train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=2, steps_per_replay=0)
    assert not (tmp_path / "run").exists()


def test_divergence_is_noticed_at_the_next_log(store, configs, tmp_path, cpu_graphs):
    config = dataclasses.replace(configs["dt"], lr=1e38, warmup=0)
    with pytest.raises(FloatingPointError, match="loss became nan: training diverged"):
        train("dt", store, config=config, out=tmp_path / "run", updates=20, log_every=10)
    assert not any((tmp_path / "run").glob("checkpoints/*"))
