"""`dtag reproduce`: what it writes, what it runs again, what it refuses."""

import csv
import json
from dataclasses import replace

import pytest

from dtag_fast.cli.main import main
from dtag_fast.experiments import suites
from dtag_fast.experiments.reproduction.studies import STUDIES
from dtag_fast.experiments.return_regret import ReturnRegretConfig
from dtag_fast.experiments.single_state import SingleStateConfig
from dtag_fast.experiments.tables import Table
from dtag_fast.experiments.toy import ToyConfig
from dtag_fast.experiments.toy_critic_error import CriticErrorConfig
from dtag_fast.experiments.toy_report import ToySuiteConfig

SMALL = {
    "single-state": SingleStateConfig(
        hidden=(8, 8), pretrain_epochs=1, published_epochs=1, online_epochs=2, rollouts=4
    ),
    "regret": ReturnRegretConfig(
        horizon=3,
        states=3,
        actions=2,
        episodes=60,
        offsets=(-1, 4),
        d_model=8,
        n_layer=1,
        updates=2,
        played=9,
    ),
    "toy": ToySuiteConfig(
        ToyConfig(episodes=32, imitator_updates=2, critic_updates=2, prompts=4),
        CriticErrorConfig(q_rmse=(0.1, 0.8), phases=2, steps=(1, 2)),
    ),
}


@pytest.fixture
def reproduce(monkeypatch, tmp_path, capsys):
    """reproduce("toy", ...) -> (exit code, standard output, standard error), small suites, empty folder."""
    monkeypatch.chdir(tmp_path)
    for name, config in SMALL.items():
        monkeypatch.setitem(suites.SUITES, name, replace(suites.SUITES[name], config=config))

    def call(*arguments: str):
        code = main(["reproduce", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def forbid_running(monkeypatch, name: str, but: tuple[int, ...] = ()) -> None:
    suite = suites.SUITES[name]

    def run(seed, config):
        return suite.run(seed, config) if seed in but else pytest.fail(f"seed {seed} was run again")

    monkeypatch.setitem(suites.SUITES, name, replace(suite, run=run))


@pytest.mark.parametrize("name", SMALL)
def test_every_suite_writes_results_tables_and_figures(name, reproduce, tmp_path):
    code, out, err = reproduce(name, "--seeds", "2")
    folder = tmp_path / "results" / name
    results = json.loads((folder / "results.json").read_text())
    assert results["suite"] == name and [seed["seed"] for seed in results["seeds"]] == [0, 1]
    # Trained for nothing, nobody is at the peak: the exit code says so.
    assert code == (0 if all(claim["holds"] for claim in results["claims"]) else 1)
    assert code == {"single-state": 1, "toy": 1, "regret": 0}[name]
    assert out.count("holds: ") + out.count("DOES NOT HOLD: ") == len(results["claims"]) and not err
    written = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {f"tables/{name}.{kind}" for kind in ("md", "csv", "tex")} < written
    assert {f"figures/{name}.{kind}" for kind in ("png", "svg")} < written
    with open(folder / f"tables/{name}.csv", newline="") as file:
        header, *rows = csv.reader(file)
    markdown = (folder / f"tables/{name}.md").read_text().splitlines()
    assert (
        markdown[0].replace("\\|", "|") == f"| {' | '.join(header)} |"
        and markdown[2] == f"| {' | '.join(rows[0])} |"
    )


def test_the_same_command_again_runs_nothing(reproduce, monkeypatch, tmp_path):
    reproduce("toy", "--seeds", "2", "--out", "here")
    before = (tmp_path / "here/results.json").read_bytes()
    forbid_running(monkeypatch, "toy")
    code, out, _ = reproduce("toy", "--seeds", "2", "--out", "here")
    assert "2 of 2 seeds taken from an earlier run" in out and code == 1
    assert (tmp_path / "here/results.json").read_bytes() == before


def test_more_seeds_run_only_themselves(reproduce, monkeypatch, tmp_path):
    reproduce("toy", "--seeds", "1", "--out", "here")
    forbid_running(monkeypatch, "toy", but=(1,))
    _, out, _ = reproduce("toy", "--seeds", "2", "--out", "here")
    assert "1 of 2 seeds taken from an earlier run" in out
    results = json.loads((tmp_path / "here/results.json").read_text())
    assert [seed["seed"] for seed in results["seeds"]] == [0, 1]


def test_fewer_seeds_lose_none(reproduce, monkeypatch, tmp_path):
    reproduce("toy", "--seeds", "2", "--out", "here")
    before = contents(tmp_path / "here")
    forbid_running(monkeypatch, "toy")
    _, out, _ = reproduce("toy", "--seeds", "1", "--out", "here")
    assert "2 of 2 seeds taken from an earlier run" in out and contents(tmp_path / "here") == before


def test_a_seed_that_was_cut_off_is_run_again(reproduce, monkeypatch, tmp_path):
    suite = suites.SUITES["toy"]

    def stop(seed, config):
        if seed == 1:
            raise KeyboardInterrupt
        return suite.run(seed, config)

    monkeypatch.setitem(suites.SUITES, "toy", replace(suite, run=stop))
    assert reproduce("toy", "--seeds", "2", "--out", "here")[0] == 130
    monkeypatch.setitem(suites.SUITES, "toy", suite)
    forbid_running(monkeypatch, "toy", but=(1,))
    reproduce("toy", "--seeds", "2", "--out", "here")
    results = json.loads((tmp_path / "here/results.json").read_text())
    assert len(results["seeds"]) == 2


def test_seeds_of_an_older_version_are_taken_and_gone_on_with(reproduce, monkeypatch, tmp_path):
    """It named its recipes seed-0.json.json and did not write which piece they are of."""
    reproduce("toy", "--seeds", "2", "--out", "here")
    recipes = tmp_path / "here/recipes"
    assert {file.name for file in recipes.iterdir()} == {"seed-0.json", "seed-1.json"}
    for file in list(recipes.iterdir()):
        record = json.loads(file.read_text())
        del record["piece"]
        file.with_name(f"{file.name}.json").write_text(json.dumps(record))
        file.unlink()
    before = contents(tmp_path / "here")
    forbid_running(monkeypatch, "toy", but=(2,))
    _, out, _ = reproduce("toy", "--seeds", "1", "--out", "here")
    assert "2 of 2 seeds taken from an earlier run" in out and contents(tmp_path / "here") == before
    reproduce("toy", "--seeds", "3", "--out", "here")
    results = json.loads((tmp_path / "here/results.json").read_text())
    assert [seed["seed"] for seed in results["seeds"]] == [0, 1, 2]
    assert {file.name for file in recipes.iterdir()} == {
        *("seed-0.json.json", "seed-1.json.json", "seed-2.json")
    }


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("change", ["config", "code", "suite"])
def test_results_of_something_else_are_never_overwritten(change, reproduce, monkeypatch, tmp_path):
    reproduce("toy", "--seeds", "1", "--out", "here")
    before, suite, name = contents(tmp_path / "here"), suites.SUITES["toy"], "toy"
    if change == "config":
        other = replace(suite, config=replace(suite.config, toy=replace(suite.config.toy, prompts=5)))
        monkeypatch.setitem(suites.SUITES, "toy", other)
    elif change == "code":
        monkeypatch.setitem(suites.SUITES, "toy", replace(suite, code=("experiments/tables.py",)))
    else:
        name = "regret"
    code, _, err = reproduce(name, "--seeds", "1", "--out", "here")
    assert code == 2 and err.count("\n") == 1 and "take another folder" in err
    assert (change in err) and contents(tmp_path / "here") == before


@pytest.mark.parametrize("file", ["mine.txt", "recipes/mine.txt", "results.json", "seed-0.json"])
def test_files_of_somebody_else_are_left_alone(file, reproduce, tmp_path):
    (tmp_path / "here/recipes").mkdir(parents=True)
    if not file.startswith("recipes"):
        (tmp_path / "here/recipes").rmdir()
    (tmp_path / "here" / file).write_text("{}")
    if file == "recipes/mine.txt":
        (tmp_path / "here/results.json").write_text('{"table": []}')
    before = contents(tmp_path / "here")
    code, _, err = reproduce("toy", "--seeds", "1", "--out", "here")
    assert code == 2 and "take another folder or move" in err
    assert contents(tmp_path / "here") == before


def test_hidden_files_are_nobodys(reproduce, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/.DS_Store").touch()
    assert reproduce("toy", "--seeds", "1", "--out", "here")[0] < 2


@pytest.mark.parametrize("file", ["here/recipes/seed-0.json", "here/results.json"])
def test_a_damaged_file_is_named(file, reproduce, tmp_path):
    reproduce("toy", "--seeds", "1", "--out", "here")
    (tmp_path / file).write_text("")
    code, _, err = reproduce("toy", "--seeds", "2", "--out", "here")
    assert code == 2 and err.startswith(f"dtag reproduce: {file}: damaged or truncated JSON")
    (tmp_path / file).write_text("[]")
    code, _, err = reproduce("toy", "--seeds", "2", "--out", "here")
    assert code == 2 and err.startswith("dtag reproduce: ") and err.count("\n") == 1 and file in err


def test_an_interruption_says_where_it_goes_on(reproduce, monkeypatch, tmp_path):
    def interrupted(seed, config):
        raise KeyboardInterrupt

    monkeypatch.setitem(suites.SUITES, "toy", replace(suites.SUITES["toy"], run=interrupted))
    code, _, err = reproduce("toy", "--seeds", "1", "--out", "here")
    assert code == 130 and err == "dtag reproduce: interrupted; the same command goes on in here\n"


def test_the_list_names_every_suite(reproduce):
    code, out, _ = reproduce("list")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == sorted(suites.SUITES | STUDIES)
    assert "dtag reproduce list" in reproduce("--help")[1]


def test_a_dry_run_prints_the_plan_and_writes_nothing(reproduce, monkeypatch, tmp_path):
    forbid_running(monkeypatch, "single-state")
    code, out, _ = reproduce("single-state", "--dry-run")
    assert code == 0 and not list(tmp_path.iterdir())
    assert "rollouts: 4" in out and "10 seeds, of which 0 are finished in results/single-state" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fly",), f"suite: expected one of {', '.join(sorted(suites.SUITES | STUDIES))}, got 'fly'"),
        (("toy", "--seeds", "0"), "seeds: expected a positive number, got 0"),
        (("toy", "--out", "file"), "out: expected a folder, file is a file"),
        (
            ("toy", "--out", "file/results"),
            "out: nothing can be written to file/results ({here}/file: Not a directory); take another folder",
        ),
    ],
)
def test_user_errors_are_one_sentence(arguments, sentence, reproduce, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = reproduce(*arguments)
    assert code == 2 and err == f"dtag reproduce: {sentence.format(here=tmp_path)}\n"


def test_table_in_three_forms(tmp_path):
    table = Table(("name", "x_1"), [("a & b", "50 %"), ("c, d", "1.0 ± 0.1")], note="Below <= 2.")
    assert table.markdown() == (
        "| name | x_1 |\n| --- | ---: |\n| a & b | 50 % |\n| c, d | 1.0 ± 0.1 |\n\nBelow <= 2."
    )
    assert table.csv() == 'name,x_1\na & b,50 %\n"c, d",1.0 ± 0.1'
    assert table.latex().splitlines() == [
        "% Below <= 2.",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"name & x\_1 \\",
        r"\midrule",
        r"a \& b & 50 \% \\",
        r"c, d & 1.0 $\pm$ 0.1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert Table(("|a|", "b"), [("1", "|")]).markdown() == "| \\|a\\| | b |\n| --- | ---: |\n| 1 | \\| |"
    assert Table(("|a| <= 1", "b\\c"), []).latex().splitlines()[2] == (
        r"\textbar{}a\textbar{} $\leq$ 1 & b\textbackslash{}c \\"
    )
    assert Table(("a", "b"), [], text_columns=99).latex().startswith(r"\begin{tabular}{ll}")
    assert [file.name for file in table.save(tmp_path / "t")] == ["t.md", "t.csv", "t.tex"]
    with pytest.raises(ValueError, match="rows: expected 2 cells as the header has, row 1 has 1"):
        Table(("a", "b"), [("c",)])
