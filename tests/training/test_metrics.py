"""The log survives kills at any byte, and CSV and JSONL say the same."""

import csv
import json

import pytest
import torch

from dtag_fast.training.metrics import MetricsLog, WindowMeans

ROWS = [
    {"step": 1, "train/a": 0.5},
    {"step": 2, "train/a": 1.5},
    {"step": 2, "eval/b": 3.0},
    {"step": 3, "train/a": 2.0},
]


def written(folder):
    log = MetricsLog(folder)
    for row in ROWS:
        log.append(row)
    return (folder / "metrics.jsonl").read_text()


def test_csv_holds_what_jsonl_holds(tmp_path):
    assert [json.loads(line) for line in written(tmp_path).splitlines()] == ROWS
    with open(tmp_path / "metrics.csv") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert rows == ROWS


def test_reopening_after_a_cut_at_any_byte_keeps_whole_lines_up_to_the_step(tmp_path):
    text = written(tmp_path)
    for cut in range(len(text) + 1):
        (tmp_path / "metrics.jsonl").write_text(text[:cut])
        complete = [json.loads(line) for line in text[:cut].split("\n")[:-1]]
        log = MetricsLog(tmp_path, up_to_step=2)
        # a line whose only missing byte is its newline is complete too
        assert log.records in (
            [row for row in complete if row["step"] <= 2],
            [row for row in ROWS[: len(complete) + 1] if row["step"] <= 2],
        )
        log.append({"step": 9, "train/a": 9.0})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == log.records


def test_presence_of_a_metric(tmp_path):
    written(tmp_path)
    log = MetricsLog(tmp_path, up_to_step=9)
    assert log.has(2, "eval/") and not log.has(3, "eval/")


def test_means_and_their_state():
    means = WindowMeans()
    assert means.means() == {}
    means.add({"x": torch.tensor(1.0), "y": torch.tensor(5.0)})
    again = WindowMeans()
    again.load_state_dict(means.state_dict())
    for m in (means, again):
        m.add({"x": torch.tensor(2.0), "y": torch.tensor(7.0)})
        assert m.means() == {"x": 1.5, "y": 6.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_not_finite_is_an_error(value):
    means = WindowMeans()
    means.add({"good": torch.tensor(1.0), "loss": torch.tensor(value)})
    with pytest.raises(FloatingPointError, match="loss became"):
        means.means()


def test_sums_over_several_updates_count_as_many():
    means = WindowMeans()
    means.add({"x": torch.tensor(1.0)})
    means.add({"x": torch.tensor(11.0)}, count=3)
    assert means.count == 4 and means.means() == {"x": 3.0}
