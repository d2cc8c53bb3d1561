"""The short training of all algorithms: what it measures, and that tables can be made of it."""

import importlib
import json
import pickle

import numpy as np
import pytest
import torch
from trajectories import trajectories

from dtag_fast.algorithms import ALGORITHMS
from dtag_fast.data import Episode, TrajectoryStore
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig, DeterministicPolicy
from dtag_fast.training import LoadedPolicy, RunInfo


@pytest.fixture
def short_training(sources, monkeypatch):
    monkeypatch.syspath_prepend(str(sources))
    return importlib.import_module("tools.short_training")


@pytest.fixture
def episodes() -> list[Episode]:
    rng = np.random.default_rng(0)
    found = []
    for length in (9, 4, 13, 6, 1, 8, 5, 7):
        states = rng.normal(size=(length + 1, 3)).astype("f4")
        actions = np.tanh(states[:-1, :2])
        ends = np.arange(length) == length - 1
        found.append(Episode(states, actions, 1 + states[:-1, 0], ends, np.zeros_like(ends)))
    return found


BOUNDS = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


@pytest.fixture
def store(episodes) -> TrajectoryStore:
    return TrajectoryStore.from_episodes(episodes, {"dataset_id": "toy/short-v0", **BOUNDS})


def info(**about) -> RunInfo:
    common = {"algorithm": "x", "kind": "policy", "step": 1, "seed": 0, "state_dim": 3, "action_dim": 2}
    common |= {"state_mean": [0.1, 0.2, 0.3], "state_std": [1.0, 2.0, 0.5], "best_return": 1.0}
    return RunInfo(**common | BOUNDS | about)


def test_quick_form_writes_what_the_tables_read(short_training, episodes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "toy.pkl").write_bytes(pickle.dumps(trajectories(episodes)))
    out, runs = tmp_path / "docs/results/short.json", tmp_path / "runs"
    command = [
        str(tmp_path / "toy.pkl"),
        "--out",
        str(out),
        "--runs",
        str(runs),
        "--quick",
        "--holdout",
        "0.3",
    ]
    assert short_training.main(command) == 0
    result, said = json.loads(out.read_text()), capsys.readouterr().out
    found = result["algorithms"]
    assert list(found) == list(ALGORITHMS) and result["updates"] == 4
    assert result["dataset"]["episodes"] == 8 and result["dataset"]["held_out_episodes"] == 2
    for name, entry in found.items():
        policy = ALGORITHMS[name].algorithm.kind == "policy"
        critic = not policy or name == "qt" or name in short_training.WITH_CRITIC
        assert ("action_error" in entry) == policy and ("unexplained" in entry) == critic
        assert f"{name}: " in said and (runs / name / "checkpoints/4").is_dir()
        assert entry["seconds"] > 0 and entry["validation"]
    assert found["dt"]["settings"]["d_model"] == {"published": 128, "here": 16}
    assert found["dt"]["settings"]["warmup"] == {"published": 10_000, "here": 2}
    assert found["iql"]["settings"] == {} and list(found["bc"]["settings"]) == ["warmup"]

    behind = [name for name, entry in found.items() if entry.get("unexplained", 0) >= 0.5]
    limit = found["bc"]["action_error"]
    behind += [n for n, e in found.items() if n != "bc" and e.get("action_error", 0) >= limit]
    lines = short_training.not_beaten(result)
    assert sorted(line.split(":")[0] for line in lines) == sorted(behind) and set(lines) < set(
        said.splitlines()
    )

    before = out.read_text()
    assert short_training.main(command) == 0  # the runs are there: measured again, to the same numbers
    again = json.loads(out.read_text())
    assert again["algorithms"] == json.loads(before)["algorithms"]

    tables = importlib.import_module("tools.tables")
    policies, critics = (tables.short_training(out, kind) for kind in ("policies", "critics"))
    error = found["edt"]["action_error"]
    assert f"| {error:.4f} | {error / found['bc']['action_error']:.2f} |" in policies
    assert "| bc | warmup 1 |" in policies and "| 1.00 |" in policies and "| iql |" not in policies
    assert f"| iql | as published | {found['iql']['unexplained']:.3f} | 0.5 |\n" in critics
    assert "seconds" not in policies + critics  # they are not taken side by side
    assert "| qt |" in policies and "| qt |" in critics and "| dt |" not in critics
    assert "4 updates, one seed; 2 of 8 episodes held out." in critics
    with pytest.raises(ValueError, match="expected policies or critics after the file, got values"):
        tables.short_training(out, "values")


@pytest.mark.parametrize(
    ("only", "missing"), [("dt", "bc"), ("bc adt", "iql"), ("adt", "bc and iql"), ("iql dt", "bc")]
)
def test_what_others_are_compared_with_may_not_be_left_out(short_training, tmp_path, capsys, only, missing):
    with pytest.raises(SystemExit) as end:
        short_training.main(["no-dataset", "--out", str(tmp_path / "x.json"), "--only", *only.split()])
    assert end.value.code == 2
    assert f"--only: expected {missing} too, with which" in capsys.readouterr().err


def test_every_held_out_step_is_measured_once(short_training, store):
    """A policy of the state, whose error is known in every step."""
    torch.manual_seed(0)
    model = DeterministicPolicy(3, 2, (8,), state_mean=[0.1, 0.2, 0.3], state_std=[1.0, 2.0, 0.5]).eval()
    found = short_training.action_error(LoadedPolicy(model, info()), store, context_len=4)
    states = torch.from_numpy(store.observations[store.state_rows])
    with torch.no_grad():
        expected = (model(states).numpy() - store.actions) ** 2
    assert found == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_windows_begin_at_every_kth_step_and_hold_the_returns_of_training(short_training, store, padding):
    sizes = {"state_dim": 3, "action_dim": 2, "context_len": 4, "d_model": 16, "n_layer": 1, "dropout": 0.0}
    torch.manual_seed(0)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5])
    model = DecisionTransformer(DecisionTransformerConfig(**sizes, padding=padding), mean, std).eval()
    about = info(return_scale=5.0, reward_scale=2.0, reward_shift=-1.0)
    found = short_training.action_error(LoadedPolicy(model, about), store, context_len=4)
    errors = []
    for i in range(store.num_episodes):
        e = store.episode(i)
        rewards = 2.0 * e.rewards.astype(float) - 1.0
        returns = rewards[::-1].cumsum()[::-1] / 5.0
        for first in range(0, len(e.actions), 4):
            part = slice(first, min(first + 4, len(e.actions)))
            steps = torch.arange(part.start, part.stop)
            states = model.normalize_states(torch.tensor(e.observations[part]))
            actions = torch.tensor(e.actions[part])
            rtg = torch.tensor(returns[part].copy(), dtype=torch.float32)[:, None]
            with torch.no_grad():
                mask = torch.ones(1, len(steps), dtype=torch.bool)
                out = model(states[None], actions[None], rtg[None], steps[None], mask).actions[0]
            errors.append(((out - actions) ** 2).numpy())
    assert found == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)


def test_the_constant_is_the_mean_action_of_the_others(short_training, store):
    rest, held_out = store.select(np.array([0, 1, 2])), store.select(np.array([3, 5]))
    expected = ((held_out.actions - rest.actions.mean(axis=0)) ** 2).mean()
    assert short_training.mean_action_error(rest, held_out) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "warmup"), [("dt", 1000), ("reinformer", 200), ("odt", 1000), ("adt", 200), ("bc", 200)]
)
def test_warm_ups_shrink_with_the_updates(short_training, name, warmup):
    config, different = short_training.settings(name, {}, 2_000, short_training.SHARED)
    assert config.warmup == warmup == different["warmup"]["here"]
    if name != "bc":
        assert (config.context_len, config.d_model, config.n_layer, config.batch_size) == (10, 128, 3, 64)
    lamb = {"published": 1e-4, "here": 1e-3} if name in ("reinformer", "odt") else None
    assert different.get("lr") == lamb
