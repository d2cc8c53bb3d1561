"""Seeds of IQL on a CPU, whose updates are compiled calls made in turn: bit for bit the single runs."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dtag_fast.algorithms import create
from dtag_fast.algorithms.iql import Config
from dtag_fast.training import train, train_seeds
from dtag_fast.training.metrics import WindowMeans
from dtag_fast.training.seeds import why_in_turn
from dtag_fast.training.turns import SeedTurns

pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
SEEDS = (4, 5, 6)
PACE = {"log_every": 3, "checkpoint_every": 5}
CONFIGS = {
    "critic alone": Config(hidden=(33, 16), batch_size=24, lr=1e-3),
    "with a policy": Config(hidden=(16,), batch_size=24, policy=True, members=3, activation="mish"),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return request.param


def learners_of(store, config, **settings):
    return [create("iql", store, config, seed=seed, **settings) for seed in SEEDS]


def together(store, config, out, updates=13, **settings):
    settings = {"seed": SEEDS[0], "seeds": len(SEEDS), **PACE, **settings}
    return train_seeds("iql", store, config=config, out=out, updates=updates, **settings)


def alone(store, config, out, seed, updates=13, **settings):
    return train("iql", store, config=config, out=out, updates=updates, seed=seed, **PACE | settings)


def records(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in lines]


def test_run_folders_are_those_of_single_runs_bit_for_bit(store, config, tmp_path, assert_same_bits):
    """And go on alone to the same bits."""
    runs = together(store, config, tmp_path / "together")
    for seed, run in zip(SEEDS, runs, strict=True):
        single = alone(store, config, tmp_path / f"{seed}", seed)
        assert_same_bits(run, single)
        assert records(run) == records(single)
        described, expected = (json.loads((r / "config.json").read_text()) for r in (run, single))
        assert expected.pop("execution").endswith("; an update is one compiled call")
        assert described.pop("execution").endswith(
            "; 3 seeds in turn (an update is one compiled call, which takes one seed)"
        )
        assert described == expected
    for run in (runs[1], single := tmp_path / f"{SEEDS[1]}"):
        alone(store, config, run, SEEDS[1], updates=17, resume=True)
    assert_same_bits(runs[1], single)


def test_a_resumed_group_equals_single_runs(store, config, tmp_path, assert_same_bits):
    """Stopped between checkpoints and in the middle of a logging window, then gone on with."""
    asked = iter(range(100))
    settings = {"steps_per_replay": 1, "stop": lambda: next(asked) == 6}
    runs = together(store, config, tmp_path / "together", **settings)
    assert [row["step"] for row in records(runs[0])] == [3, 6]
    runs = together(store, config, tmp_path / "together", resume=True)
    for seed, run in zip(SEEDS, runs, strict=True):
        single = alone(store, config, tmp_path / f"{seed}", seed)
        assert_same_bits(run, single)
        assert records(run) == records(single)


def turns_of(learners, store, updates_per_turn=10):
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return SeedTurns(learners, learners[0].make_sampler(store), generators, updates_per_turn)


def metrics_of(turns, most):
    """What `make` adds."""
    added = []
    window = WindowMeans()
    window.add = added.append
    turns.make(most, window)
    return added


def test_every_update_but_the_first_is_one_compiled_call_a_seed(store, config, monkeypatch):
    """By operators nothing but the first could be made: `each` is what they go through."""
    learners = learners_of(store, config)
    turns = turns_of(learners, store)
    turns.make(1, WindowMeans())
    for learner in learners:
        monkeypatch.setattr(learner, "each", None)
    metrics = metrics_of(turns, 3)
    assert [learner.updates_done for learner in learners] == [4, 4, 4]
    assert len(metrics) == 3
    assert all(value.shape == (3,) and value.isfinite().all() for one in metrics for value in one.values())


@pytest.mark.parametrize("updates_per_turn, expected", [(1, [1] * 7), (3, [3, 3, 1]), (10, [7])])
def test_a_turn_ends_where_something_is_due(store, config, updates_per_turn, expected):
    """And how long it is changes nothing else."""
    learners, whole = learners_of(store, config), learners_of(store, config)
    turns, made = turns_of(learners, store, updates_per_turn), []
    while sum(made) < 7:
        made.append(len(metrics_of(turns, 7 - sum(made))))
    assert made == expected
    turns_of(whole, store).make(7, WindowMeans())
    for one, other in zip(learners, whole, strict=True):
        for name, module in one.modules.items():
            theirs = other.modules[name].state_dict()
            assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())


def test_a_seed_that_is_not_finite_leaves_the_others_alone(store, config):
    healthy, ill = learners_of(store, config), learners_of(store, config)
    with torch.no_grad():
        for p in ill[1].critic.parameters():
            p.fill_(torch.nan)
    fine, broken = (metrics_of(turns_of(learners, store), 3)[-1] for learners in (healthy, ill))
    for name, value in fine.items():
        assert torch.equal(value[[0, 2]], broken[name][[0, 2]]), name
    assert broken["critic_loss"][1].isnan()


def test_a_seed_that_diverges_is_named_with_its_update(store, config, tmp_path):
    """Though a turn of all seeds is over by then; the others are saved where it ended."""
    runs = together(store, config, tmp_path, updates=5)
    path = runs[1] / "checkpoints" / "5" / "critic.safetensors"
    save_file({k: t * torch.nan if "weight" in k else t for k, t in load_file(path).items()}, path)
    pace = {"log_every": 100, "checkpoint_every": 9}
    with pytest.raises(
        FloatingPointError, match=r"^seed-5: .* became nan.*at update 6, .*others? .*update 9"
    ):
        together(store, config, tmp_path, resume=True, **pace)
    assert [one["update"] for one in json.loads((runs[1] / "diverged.json").read_text())["batches"]] == [6]
    reached = [max(int(p.name) for p in (run / "checkpoints").glob("[0-9]*")) for run in runs]
    assert reached == [9, 5, 9]


@pytest.mark.parametrize(
    "changes, settings, autocast",
    [({"layer_norm": True}, {}, False), ({}, {"capturable": True}, False), ({}, {}, True)],
    ids=["LayerNorm", "captured", "bf16"],
)
def test_what_no_compiled_call_makes_is_stacked(store, config, changes, settings, autocast):
    assert why_in_turn(learners_of(store, config)) is not None
    learners = learners_of(store, dataclasses.replace(config, **changes), **settings)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert why_in_turn(learners) is None


def test_a_stacked_group_goes_on_in_turn(store, config, tmp_path, monkeypatch):
    """Runs say how their updates are made now, whatever made those before."""
    with monkeypatch.context() as m:
        m.setattr("dtag_fast.algorithms.iql.IQL.why_in_turn", lambda self: None)
        runs = together(store, config, tmp_path, updates=4)
    executions = [json.loads((run / "config.json").read_text())["execution"] for run in runs]
    assert all(text.endswith("3 seeds stacked, by PyTorch's operators") for text in executions)
    together(store, config, tmp_path, updates=7, resume=True)
    executions = [json.loads((run / "config.json").read_text())["execution"] for run in runs]
    assert all("3 seeds in turn" in text for text in executions)
    assert [row["step"] for row in records(runs[0])] == [3, 6]


def test_other_algorithms_are_stacked(store, configs):
    learners = [create("td3bc", store, configs["td3bc"], seed=seed) for seed in SEEDS]
    assert why_in_turn(learners) is None
