"""The folder of a suite's results: what it removes of an earlier call and what it leaves alone."""

import json

from dtag_fast.experiments import plots
from dtag_fast.experiments.result_folder import write_findings
from dtag_fast.experiments.tables import Table

TABLE = Table(("a", "b"), [("1", "2")])


def written(folder, tables, figures=()) -> set[str]:
    with plots.style():
        drawn = {name: plots.new_axes(1, 1, size=(1, 1))[0] for name in figures}
    files = write_findings(folder, {"suite": "toy"}, dict.fromkeys(tables, TABLE), drawn)
    assert all(file.is_file() for file in files)
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_tables_and_figures_of_an_earlier_call_go_and_other_files_stay(tmp_path):
    assert len(written(tmp_path, ("scores", "gains"), ("scores", "gains"))) == 1 + 6 + 4
    (tmp_path / "tables/gains.txt").touch()
    (tmp_path / "tables/mine.md").touch()
    kept = {"results.json", "tables/gains.txt", "tables/mine.md", "figures/scores.png", "figures/scores.svg"}
    left = written(tmp_path, ("scores",), ("scores",))
    assert left == kept | {f"tables/scores.{kind}" for kind in ("md", "csv", "tex")}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tables"].keys() == {"scores"} and results["figures"] == ["scores"]


def test_results_that_name_no_figures_keep_them(tmp_path):
    written(tmp_path, ("scores",), ("scores",))
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"suite": "toy", "tables": {}}))
    assert "figures/scores.png" in written(tmp_path, ("scores",))
