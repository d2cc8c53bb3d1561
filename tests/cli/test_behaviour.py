"""`--ag-behaviour` of `dtag evaluate` and `dtag sweep`: the model of the data's behaviour is fitted once, and
its settings play. `--ag-gate`: what the critic's members disagree about is left alone."""

import json
import os
import shutil

import pytest
import torch

import dtag_fast.training.behaviour as behaviour_module
from dtag_fast.rollout import Behaviour
from dtag_fast.sweep import settings_grid, sweep

DATASET = "test/pendulum-v0"


@pytest.fixture
def runs(dtag):
    small = "--context-len 3 --d-model 16 --n-layer 1 --n-head 1 --batch-size 8"
    assert dtag(f"train dt {DATASET} --out run --updates 3 {small}")[0] == 0
    assert dtag(f"train iql {DATASET} --out critic --updates 3 --hidden 16 16 --batch-size 8")[0] == 0


def test_settings_play_beside_the_others_and_the_model_is_kept(dtag, runs, tmp_path):
    line = "evaluate run --critic critic --ag-steps 0,3 --ag-behaviour 0.4,1:0.5 --episodes 2 --json out.json"
    code, out, err = dtag(line)
    assert (code, err) == (0, "") and "AG n=3 behaviour weight=0.4 radius=1" in out
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    labels = [setting["label"].removesuffix(" target=25") for setting in result["settings"]]
    assert labels == [
        "plain policy",
        "AG n=3 lr=0.03",
        "AG n=3 behaviour weight=0.4 radius=1",
        "AG n=3 behaviour weight=1 radius=0.5",
    ]
    kept = tmp_path / "critic" / "checkpoints" / "last" / "behaviour.safetensors"
    written = os.stat(kept).st_mtime_ns
    code, _, _ = dtag(line.replace("out.json", "again.json"))
    (again,) = json.loads((tmp_path / "again.json").read_text())["checkpoints"]
    assert code == 0 and os.stat(kept).st_mtime_ns == written
    assert [s["returns"] for s in again["settings"]] == [s["returns"] for s in result["settings"]]


def test_what_is_missing_is_named(dtag, runs, monkeypatch, tmp_path):
    code, _, err = dtag("evaluate run --ag-behaviour 0.4 --episodes 1")
    assert code == 2 and "--ag-behaviour: expected together with --critic" in err
    code, _, err = dtag("evaluate run --critic critic --ag-behaviour 0.4:1:2 --episodes 1")
    assert code == 2 and "--ag-behaviour: expected WEIGHT or WEIGHT:RADIUS, got '0.4:1:2'" in err
    code, _, err = dtag("evaluate run --critic critic --ag-behaviour 0.4 --ag-steps 0 --episodes 1")
    assert code == 2 and "--ag-behaviour: expected a number above 0 in --ag-steps beside it, got 0" in err
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    code, _, err = dtag("evaluate run --critic critic --ag-behaviour 0.4 --episodes 1")
    assert (
        code == 2 and "behaviour: a model of the data's actions is fitted to the critic's dataset once" in err
    )


def test_a_critic_of_another_task_is_refused_before_the_fit(dtag, runs, fits, tmp_path):
    shutil.copytree(tmp_path / "critic", tmp_path / "other")
    for file in (tmp_path / "other").glob("checkpoints/*/config.json"):
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"info": config["info"] | {"observation_keys": ["achieved"]}}))
    code, _, err = dtag("evaluate run --critic other --ag-behaviour 0.4 --episodes 1")
    assert code == 2 and "critic: expected the policy's (state_dim, action_dim, observation_keys)" in err
    assert fits == []


def rows_of(folder):
    return [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]


@pytest.fixture
def fits(monkeypatch):
    """Number of updates of every fit in this process."""
    counts, fit = [], behaviour_module.fit_behaviour

    def short(critic, store, *, progress=None):
        counts.append(50)
        return fit(critic, store, updates=50, progress=progress)

    monkeypatch.setattr(behaviour_module, "fit_behaviour", short)
    return counts


def test_a_sweep_fits_the_model_once_for_all_cells_workers_and_sweeps(dtag, runs, fits, tmp_path):
    line = "sweep run --critic critic --ag-steps 0,3 --ag-behaviour 0.2,1:0.5 --episodes 2"
    code, out, err = dtag(f"{line} --jobs 2 --out both --ag-lr 0.01,0.03")
    assert (code, err, fits) == (0, "", [50])
    assert "AG n=3 behaviour weight=0.2 radius=1 target=25" in out and "best of 5 settings" in out
    code, out, _ = dtag(f"{line} --jobs 1 --out alone")
    assert code == 0 and fits == [50] and "best of 3 settings" in out and "lr=" not in out
    assert {tuple(row.items()) for row in rows_of(tmp_path / "alone")} < {
        tuple(row.items()) for row in rows_of(tmp_path / "both")
    }
    code, out, _ = dtag(f"{line} --jobs 1 --out both --ag-optimizer adam")  # lr of its own, and new cells
    assert code == 0 and fits == [50] and "2 episodes played, 6 were in the table" in out
    (tmp_path / "s.json").write_text(
        '[{"steps": 3, "behaviour": {"name": "Behaviour", "weight": 1, "radius": 0.5}}, {"steps": 0}]'
    )
    code, out, _ = dtag("sweep run --critic critic --settings s.json --episodes 2 --jobs 1 --out both")
    assert code == 0 and "0 episodes played, 4 were in the table" in out
    assert dtag("plot both")[0] == 0
    assert "weight=1:0.5" in (tmp_path / "both" / "plots" / "sweep_score_against_n.svg").read_text()


def test_a_fit_tells_its_progress_before_the_episodes_do(dtag, runs, fits):
    seen = []
    told = {"progress": lambda *n: seen.append(("episodes", *n))}
    told["fit_progress"] = lambda *n: seen.append(("updates", *n))
    settings = settings_grid((0, 2), (), behaviour=(Behaviour(0.4),))
    sweep("run", critic="critic", settings=settings, episodes=2, jobs=1, **told)
    assert seen[:50] == [("updates", done + 1, 50) for done in range(50)]
    assert seen[50] == ("episodes", 0, 4) and seen[-1] == ("episodes", 4, 4)
    assert {what for what, *_ in seen[50:]} == {"episodes"}


def test_of_two_fits_at_once_the_first_that_is_kept_serves_both(dtag, runs, monkeypatch, tmp_path):
    fit, kept = behaviour_module.fit_behaviour, []

    def slow(critic, store, *, progress=None):
        kept.append(fit(critic, store, updates=5))  # what another sweep has kept by the end of this fit
        behaviour_module.save_behaviour(tmp_path / "critic", kept[0])
        return fit(critic, store, updates=9, progress=progress)

    monkeypatch.setattr(behaviour_module, "fit_behaviour", slow)
    assert dtag("sweep run --critic critic --ag-behaviour 0.4 --episodes 1 --jobs 1")[0] == 0
    found = behaviour_module.load_behaviour(tmp_path / "critic")
    assert len(kept) == 1 and torch.equal(found.net[0].weight, kept[0].net[0].weight)
    folder = tmp_path / "critic" / "checkpoints" / "last"
    assert not list(folder.glob(".*.tmp"))


def test_an_evaluation_and_a_sweep_of_a_regularised_setting_agree(dtag, runs, fits, tmp_path):
    assert dtag("sweep run --critic critic --ag-behaviour 0.4 --episodes 3 --jobs 1")[0] == 0
    assert dtag("evaluate run --critic critic --ag-behaviour 0.4 --episodes 3 --json out.json")[0] == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    rows = rows_of(tmp_path / "run" / "sweep")
    assert fits == [50] and {row["steps"] for row in rows} == {0, 10}
    (regularised,) = [s for s in result["settings"] if s["setting"]["behaviour"]]
    mine = sorted((row["seed"], row["episode_return"]) for row in rows if row["behaviour_weight"] == 0.4)
    assert [value for _, value in mine] == regularised["returns"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--ag-behaviour 0.4", "--ag-behaviour: expected together with --critic"),
        ("--critic critic --ag-behaviour 0.4:1:2", "expected WEIGHT or WEIGHT:RADIUS, got '0.4:1:2'"),
        ("--critic critic --ag-behaviour a", "--ag-behaviour: expected numbers separated by commas, got 'a'"),
        ("--critic critic --ag-behaviour 0.4,", "--ag-behaviour: expected numbers separated by commas"),
        ("--critic critic --ag-behaviour -1", "behaviour: weight: expected a finite number of at least 0"),
        ("--critic critic --ag-behaviour 0.4 --ag-steps 0", "expected a number above 0 in --ag-steps"),
        ("--critic critic --ag-behaviour 0.4 --settings s.json", "got --ag-behaviour as well"),
        ("--critic critic --env-timeout -2", "env_timeout: expected seconds above 0, or None, got -2.0"),
    ],
)
def test_a_sweep_refuses_bad_input_in_one_sentence(dtag, runs, fits, options, complaint, tmp_path):
    code, _, err = dtag(f"sweep run --episodes 1 --jobs 1 {options}")
    assert code == 2 and complaint in err and len(err.strip().splitlines()) == 1, err
    assert fits == [] and not (tmp_path / "run" / "sweep").exists()


@pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow")
def test_a_gate_is_named_and_ends_climbs(dtag, runs, tmp_path):
    line = "evaluate run --critic critic --ag-steps 0,5 --ag-lr 1 --episodes 2"
    assert dtag(f"{line} --json free.json")[0] == 0
    code, out, err = dtag(f"{line} --ag-gate 0 --json gated.json")
    assert code == 0, err
    free, gated = (
        json.loads((tmp_path / f"{n}.json").read_text())["checkpoints"][0] for n in ("free", "gated")
    )
    limit = gated["critic"].pop("gate_limit")
    assert f"gate at a deviation of {limit:.3g}" in out and gated["critic"] == free["critic"]
    assert gated["settings"][0]["returns"] == free["settings"][0]["returns"]
    gains = [sum(found["settings"][1]["mean_q_gain"]) for found in (gated, free)]
    assert 0 <= gains[0] < 0.5 * gains[1]


def test_a_gate_that_cannot_be_is_one_sentence(dtag, runs):
    code, _, err = dtag("evaluate run --ag-gate 0.9 --episodes 1")
    assert code == 2 and err.endswith("--ag-gate: expected together with --critic\n")
    code, _, err = dtag("evaluate run --critic critic --ag-gate 2 --episodes 1")
    assert code == 2 and "quantile: expected a number in [0, 1], got 2" in err
