"""`dtag evaluate --ag-behaviour`: the model of the data's behaviour is fitted once, and its settings play."""

import json
import os

import pytest

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
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    code, _, err = dtag("evaluate run --critic critic --ag-behaviour 0.4 --episodes 1")
    assert (
        code == 2 and "behaviour: a model of the data's actions is fitted to the critic's dataset once" in err
    )
