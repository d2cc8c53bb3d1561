"""`--ag-starts` of `dtag evaluate` and `dtag sweep`."""

import json

import pytest

DATASET = "test/pendulum-v0"
SMALL = "--context-len 3 --d-model 16 --n-layer 1 --n-head 1 --batch-size 8 --updates 3"


@pytest.fixture
def runs(dtag):
    assert dtag(f"train reinformer {DATASET} --out run {SMALL}")[0] == 0
    assert dtag(f"train iql {DATASET} --out critic --updates 3 --hidden 16 16 --batch-size 8")[0] == 0


def rows_of(folder):
    return [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]


def test_an_evaluation_and_a_sweep_of_several_starts_agree(dtag, runs, tmp_path):
    asked = "run --critic critic --ag-steps 0,2 --ag-lr 0.1 --ag-starts 1,4 --episodes 3"
    code, out, err = dtag(
        f"evaluate {asked} --json out.json --latency --latency-actions 5 --latency-warmup 1"
    )
    assert (code, err) == (0, "") and out.count("AG n=2 lr=0.1 starts=4") == 2
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    labels = ["plain policy", "AG n=0 starts=4", "AG n=2 lr=0.1", "AG n=2 lr=0.1 starts=4"]
    assert [setting["label"] for setting in result["settings"]] == labels
    assert [setting["setting"]["starts"] for setting in result["settings"]] == [1, 4, 1, 4]
    assert [setting["paired"] is None for setting in result["settings"]] == [True, False, False, False]
    code, out, err = dtag(f"sweep {asked} --jobs 2 --out table")
    assert (code, err) == (0, "") and "best of 4 settings" in out
    returns = {(row["setting"], row["seed"]): row["episode_return"] for row in rows_of(tmp_path / "table")}
    for setting in result["settings"]:
        for seed, expected in zip(setting["seeds"], setting["returns"], strict=True):
            assert returns[setting["label"], seed] == pytest.approx(expected, rel=1e-4)
    code, out, _ = dtag("plot out.json table --out figures")
    assert code == 0


def test_a_table_of_before_there_were_starts_is_gone_on_with(dtag, runs, tmp_path):
    line = "sweep run --critic critic --ag-steps 0,2 --episodes 2 --jobs 1 --out table"
    assert dtag(line)[0] == 0
    rows = rows_of(tmp_path / "table")
    assert {row.pop("starts") for row in rows} == {1}
    (tmp_path / "table/table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = dtag(line)
    assert code == 0 and "0 episodes played, 4 were in the table" in out
    code, out, _ = dtag(f"{line} --ag-starts 1,2")
    assert code == 0 and "4 episodes played, 4 were in the table" in out
    (tmp_path / "s.json").write_text('[{"steps": 2, "starts": 2}, {"steps": 0, "starts": 2}, {"steps": 0}]')
    code, out, _ = dtag("sweep run --critic critic --settings s.json --episodes 2 --jobs 1 --out table")
    assert code == 0 and "0 episodes played, 6 were in the table" in out
    assert dtag("plot table")[0] == 0


def test_what_cannot_be_is_one_sentence(dtag, runs, tmp_path):
    assert dtag(f"train dt {DATASET} --out dt {SMALL}")[0] == 0
    for verb in ("evaluate", "sweep"):
        for run, starts, complaint in (
            ("run", "0", "starts: expected a whole number of at least 1, got 0"),
            ("run", "few", "--ag-starts: expected whole numbers"),
            ("dt", "4", "DecisionTransformer has none; leave starts out"),
        ):
            code, _, err = dtag(f"{verb} {run} --critic critic --ag-starts {starts} --episodes 1")
            assert code == 2 and complaint in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "dt/sweep").exists()
    (tmp_path / "s.json").write_text('[{"steps": 2, "starts": 2}]')
    code, _, err = dtag("sweep run --critic critic --settings s.json --ag-starts 2")
    assert code == 2 and "takes the place of the --ag lists, got --ag-starts as well" in err
