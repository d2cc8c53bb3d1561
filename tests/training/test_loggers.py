"""TensorBoard's event files and wandb's offline runs hold what metrics.jsonl holds."""

import json
import sys

import pytest

from dtag_fast.training import train
from dtag_fast.training.loggers import TensorBoard, WandB


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def chunks(data: bytes):
    """The records of a file in LevelDB's log format: blocks of 32 KB, parts of records with 7 bytes of header
    (checksum, length, whether it is whole, first, middle or last), after 7 bytes of the file's own."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (room := -at % 32768) and room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def options(configs, **more):
    evaluate = {"eval_every": 4, "evaluate": lambda step, run: {"return_mean": float(step)}}
    return {"config": configs["dt"], "log_every": 2, "checkpoint_every": 4} | evaluate | more


def test_tensorboard_holds_the_log_of_a_resumed_run(store, configs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    for updates in (4, 8):
        loggers = [TensorBoard()]
        train("dt", store, out=run, updates=updates, resume=True, **options(configs, loggers=loggers))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    names = {name for record in records(run) for name in record} - {"step"}
    assert set(events.Tags()["scalars"]) == names and "train/loss" in names and "eval/return_mean" in names
    for name in names:
        expected = [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in records(run) if name in r]
        assert [(e.step, e.value) for e in events.Scalars(name)] == expected


def test_wandb_offline_holds_the_log(store, configs, tmp_path, monkeypatch):
    import wandb
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    train("dt", store, out=run, updates=4, **options(configs, loggers=[WandB("project")]))
    wandb.teardown()  # finish() does not wait until the file is written to its end; the end of a process does
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert (run / "wandb_id").read_text() in file.name
    logged: dict[int, dict] = {}
    for data in chunks(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            logged.setdefault(record.history.step.num, {})[name] = json.loads(item.value_json)
    expected = {}
    for row in records(run):
        expected.setdefault(row["step"], {}).update(row)
    for step, row in expected.items():
        for name in row.keys() - {"step"}:
            assert logged[step][name] == pytest.approx(row[name]), (step, name)


@pytest.mark.parametrize(
    "package, make, option",
    [("tensorboard", TensorBoard, "--tensorboard"), ("wandb", lambda: WandB("p"), "--wandb")],
)
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, package, make, option):
    monkeypatch.setitem(sys.modules, package, None)  # how Python marks what cannot be imported
    with pytest.raises(ValueError, match=rf"{option}: {package} is not installed .*dtag_fast\[logging\]"):
        make()
