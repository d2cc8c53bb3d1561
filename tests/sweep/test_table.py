"""The table survives what can happen to a file."""

import json
import subprocess
import sys

import pytest

from dtag_fast.rollout.settings import AGSetting
from dtag_fast.sweep.cells import Cell, setting_columns
from dtag_fast.sweep.table import COLUMNS, Table, in_order, write_parquet


def row(seed, steps=0, target=None, starts=1):
    values = dict.fromkeys(COLUMNS) | setting_columns(AGSetting(steps, starts=starts))
    values |= {"checkpoint_step": 5, "target_return": target, "seed": seed, "episode_return": seed / 3}
    return values


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "table.jsonl"
    with Table(path) as table:
        table.append([row(0), row(1)])
        table.append([row(0, steps=3)])
    with Table(path) as table:
        assert list(table.rows.values()) == [row(0), row(1), row(0, steps=3)]
        assert (Cell(5, None, AGSetting(3)).key, 0) in table.rows


def test_rows_of_before_there_were_starts_have_one(tmp_path):
    path = tmp_path / "table.jsonl"
    before = {name: value for name, value in row(0, steps=3).items() if name != "starts"}
    path.write_text(json.dumps(before) + "\n")
    with Table(path) as table:
        table.append([row(0, steps=3, starts=4)])
        assert list(table.rows.values()) == [row(0, steps=3), row(0, steps=3, starts=4)]
        assert (Cell(5, None, AGSetting(3)).key, 0) in table.rows


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_half_written_last_line_is_cut_and_nothing_else(tmp_path, cut):
    path = tmp_path / "table.jsonl"
    with Table(path) as table:
        table.append([row(0), row(1)])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:-cut])
    with Table(path) as table:
        assert list(table.rows.values()) == [row(0)] and path.read_bytes() == whole[:first]
        table.append([row(1)])
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps(row(0)) + "\n{nonsense\n" + json.dumps(row(1)) + "\n")
    with pytest.raises(ValueError, match="line 2 is damaged"):
        Table(path)
    path.write_text('{"seed": 1}\n')
    with pytest.raises(ValueError, match="other columns"):
        Table(path)


def test_a_full_disk_leaves_the_table_as_it_was(tmp_path):
    path = tmp_path / "table.jsonl"
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(tmp_path)!r})
from pathlib import Path
from dtag_fast.sweep.table import Table
import rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Table(Path({str(path)!r})) as table:
    table.append([rows.ROW])
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
    try:
        table.append([rows.ROW | {{"seed": 1}}] * 3)
    except OSError as error:
        print(error)
"""
    (tmp_path / "rows.py").write_text(f"ROW = {row(0)!r}")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "make room and give the same command again" in done.stdout, done.stderr
    with Table(path) as table:
        assert list(table.rows.values()) == [row(0)]


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    with (
        Table(tmp_path / "table.jsonl"),
        pytest.raises(BlockingIOError, match="another process is sweeping into"),
    ):
        Table(tmp_path / "table.jsonl")


def test_parquet_is_in_order_whatever_order_rows_came_in(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    rows = [row(seed, steps, target) for target in (None, 7.0) for steps in (0, 3) for seed in (0, 1, 10)]
    assert write_parquet(tmp_path / "a", rows) is None
    assert write_parquet(tmp_path / "b", rows[::-1]) is None
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    table = parquet.read_table(tmp_path / "a")
    assert table.column_names == list(COLUMNS) and table.to_pylist() == in_order(rows) == rows


def test_without_pyarrow_one_sentence_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("dtag_fast.data.arrow.is_installed", lambda: False)
    sentence = write_parquet(tmp_path / "table.parquet", [row(0)])
    assert "pip install 'dtag_fast[arrow]'" in sentence and not (tmp_path / "table.parquet").exists()
