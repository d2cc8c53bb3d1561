"""Several seeds in one process: each as its single run, in batches, noise, numbers and files.

Seeds that are updated in turn have a file of their own, test_seeds_in_turn.py.
"""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from cpu_graph import CpuRecorder
from safetensors.torch import load_file, save_file

from dtag_fast.algorithms import TrainedCritic, create
from dtag_fast.algorithms.adt import Config as ADT
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.stacking import Stack
from dtag_fast.data.seed_sampler import SeedSampler
from dtag_fast.models import TwinCritic, ValueNet
from dtag_fast.ops.per_seed import Generators
from dtag_fast.training import capture, load_policy, loop, train, train_seeds
from dtag_fast.training.capture import TrainingSteps

SEEDS = (4, 5, 6)
CASES = ["dt", "dt-original", "dt-q", "reinformer", "reinformer-q", "odt", "adt", "bc", "edt", "qt"]
CASES += ["td3-odt", "sac-odt", "awac-odt", "iql-odt", "iql", "td3bc", "awac", "cql", "cql-free"]

# What vmap has no rule for is computed seed by seed, and PyTorch warns of it.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


@pytest.fixture(params=CASES)
def case(request, configs, store):
    """(algorithm, config, critic), with settings under which 25 updates move the weights."""
    name, variant = request.param, ""
    if name not in configs:
        name, _, variant = name.partition("-")
    fields = ("context_len", "d_model", "n_layer", "n_head", "max_timestep", "batch_size")
    small = {field: getattr(configs["dt"], field) for field in fields}
    changes = {"lr": 1e-3}
    if variant == "original":
        config = DT.original(**small)
    elif variant == "free":
        config, changes = configs[name], changes | {"lagrange_gap": None, "importance_sampling": False}
        changes |= {"backup_entropy": True, "max_backup": False, "imitation_updates": 7}
    else:
        config = ADT(**small) if name == "adt" else configs[name]
    if hasattr(config, "warmup"):
        changes["warmup"] = 5
    critic = None
    if variant == "q":
        changes |= {"q_weight": 1.0, "q_start": 5, "q_ramp": 5}
    if variant == "q" or name == "adt":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            networks = TwinCritic(store.state_dim, store.action_dim, hidden=(8,)), ValueNet(store.state_dim)
        critic = TrainedCritic(*networks)
    return name, dataclasses.replace(config, **changes), critic


def learners_of(case, store, capturable=False):
    name, config, critic = case
    return [create(name, store, config, seed=seed, capturable=capturable, critic=critic) for seed in SEEDS]


def batch_generators():
    return [torch.Generator().manual_seed(100 + seed) for seed in SEEDS]


def tensors_of(learner):
    """All numbers of a learner, by name."""
    state = learner.state_dict()
    found = {f"{k}.{n}": p for k, m in learner.modules.items() for n, p in m.state_dict().items()}
    for name, optimizer in state["optimizers"].items():
        for i, entry in optimizer["state"].items():
            found |= {f"optimizer {name}.{i}.{key}": value for key, value in entry.items()}
    return {k: v.detach().clone() for k, v in (found | state["extra"]).items()}


def assert_close(found, expected, **tolerances):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        ours = found[name]
        if name.endswith("attention.qkv.bias") and tolerances["rtol"] > 0:
            # softmax does not see the keys' bias: its gradient is rounding, which Adam brings to full length
            ours, value = (torch.stack(x.chunk(3))[[0, 2]] for x in (ours, value))
        torch.testing.assert_close(ours, value, msg=lambda text, n=name: f"{n}: {text}", **tolerances)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_stack_follows_the_single_trainings(case, store, capturable):
    """With dropout and drawn actions: every seed draws from its own generator."""
    singles, parts = learners_of(case, store, capturable), learners_of(case, store, capturable)
    stack = Stack(parts)
    for single, part in zip(singles, parts, strict=True):
        assert_close(tensors_of(part), tensors_of(single), rtol=0, atol=0)
    before = tensors_of(singles[0])
    sampler = singles[0].make_sampler(store)
    apart, together = batch_generators(), Generators(batch_generators())
    for _ in range(25):
        expected = [s.update(sampler.sample(g)) for s, g in zip(singles, apart, strict=True)]
        found = stack.learner.update(SeedSampler(sampler).sample(together))
        assert list(found) == list(expected[0])
        for name, values in found.items():
            one_by_one = torch.stack([metrics[name] for metrics in expected])
            torch.testing.assert_close(values, one_by_one, rtol=2e-4, atol=2e-5, msg=name)
    stack.give_back()
    for single, part in zip(singles, parts, strict=True):
        assert part.updates_done == single.updates_done == 25
        assert_close(tensors_of(part), tensors_of(single), rtol=2e-4, atol=2e-5)
        assert torch.equal(part.generator.get_state(), single.generator.get_state())
    exported = {f"{k}.{n}" for k, m in singles[0].exports.items() for n, _ in m.named_parameters()}
    assert any(not torch.equal(before[name], tensors_of(parts[0])[name]) for name in exported)
    assert any(not torch.equal(tensors_of(parts[1])[name], tensors_of(parts[0])[name]) for name in exported)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_stack_goes_on_from_the_states_of_its_seeds(case, store, capturable):
    """Bit for bit, whether counts and rates lie on the host or on the device."""
    whole, first = (learners_of(case, store, capturable) for _ in range(2))
    sampler = SeedSampler(whole[0].make_sampler(store))
    batches = [sampler.sample(Generators(batch_generators())) for _ in range(8)]
    stacks = Stack(whole), Stack(first)
    for batch in batches:
        stacks[0].learner.update(batch)
    for batch in batches[:5]:
        stacks[1].learner.update(batch)
    stacks[1].give_back()
    resumed = learners_of(case, store, capturable)
    stack = Stack(resumed)
    for ours, theirs in zip(resumed, first, strict=True):
        for name, network in ours.exports.items():
            network.load_state_dict(theirs.exports[name].state_dict())
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    stack.take_optimizers()
    for batch in batches[5:]:
        stack.learner.update(batch)
    for one in (stack, stacks[0]):
        one.give_back()
    for ours, theirs in zip(resumed, whole, strict=True):
        assert ours.updates_done == float(ours.schedule_step) == 8
        assert_close(tensors_of(ours), tensors_of(theirs), rtol=0, atol=0)


def test_a_seed_that_is_not_finite_leaves_the_others_alone(case, store):
    healthy, ill = Stack(learners_of(case, store)), learners_of(case, store)
    with torch.no_grad():
        for p in next(iter(ill[1].exports.values())).parameters():
            p.fill_(torch.nan)
    ill = Stack(ill)
    sampler = SeedSampler(healthy.learner.make_sampler(store))
    sources = [Generators(batch_generators()) for _ in range(2)]
    for _ in range(3):
        fine, broken = (
            stack.learner.update(sampler.sample(source))
            for stack, source in zip((healthy, ill), sources, strict=True)
        )
    for name in fine:
        assert torch.equal(fine[name][[0, 2]], broken[name][[0, 2]]), name
    assert any(value[1].isnan() for value in broken.values())


def test_batches_are_those_of_the_single_runs(algorithm, store, configs):
    sampler = create(algorithm, store, configs[algorithm]).make_sampler(store)
    together = SeedSampler(sampler).sample(Generators(batch_generators()))
    for i, generator in enumerate(batch_generators()):
        flat, expected = (torch.utils._pytree.tree_leaves(x) for x in (together, sampler.sample(generator)))
        assert all(torch.equal(x[i], y) for x, y in zip(flat, expected, strict=True))


def test_replays_of_a_stack_are_its_updates(case, store, monkeypatch):
    """And nothing in them looks at a number: the stand-in for a CUDA graph refuses that."""
    monkeypatch.setattr(capture, "GraphRecorder", CpuRecorder)
    plain, captured = Stack(learners_of(case, store, True)), Stack(learners_of(case, store, True))
    sampler = SeedSampler(plain.learner.make_sampler(store))
    ours, theirs = Generators(batch_generators()), Generators(batch_generators())
    steps, made = TrainingSteps(captured.learner, sampler, theirs, steps_per_replay=2), 0
    while made < 11:
        count, sums = steps.advance(11 - made)
        expected = [plain.learner.update(sampler.sample(ours)) for _ in range(count)]
        for name, value in sums.items():
            total = sum(metrics[name].double() for metrics in expected)
            torch.testing.assert_close(value, total, rtol=1e-12, atol=1e-12, msg=name)
        made += count
    assert steps.execution == "in CUDA graphs of 2 and 1"
    for one, other in zip(plain.learner.modules.values(), captured.learner.modules.values(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


PACE = {"log_every": 3, "checkpoint_every": 5}


def records(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in lines]


def group(algorithm, store, configs, out, updates=13, seeds=3, **settings):
    return train_seeds(
        algorithm,
        store,
        config=configs[algorithm],
        out=out,
        updates=updates,
        seed=SEEDS[0],
        seeds=seeds,
        **PACE | settings,
    )


@pytest.fixture(params=[False, True], ids=["in turn", "stacked"])
def iql(request, configs):
    """Configs of IQL alone, whose seeds go in turn where an update is a compiled call; LayerNorm is not."""
    return {"iql": dataclasses.replace(configs["iql"], layer_norm=request.param)}


def assert_same_within_rounding(weights_of, run, other):
    ours, theirs = weights_of(run), weights_of(other)
    assert ours.keys() == theirs.keys() and ours
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_run_folders_are_those_of_single_runs(algorithm, store, configs, tmp_path, weights_of):
    """And any of them can be resumed alone."""
    runs = group(algorithm, store, configs, tmp_path / "together")
    assert [run.name for run in runs] == [f"seed-{seed}" for seed in SEEDS]
    for seed, run in zip(SEEDS, runs, strict=True):
        settings = {"config": configs[algorithm], "seed": seed, **PACE}
        alone = train(algorithm, store, out=tmp_path / f"{seed}", updates=13, **settings)
        files, same = ({str(p.relative_to(r)) for p in r.rglob("*")} for r in (run, alone))
        assert files == same
        assert_same_within_rounding(weights_of, run, alone)
        for found, expected in zip(records(run), records(alone), strict=True):
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
        described, expected = (json.loads((r / "config.json").read_text()) for r in (run, alone))
        together = described.pop("execution")
        assert "3 seeds stacked" in together or "3 seeds in turn" in together
        assert together.startswith(expected.pop("execution").split(";")[0])
        assert described == expected
        if seed == SEEDS[1]:
            for r in (run, alone):
                train(algorithm, store, out=r, updates=17, resume=True, **settings)
            assert_same_within_rounding(weights_of, run, alone)


def test_a_resumed_group_equals_an_uninterrupted_one(algorithm, store, configs, tmp_path, assert_same_bits):
    """Stopped between checkpoints and in the middle of a logging window; turns are as short as that takes."""
    whole = group(algorithm, store, configs, tmp_path / "whole")
    asked = iter(range(100))
    parts = group(
        algorithm, store, configs, tmp_path / "parts", stop=lambda: next(asked) == 6, steps_per_replay=1
    )
    assert [row["step"] for row in records(parts[0])] == [3, 6]
    parts = group(algorithm, store, configs, tmp_path / "parts", resume=True)
    for one, other in zip(whole, parts, strict=True):
        assert_same_bits(one, other)
        assert records(one) == records(other)


def test_a_kill_while_checkpoints_are_written_leaves_one_update(store, iql, tmp_path, assert_same_bits):
    """Some seeds have written the newest one and none has published it, as the older ones are still there."""
    whole = group("iql", store, iql, tmp_path / "whole", keep_last=1)
    assert sorted(p.name for p in (whole[0] / "checkpoints").iterdir()) == ["13", "last"]
    killed = group("iql", store, iql, tmp_path / "killed")
    shutil.rmtree(killed[2] / "checkpoints" / "13")
    for run in killed:
        (run / "checkpoints" / "last").unlink()
        (run / "checkpoints" / "last").symlink_to("10")
    group("iql", store, iql, tmp_path / "killed", resume=True, keep_last=1)
    for one, other in zip(whole, killed, strict=True):
        assert_same_bits(one, other)
        assert sorted(p.name for p in (other / "checkpoints").iterdir()) == ["13", "last"]


def test_runs_at_different_updates_are_refused(store, iql, tmp_path):
    runs = group("iql", store, iql, tmp_path, updates=5)
    train("iql", store, config=iql["iql"], out=runs[1], updates=8, seed=SEEDS[1], resume=True, **PACE)
    with pytest.raises(
        ValueError, match="got seed-4 at 5, seed-5 at 8, seed-6 at 5; bring seed-4, seed-6 to"
    ):
        group("iql", store, iql, tmp_path, resume=True)
    for seed in (SEEDS[0], SEEDS[2]):
        run = tmp_path / f"seed-{seed}"
        train("iql", store, config=iql["iql"], out=run, updates=8, seed=seed, resume=True, **PACE)
    assert {row["step"] for row in records(group("iql", store, iql, tmp_path, resume=True)[1])} == {
        *range(3, 13, 3)
    }


def test_nothing_is_begun_where_one_folder_is_used(store, configs, tmp_path):
    (tmp_path / "seed-5").mkdir()
    (tmp_path / "seed-5" / "notes").write_text("mine")
    with pytest.raises(FileExistsError, match="seed-5 is not empty"):
        group("iql", store, configs, tmp_path)
    assert not any((tmp_path / "seed-4").iterdir())


def test_a_seed_that_diverges_stops_the_group_and_the_others_are_saved(store, iql, tmp_path):
    runs = group("iql", store, iql, tmp_path, updates=5)
    path = runs[1] / "checkpoints" / "5" / "critic.safetensors"
    save_file({k: t * torch.nan if "weight" in k else t for k, t in load_file(path).items()}, path)
    with pytest.raises(
        FloatingPointError, match=r"^seed-5: critic_loss became nan.*other seeds are saved at"
    ):
        group("iql", store, iql, tmp_path, resume=True)
    assert json.loads((runs[1] / "diverged.json").read_text())["batches"][0]["update"] == 6
    assert not (runs[0] / "diverged.json").exists()
    reached = [max(int(p.name) for p in (run / "checkpoints").glob("[0-9]*")) for run in runs]
    assert reached == [6, 5, 6]
    train("iql", store, config=iql["iql"], out=runs[2], updates=8, seed=SEEDS[2], resume=True, **PACE)


def test_every_seed_is_evaluated_logged_and_has_a_best(store, configs, tmp_path):
    scores = {SEEDS[0]: [1.0, 3.0, 2.0], SEEDS[1]: [5.0, 4.0, 3.0], SEEDS[2]: [0.0, 0.0, 1.0]}
    asked = []

    def evaluate(step, run):
        assert load_policy(run / "checkpoints" / str(step)).info.seed == int(run.name[5:])
        asked.append((step, run.name))
        return {"return_mean": scores[int(run.name[5:])][(step - 1) // 4]}

    class Kept:
        def begin(self, run, step, description):
            self.run, self.written, self.closed = run, [], False
            assert description["seed"] == int(run.name[5:])

        def write(self, record):
            self.written.append(record)

        def close(self):
            self.closed = True

    made, shown = [], []

    def loggers():
        made.append(Kept())
        return made[-1:]

    runs = group(
        "dt",
        store,
        configs,
        tmp_path,
        updates=9,
        eval_every=4,
        evaluate=evaluate,
        loggers=loggers,
        keep_last=1,
        progress=lambda step, updates, latest: shown.append((step, latest)),
    )
    assert asked == [(step, run.name) for step in (4, 8, 9) for run in runs]
    kept = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in runs]
    assert kept == [
        ["8", "9", "best", "last"],
        ["4", "9", "best", "last"],
        ["4", "9", "best", "last"],
    ]  # 9 became the best of the third after its save
    for logger, run in zip(made, runs, strict=True):
        assert logger.closed and logger.run == run
        assert [
            {k: row[k] for k in kept} for row, kept in zip(logger.written, records(run), strict=True)
        ] == [*records(run)]
    assert shown[-1][0] == 9
    last = [[row for row in records(run) if "train/loss" in row][-1]["train/loss"] for run in runs]
    assert shown[-1][1]["train/loss"] == pytest.approx(sum(last) / 3)


def test_a_critic_is_shared(store, configs, tmp_path, weights_of):
    train("iql", store, config=configs["iql"], out=tmp_path / "critic", updates=3)
    configs = {"dt": dataclasses.replace(configs["dt"], q_weight=1.0)}
    runs = group("dt", store, configs, tmp_path / "together", critic=tmp_path / "critic")
    settings = {"config": configs["dt"], "seed": SEEDS[2], "critic": tmp_path / "critic", **PACE}
    alone = train("dt", store, out=tmp_path / "alone", updates=13, **settings)
    assert_same_within_rounding(weights_of, runs[2], alone)
    assert "train/q_loss" in records(runs[0])[0]


def test_bf16_follows_the_single_run_in_bf16(store, configs, tmp_path):
    runs = group("dt", store, configs, tmp_path / "together", updates=6, precision="bf16")
    settings = {"config": configs["dt"], "seed": SEEDS[1], "precision": "bf16", **PACE}
    alone = train("dt", store, out=tmp_path / "alone", updates=6, **settings)
    for found, expected in zip(records(runs[1]), records(alone), strict=True):
        assert found == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"seeds": 0}, "seeds: expected a positive integer, got 0"),
        ({"updates": 0}, "updates: expected a positive integer, got 0"),
        ({"eval_every": 5}, "eval_every: expected together with evaluate"),
        ({"capture": True}, "capture: CUDA graphs need a CUDA device"),
        ({"precision": "fp8"}, "precision: expected one of"),
    ],
)
def test_settings_that_cannot_be(store, configs, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        group("iql", store, configs, tmp_path, **settings)
    assert not any(tmp_path.iterdir())


def test_kernels_asked_for_by_name_are_refused(store, configs, tmp_path):
    """On a GPU too: nothing is computed by other means than were asked for."""
    configs = {"dt": dataclasses.replace(configs["dt"], attention="triton")}
    with pytest.raises(ValueError, match="'triton' cannot run, several seeds are stacked"):
        group("dt", store, configs, tmp_path)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_other_ways_of_attention(store, configs, tmp_path, weights_of, backend, dropout):
    configs = {"dt": dataclasses.replace(configs["dt"], attention=backend, dropout=dropout)}
    runs = group("dt", store, configs, tmp_path / "together", updates=6)
    settings = {"config": configs["dt"], "seed": SEEDS[1], **PACE}
    alone = train("dt", store, out=tmp_path / "alone", updates=6, **settings)
    assert_same_within_rounding(weights_of, runs[1], alone)


def test_several_processes_are_refused(store, configs, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.parallel, "world", lambda: 2)
    with pytest.raises(
        ValueError, match="one process trains all of them, got 2; leave torchrun or seeds out"
    ):
        group("iql", store, configs, tmp_path)
