"""The loop: what it writes, that runs are reproducible and resumable, and that it overwrites nothing."""

import csv
import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.training import load_critic, load_policy, train
from dtag_fast.training.session import best_step


class Stop(Exception):
    pass


def stop_at(step):
    def evaluate(now, run):
        if now == step:
            raise Stop
        return {}

    return evaluate


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_clock(rows):
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows]


def test_a_run_folder(store, configs, tmp_path, algorithm):
    run = train(
        algorithm,
        store,
        config=configs[algorithm],
        out=tmp_path / "run",
        updates=7,
        log_every=3,
        checkpoint_every=5,
    )
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.csv",
        "metrics.jsonl",
    ]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["5", "7", "last"]
    config = json.loads((run / "config.json").read_text())
    assert config["algorithm"] == algorithm and config["seed"] == 0
    assert config["config"]["batch_size"] == 4 and config["dataset"]["dataset_id"] == "toy/small-v0"
    rows = records(run)
    assert [row["step"] for row in rows] == [3, 6]
    assert all(any(k.startswith("train/") for k in row) for row in rows)
    with open(run / "metrics.csv") as file:
        assert [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)] == rows


def test_same_seed_same_bits_another_seed_others(
    store, configs, tmp_path, algorithm, assert_same_bits, weights_of
):
    def run(name, seed):
        torch.manual_seed(len(name))  # the global generator must not matter
        return train(algorithm, store, config=configs[algorithm], out=tmp_path / name, updates=4, seed=seed)

    a, b, c = run("a", 5), run("bb", 5), run("ccc", 6)
    assert_same_bits(a, b)
    assert any(
        not torch.equal(x, y) for x, y in zip(weights_of(a).values(), weights_of(c).values(), strict=True)
    )


def test_resumed_run_equals_uninterrupted_one(store, configs, tmp_path, algorithm, assert_same_bits):
    """Stopped twice, between checkpoints and in the middle of a logging window."""
    options = {
        "config": configs[algorithm],
        "log_every": 4,
        "checkpoint_every": 3,
        "seed": 1,
        "eval_every": 1,
    }
    whole = train(algorithm, store, out=tmp_path / "whole", updates=14, evaluate=stop_at(None), **options)
    out = tmp_path / "stopped"
    for step in (5, 8):
        with pytest.raises(Stop):
            train(algorithm, store, out=out, updates=14, evaluate=stop_at(step), resume=True, **options)
    train(algorithm, store, out=out, updates=14, evaluate=stop_at(None), resume=True, **options)
    assert_same_bits(whole, out)
    assert without_clock(records(out)) == without_clock(records(whole))


def test_evaluation_does_not_change_training(store, configs, tmp_path, algorithm, assert_same_bits):
    def evaluate(step, run):
        torch.manual_seed(step)
        loaded = load_critic(run) if algorithm == "iql" else load_policy(run)
        assert loaded.info.step == step
        torch.randn(100)
        return {"score": float(step)}

    options = {"config": configs[algorithm], "updates": 6}
    plain = train(algorithm, store, out=tmp_path / "plain", **options)
    evaluated = train(
        algorithm, store, out=tmp_path / "evaluated", eval_every=4, evaluate=evaluate, **options
    )
    assert_same_bits(plain, evaluated)
    assert [(r["step"], r["eval/score"]) for r in records(evaluated) if "eval/score" in r] == [
        (4, 4.0),
        (6, 6.0),
    ]


def test_an_evaluation_lost_to_a_kill_is_made_up_for(store, configs, tmp_path):
    options = {"config": configs["dt"], "updates": 4, "eval_every": 2, "out": tmp_path / "run"}
    with pytest.raises(Stop):
        train("dt", store, evaluate=stop_at(2), **options)
    assert records(tmp_path / "run") == []
    train("dt", store, evaluate=lambda step, run: {"score": step}, resume=True, **options)
    assert [(r["step"], r["eval/score"]) for r in records(tmp_path / "run")] == [(2, 2), (4, 4)]


def test_updates_can_be_raised_on_resume(store, configs, tmp_path, assert_same_bits):
    options = {"config": configs["reinformer"], "checkpoint_every": 4}
    train("reinformer", store, out=tmp_path / "a", updates=5, **options)
    longer = train("reinformer", store, out=tmp_path / "a", updates=9, resume=True, **options)
    assert_same_bits(longer, train("reinformer", store, out=tmp_path / "b", updates=9, **options))


def test_resuming_a_finished_run_changes_nothing(store, configs, tmp_path):
    run = train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=3, log_every=1)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    train("dt", store, config=configs["dt"], out=run, updates=3, log_every=1, resume=True)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_an_existing_folder_is_never_overwritten(store, configs, tmp_path):
    run = train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=2)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match=r"out: .* is not empty; resume it, or choose another folder"):
        train("dt", store, config=configs["dt"], out=run, updates=2)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(FileExistsError, match="holds other files and no run to resume"):
        train("dt", store, config=configs["dt"], out=tmp_path / "photos", updates=2, resume=True)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_a_folder_another_process_trains_into_is_left_alone(store, configs, tmp_path):
    settings = {"config": configs["dt"], "out": tmp_path / "run", "updates": 2}
    train("dt", store, **settings)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    script = "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX); "
    script += "print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(
            BlockingIOError, match=r"out: another process is training into .*run; wait for it"
        ):
            train("dt", store, **settings, resume=True)
        assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        other.stdin.close()
    train("dt", store, **settings, resume=True)


def test_a_file_is_no_run_folder(store, configs, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out: .*run is a file; choose another folder"):
        train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=1)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": {"lr": 1.0}}, r"resume: config\.lr was 0\.0001 in .*config\.json, got 1\.0"),
        ({"seed": 1}, r"resume: seed was 0 in .*, got 1"),
        ({"algorithm": "dt"}, r"resume: algorithm was 'reinformer' in .*, got 'dt'"),
        ({"data": {"seed": 0, "dataset_id": "other"}}, r"resume: dataset\.dataset_id was 'toy/small-v0'"),
        ({"data": {"seed": 1}}, r"resume: dataset\.crc32 was"),
    ],
    ids=["config", "seed", "algorithm", "dataset", "content"],
)
def test_resume_with_other_settings_is_refused(make_store, configs, tmp_path, change, message):
    run = train("reinformer", make_store(), config=configs["reinformer"], out=tmp_path / "run", updates=2)
    algorithm = change.get("algorithm", "reinformer")
    with pytest.raises(ValueError, match=message):
        train(
            algorithm,
            make_store(**change.get("data", {})),
            config=dataclasses.replace(configs[algorithm], **change.get("config", {})),
            seed=change.get("seed", 0),
            out=run,
            updates=4,
            resume=True,
        )


def test_a_run_from_before_a_setting_existed_had_its_default(store, configs, tmp_path):
    run = train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=2)
    recorded = json.loads((run / "config.json").read_text())
    del recorded["config"]["timestep_std"]
    (run / "config.json").write_text(json.dumps(recorded))
    train("dt", store, config=configs["dt"], out=run, updates=4, resume=True)
    other = dataclasses.replace(configs["dt"], timestep_std=0.5)
    with pytest.raises(ValueError, match=r"resume: config\.timestep_std was 1\.0 in"):
        train("dt", store, config=other, out=run, updates=6, resume=True)


def test_divergence_stops_the_run_and_keeps_the_good_checkpoint(store, configs, tmp_path):
    config = dataclasses.replace(configs["dt"], lr=1e38, warmup=0)
    with pytest.raises(FloatingPointError, match="loss became nan: training diverged"):
        train("dt", store, config=config, out=tmp_path / "run", updates=5, checkpoint_every=1)
    kept = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(kept) == ["1", "last"]  # the loss of the first update was still finite


def test_a_divergence_names_its_update_and_its_batch(store, configs, tmp_path, algorithm):
    """The batch is that of the update whose loss was not finite first, in a window that was resumed."""
    run, batches, poisoned = tmp_path / "run", [], 8
    options = {"config": configs[algorithm], "out": run, "log_every": 100, "checkpoint_every": 5}
    learner = type(create(algorithm, store, configs[algorithm]))
    update = learner.update

    def watched(self, batch):
        batches.append(batch)
        metrics = update(self, batch)
        return {k: v * (torch.nan if len(batches) == poisoned else 1.0) for k, v in metrics.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "update", watched)
        train(algorithm, store, updates=5, **options)
        with pytest.raises(FloatingPointError, match=r"at update 8, whose batch is in .*diverged\.json"):
            train(algorithm, store, updates=20, resume=True, **options)
    said = json.loads((run / "diverged.json").read_text())
    (found,) = said["batches"]
    assert found.pop("update") == poisoned and said["value"] == "nan"
    sampler = create(algorithm, store, configs[algorithm]).make_sampler(store)
    rows = {name: torch.tensor(value) for name, value in found.items()}
    if "rows" in rows:
        assert torch.equal(sampler.transitions.states[rows["rows"]], batches[poisoned - 1].states)
    else:
        again, batch = (getattr(b, "windows", b) for b in (sampler.windows(**rows), batches[poisoned - 1]))
        assert torch.equal(again.states, batch.states)


def test_the_best_checkpoint_is_kept_and_linked(store, configs, tmp_path):
    scores = {2: 1.0, 4: 5.0, 6: 5.0, 8: 3.0, 10: 4.0}

    def evaluate(step, run):
        return {"100/return_mean": -1.0, "200/return_mean": scores[step], "200/return_std": 99.0}

    options = {"config": configs["dt"], "eval_every": 2, "keep_last": 2, "evaluate": evaluate}
    run = train("dt", store, out=tmp_path / "run", updates=10, **options)
    folder = run / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["10", "4", "8", "best", "last"]
    assert (folder / "best").readlink().name == "4" and load_policy(folder / "best").info.step == 4
    scores |= {12: 9.0, 14: 0.0}
    train("dt", store, out=run, updates=14, resume=True, **options)
    assert sorted(p.name for p in folder.iterdir()) == ["12", "14", "best", "last"]
    assert (folder / "best").readlink().name == "12"


def test_normalised_scores_go_before_returns():
    records = [
        {"step": 1, "eval/return_mean": 9.0, "eval/normalized_score": 1.0},
        {"step": 2, "train/loss": 0.0},
        {"step": 3, "eval/return_mean": 1.0, "eval/normalized_score": 2.0},
    ]
    assert best_step(records) == 3 and best_step(records[1:2]) is None


def test_a_run_asked_to_stop_saves_and_goes_on_later(store, configs, tmp_path, algorithm, assert_same_bits):
    options = {"config": configs[algorithm], "updates": 9, "checkpoint_every": 100, "log_every": 4}
    whole = train(algorithm, store, out=tmp_path / "whole", **options)
    asked = iter([False, False, True])
    run = train(algorithm, store, out=tmp_path / "run", stop=lambda: next(asked), **options)
    assert (run / "checkpoints" / "last").readlink().name == "3"
    train(algorithm, store, out=run, resume=True, **options)
    assert_same_bits(whole, run)
    assert without_clock(records(run)) == without_clock(records(whole))


def test_old_checkpoints_can_be_pruned(store, configs, tmp_path):
    run = train(
        "dt", store, config=configs["dt"], out=tmp_path / "run", updates=6, checkpoint_every=1, keep_last=2
    )
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["5", "6", "last"]
    assert load_policy(run).info.step == 6


def test_progress_ends_at_the_end(store, configs, tmp_path):
    calls = []
    train(
        "dt",
        store,
        config=configs["dt"],
        out=tmp_path / "run",
        updates=5,
        log_every=5,
        progress=lambda *c: calls.append(c),
    )
    done, total, latest = calls[-1]
    assert (done, total) == (5, 5) and "train/loss" in latest
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"updates": 0}, "updates: expected a positive integer, got 0"),
        ({"log_every": 1.5}, "log_every: expected a positive integer"),
        ({"eval_every": 2}, "eval_every: expected together with evaluate"),
        ({"keep_last": 0}, "keep_last: expected a positive integer"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(store, configs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train("dt", store, config=configs["dt"], out=tmp_path / "run", **{"updates": 2, **options})
    assert not (tmp_path / "run").exists()


def test_without_a_config_the_preset_of_the_dataset_is_used(make_store, tmp_path):
    run = train("iql", make_store(env_id="PointMaze_UMaze-v3"), out=tmp_path / "run", updates=1)
    assert json.loads((run / "config.json").read_text())["config"]["reward_transform"] == "raw"
