"""`dtag train --seeds`: run folders that every other command takes."""

import json

import pytest

DATASET = "test/pendulum-v0"
SMALL = "--context-len 3 --d-model 8 --n-layer 1 --n-head 1 --batch-size 4 --checkpoint-every 4 --log-every 2"


def test_seeds_are_trained_evaluated_and_resumed(dtag, tmp_path):
    options = f"train dt {DATASET} --out runs --seed 3 {SMALL}"
    code, out, err = dtag(f"{options} --seeds 2 --updates 8 --eval-every 8 --eval-episodes 2 --tensorboard")
    assert (code, err) == (0, "")
    assert "2 seeds stacked" in out and "updates/s each" in out and "together" in out
    assert "run folder: runs/seed-3" in out and "run folder: runs/seed-4" in out
    for seed in (3, 4):
        run = tmp_path / "runs" / f"seed-{seed}"
        assert json.loads((run / "config.json").read_text())["seed"] == seed
        assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["4", "8", "best", "last"]
        assert len(list((run / "tensorboard").iterdir())) == 1
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        logged = [v for row in rows for k, v in row.items() if k.endswith("return_mean")]
        assert dtag(f"evaluate {run} --episodes 2 --json found.json")[0] == 0
        (found,) = json.loads((tmp_path / "found.json").read_text())["checkpoints"]
        assert [found["settings"][0]["mean"]] == logged
    code, out, _ = dtag(f"{options} --seeds 2 --updates 12 --resume")
    assert code == 0 and "2 seeds at " in out
    alone = options.replace("--out runs --seed 3", "--out runs/seed-4 --seed 4")
    assert dtag(f"{alone} --updates 16 --resume")[0] == 0
    code, _, err = dtag(f"{options} --seeds 2 --updates 16 --resume")
    assert code == 2 and "got seed-3 at 12, seed-4 at 16" in err


@pytest.mark.parametrize(
    "option, reason",
    [
        ("--holdout 0.2 --validate-every 2", "--holdout: not together with --seeds"),
        ("--compile", "--compile: not together with --seeds"),
        ("--wandb toy", "--tensorboard writes one for each seed"),
    ],
)
def test_what_seeds_are_not_combined_with(dtag, tmp_path, option, reason):
    code, _, err = dtag(f"train iql {DATASET} --out runs --seeds 2 --updates 2 {option}")
    assert code == 2 and reason in err and "leave one of them out" in err
    assert not (tmp_path / "runs").exists()


def test_seeds_of_iql_go_in_turn(dtag, tmp_path):
    """On a CPU, and the command says so and why."""
    pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
    options = f"train iql {DATASET} --out runs --hidden 8 --batch-size 4 --log-every 2 --seeds 2"
    for more in ("--updates 4", "--updates 6 --resume"):
        code, out, err = dtag(f"{options} {more}")
        assert (code, err) == (0, "")
        assert "2 seeds in turn (an update is one compiled call, which takes one seed)" in out
    for seed in (0, 1):
        lines = (tmp_path / "runs" / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
