"""The report of the benchmarks takes what several runs left behind, and sets GPU times beside the peak."""

import importlib
import json

import pytest


@pytest.fixture
def benchmarks(sources, monkeypatch):
    monkeypatch.syspath_prepend(str(sources))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def gpu_row(device_name: str) -> tuple[str, dict]:
    times = {"ours": {"median": 1e-3, "q25": 9e-4, "q75": 2e-3, "calls": 2}}
    info = {"device": times, "precisions": {"ours": "bf16"}, "flops": 99 * 10**9, "device_name": device_name}
    return "refine_gpu[B=64]", info


def test_times_on_a_known_device_are_a_share_of_its_peak(benchmarks):
    report = benchmarks("report")
    line = "| refine_gpu[B=64] | ours | 1 ms | 900 us to 2 ms | bf16 |"
    assert f"{line} 10 % |" in report.device_table([gpu_row("NVIDIA H100 80GB HBM3")])
    assert f"{line}  |" in report.device_table([gpu_row("Unheard of")])


def test_times_on_the_host_make_no_device_table(benchmarks):
    assert benchmarks("report").device_table([("refine[B=1]", {"variants": {}})]) == ""


def test_work_counts_forward_and_backward_passes_of_both_members(benchmarks):
    problem = benchmarks("peers").Problem.make(3, state_dim=5, action_dim=2, hidden=8, steps=10)
    one_pass = 2 * (2 * 8 + 8 * 8 + 8)
    assert benchmarks("roofline").flops(problem) == 3 * 2 * (2 * 5 * 8 + 21 * one_pass)


def test_runs_that_were_cut_off_leave_the_others(benchmarks, tmp_path):
    for name, text in {
        "a": json.dumps({"machine_info": 1, "benchmarks": [{"name": "one"}]}),
        "b": "",
        "c": '{"benchmarks": [',
        "d": json.dumps({"machine_info": 1, "benchmarks": [{"name": "two"}]}),
    }.items():
        (tmp_path / name).write_text(text)
    read = benchmarks("report").read
    data = read([tmp_path / name for name in ("a", "b", "none", "c", "d")])
    assert data == {"machine_info": 1, "benchmarks": [{"name": "one"}, {"name": "two"}]}
    assert read([tmp_path / "b"]) is None
