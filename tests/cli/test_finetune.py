"""`dtag finetune`: options, log, evaluation with Action Gradient, resume, sentences for what cannot be."""

import json

import pytest

from dtag_fast.training.files import read_json

DATASET = "test/pendulum-v0"
SMALL = "--context-len 3 --eval-context-len 2 --d-model 16 --n-layer 1 --n-head 1 --batch-size 8 --updates 4"
QUICK = "--updates-per-iteration 3 --episodes-per-iteration 2 --eval-episodes 2 --eval-every 2"


@pytest.fixture
def runs(dtag):
    assert dtag(f"train td3-odt {DATASET} --out td3 {SMALL} --critic-hidden 8")[0] == 0
    assert dtag(f"train odt {DATASET} --out odt {SMALL}")[0] == 0


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_from_a_run_to_an_evaluation(dtag, runs, tmp_path):
    code, out, err = dtag(f"finetune td3 --algo td3-odt --env-steps 30 --out online {QUICK} --ag-steps 0,2")
    assert (code, err) == (0, "")
    assert "alpha=0.1" in out and "updates_per_iteration=3" in out and "run folder: online" in out
    first, *_, last = [r for r in records(tmp_path / "online") if "eval/env_steps" in r]
    assert first["eval/env_steps"] == 0 and last["eval/env_steps"] >= 30
    scores = [name for name in last if name.endswith("return_mean")]
    assert len(scores) == 2 and sum("AG n=2 lr=0.03" in name for name in scores) == 1
    line = "evaluate online --critic online --ag-steps 0,2 --episodes 2 --json out.json"
    assert dtag(line)[0] == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())["checkpoints"]
    assert [s["mean"] for s in result["settings"]] == [last[name] for name in scores]


def test_resumed_and_prolonged(dtag, runs, tmp_path):
    line = f"finetune odt --algo td3-odt --out online {QUICK} --critic-hidden 8 --eval-episodes 0"
    assert dtag(f"{line} --env-steps 10")[0] == 0
    before = records(tmp_path / "online")
    assert dtag(f"{line} --env-steps 40 --resume")[0] == 0
    assert records(tmp_path / "online")[: len(before)] == before
    config = read_json(tmp_path / "online" / "config.json")
    assert config["start"]["took"] == "the policy" and config["config"]["critic_hidden"] == [8]


def test_settings_of_a_file_and_of_options(dtag, runs, tmp_path):
    (tmp_path / "settings.json").write_text('{"alpha": 0.5, "discount": 0.9}')
    line = f"finetune td3 --algo td3-odt --out online {QUICK} --env-steps 5 --eval-episodes 0"
    assert dtag(f"{line} --config settings.json --discount 0.8 --target-return 33 --exploration none")[0] == 0
    config = read_json(tmp_path / "online" / "config.json")
    assert (config["config"]["alpha"], config["config"]["discount"]) == (0.5, 0.8)
    assert (config["online"]["target_return"], config["online"]["exploration"]) == (33.0, "none")


def test_what_does_not_go_together_is_set_right_by_options(dtag, runs, tmp_path):
    line = f"finetune odt --algo odt --out online {QUICK} --env-steps 5 --eval-episodes 0"
    sentence = "eval_context_len: expected 1 to context_len = 1, windows as long as some in training, got 2"
    code, _, err = dtag(f"{line} --context-len 1")
    assert code == 2 and sentence in err
    (tmp_path / "settings.json").write_text('{"context_len": 1}')
    code, _, err = dtag(f"{line} --config settings.json")
    assert code == 2 and sentence in err
    assert dtag(f"{line} --config settings.json --eval-context-len 1")[0] == 0
    config = read_json(tmp_path / "online" / "config.json")["config"]
    assert (config["context_len"], config["eval_context_len"]) == (1, 1)
    assert dtag("evaluate online --episodes 1")[0] == 0


def test_help(dtag):
    code, out, _ = dtag("finetune --help")
    assert code == 0 and "--algo" in out and "td3-odt" in out
    assert "--steps INT, --env-steps INT" in out


@pytest.mark.parametrize("option", ["--env-steps", "--steps"])
def test_both_names_of_the_budget(dtag, runs, tmp_path, option):
    line = f"finetune odt --algo odt --out online {QUICK} --eval-episodes 0"
    assert dtag(f"{line} {option} 1")[0] == 0
    (record,) = records(tmp_path / "online")  # one iteration is enough for one step, not for the default
    assert record["online/episodes"] == 2


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("finetune nowhere --algo odt --out x", "nowhere: expected a run or a checkpoint folder"),
        ("finetune odt --algo odt --out x --ag-steps 5", "--ag-steps: odt trains no critic to climb"),
        (
            "finetune odt --algo odt --out x --env-steps 0",
            "env_steps: expected a whole number of at least 1, got 0",
        ),
        ("finetune odt --algo odt --out x --env Nope-v0", "Nope"),
        ("finetune odt --algo odt --out x --device gpu", "device"),
        ("finetune odt --algo odt --out x --d-model 8", "expected d_model 8, got 16"),
        ("finetune odt --algo td3-odt --out x --guide-decay 2", "guide_decay: expected a number in [0, 1]"),
        ("finetune odt --algo odt --out x --critic td3", "critic: odt trains none; leave it out"),
        ("finetune odt --algo odt --out x --config none.json", "none.json"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(dtag, runs, tmp_path, line, sentence):
    code, _, err = dtag(line)
    assert code == 2 and sentence in err and len(err.splitlines()) == 1
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").iterdir())
