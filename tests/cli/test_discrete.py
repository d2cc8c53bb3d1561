"""CartPole by the command alone: a Minari dataset of discrete actions, a run, its scores, and refusals."""

import json

import pytest

SMALL = "--context-len 4 --d-model 16 --n-layer 2 --n-head 1 --batch-size 8 --warmup 2"


@pytest.mark.parametrize("algorithm", ["dt", "reinformer"])
def test_import_train_evaluate(dtag, monkeypatch, tmp_path, cartpole_file, algorithm):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    assert dtag(f"data import {cartpole_file} --id test/cartpole-v0 --env CartPole-v1")[0] == 0
    code, out, _ = dtag("data show test/cartpole-v0")
    assert code == 0 and "one of 2, numbered 0 to 1: Discrete(2)" in out and "CartPole-v1" in out

    options = f"{SMALL} --updates 6 --eval-every 6 --eval-episodes 3 --log-every 3"
    code, out, err = dtag(f"train {algorithm} test/cartpole-v0 --out run {options}")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [0 <= row["train/accuracy"] <= 1 for row in rows if "train/loss" in row] == [True, True]
    ((logged,),) = [
        [v for k, v in row.items() if k.endswith("return_mean")] for row in rows if "eval" in str(row)
    ]

    code, out, _ = dtag("evaluate run --episodes 3 --json plain.json")
    assert code == 0 and "plain policy" in out
    (result,) = json.loads((tmp_path / "plain.json").read_text())["checkpoints"]
    assert result["settings"][0]["mean"] == logged >= 8
    assert result["env_id"] == "CartPole-v1"

    refusal = "climbs a critic over continuous actions, this policy's are Discrete(2)"
    for line, complaint in [
        ("evaluate run --ag-steps 5", refusal),
        ("evaluate run --env Acrobot-v1", "the environment takes Discrete(3), the policy's are Discrete(2)"),
        (f"train {algorithm} test/cartpole-v0 --out x {SMALL} --q-weight 1", "q_weight: the term of Q is"),
        (
            f"train {algorithm} test/cartpole-v0 --out x {SMALL} --critic run",
            "critic: critics take continuous",
        ),
        ("train iql test/cartpole-v0 --out x", "discrete ones are learned by dt and reinformer"),
    ]:
        code, _, err = dtag(line)
        assert code == 2 and complaint in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_a_critic_on_top_is_refused(dtag, monkeypatch, tmp_path, cartpole_file):
    assert dtag("train iql test/pendulum-v0 --out critic --updates 2 --hidden 8 8 --batch-size 8")[0] == 0
    assert dtag(f"train dt {cartpole_file} --out run {SMALL} --updates 2")[0] == 0
    code, _, err = dtag("evaluate run --critic critic --env CartPole-v1 --episodes 1")
    assert code == 2 and "climbs a critic over continuous actions" in err
