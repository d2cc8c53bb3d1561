"""What is kept of a suite's results for the documentation."""

import json

import pytest

from tools.keep_results import keep, main


def made(folder, content):
    (folder / "figures").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    for name in ("scores.png", "scores.svg"):
        (folder / "figures" / name).write_bytes(b"a figure")
    return folder


def test_results_and_figures_are_kept_without_the_seeds(tmp_path):
    content = {
        "suite": "toy",
        "tables": {"toy": {"rows": []}},
        "claims": [],
        "seeds": [{"seed": 0}, {"seed": 3}],
    }
    copies = keep(made(tmp_path / "toy", content), tmp_path / "kept")
    assert [copy.name for copy in copies] == ["toy.json", "toy-scores.png"]
    content["training_seeds"] = [each["seed"] for each in content.pop("seeds")]
    assert json.loads(copies[0].read_text()) == content and copies[1].read_bytes() == b"a figure"


def test_results_that_are_not_complete_are_not_kept(tmp_path):
    made(tmp_path / "gym", {"suite": "gym", "missing": [["hopper-medium", "BC", 1]]})
    with pytest.raises(ValueError, match="1 number is missing; run `dtag reproduce gym` again"):
        keep(tmp_path / "gym", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_suite_that_was_not_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `dtag reproduce` first"):
        keep(tmp_path / "gym", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_command_names_a_suite_that_was_not_run_in_one_sentence(tmp_path, capsys):
    assert main(["nosuch", "--results", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert err.startswith("python -m tools.keep_results: ") and "nosuch/results.json" in err
