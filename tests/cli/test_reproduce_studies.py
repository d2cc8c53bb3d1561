"""`dtag reproduce` of the suites that train on datasets: its plan, what it writes, what it refuses."""

import csv
import importlib.util
import json
import shutil
from dataclasses import replace

import pytest
from suites_of_data import DATASET, TINY, make_data

from dtag_fast.cli.main import main
from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.random_policy import make_random
from dtag_fast.experiments.reproduction import budget

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (extra cluster)")


@pytest.fixture(scope="module")
def minari(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("minari"))


@pytest.fixture
def reproduce(minari, tmp_path, monkeypatch, capsys):
    """reproduce(...) -> (exit code, standard output, standard error) in an empty folder, of a tiny budget."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(minari))
    monkeypatch.setenv("DTAG_CACHE", str(minari.parent / f"cache-of-{minari.name}"))
    monkeypatch.setitem(budget.BUDGETS, "small", TINY)

    def call(*arguments: str):
        code = main(["reproduce", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def whole(minari, tmp_path_factory):
    """Folder of the suite gym on one task, made in this process: runs and out."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(minari))
        patch.setenv("DTAG_CACHE", str(minari.parent / f"cache-of-{minari.name}"))
        patch.setitem(budget.BUDGETS, "small", TINY)
        code = main(["reproduce", *words(folder)])
    claims = json.loads((folder / "out/results.json").read_text())["claims"]
    assert code == int(not all(claim["holds"] for claim in claims))
    return folder


def words(folder, jobs=1) -> list[str]:
    return f"gym --seeds 1 --jobs {jobs} --runs {folder / 'runs'} --out {folder / 'out'}".split()


def files_of(folder) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_a_dry_run_prints_plan_cost_and_absent_tasks_and_writes_nothing(reproduce, tmp_path):
    code, out, err = reproduce("gym", "--dry-run", "--jobs", "1")
    assert (code, err) == (0, "") and not list(tmp_path.iterdir())
    assert "training seeds 1 to 3 are reported, seed 0 chooses settings. Tasks: hopper-medium." in out
    assert "Without walker2d-medium: local/walker2d/medium-v0 under the Minari root is not here." in out
    assert out.count("Without ") == 8
    # BC, DT, RF, DT+PG, RF+PG, AWAC, IQL of seeds 0 to 3; BC, AWAC and RF+PG choose nothing
    assert "trainings: 25, of which 25 are missing, about " in out
    # per seed DT and RF with and without AG, DT+PG, RF+PG, BC, AWAC, IQL; RF alone asks for no return; of
    # seeds 1 to 3 those that choose for DT and RF, and what these are reported by
    assert "evaluations: 36, of which 36 are missing, about " in out
    assert " of one core, into results/runs.\n" in out and out.endswith("Nothing was run.\n")


def test_a_dry_run_of_one_seed_on_more_cores(reproduce):
    code, out, _ = reproduce("gym", "--dry-run", "--seeds", "1", "--jobs", "2", "--tasks", " hopper-medium ")
    assert code == 0 and "; training seed 1 is reported, seed 0 chooses" in out
    assert " on 2 cores, into results/runs.\n" in out and "Tasks: hopper-medium.\n" in out


@needs_ray
def test_a_plan_for_a_cluster_is_of_one_core(reproduce):
    _, out, _ = reproduce("gym", "--dry-run", "--executor", "ray", "--jobs", "7")
    assert " of one core, into results/runs.\n" in out


def test_workers_of_another_working_directory_get_places_they_find(reproduce, tmp_path, monkeypatch):
    seen = {}

    def stopped(*_args, runs, out, **_others):
        seen.update(runs=runs, out=out)
        raise KeyboardInterrupt

    monkeypatch.setattr("dtag_fast.experiments.reproduction.study_runs.run_study", stopped)
    code, _, err = reproduce("gym", "--jobs", "1", "--runs", "kept", "--out", "found")
    assert code == 130 and err == "dtag reproduce: interrupted; the same command goes on in kept\n"
    assert seen == {"runs": tmp_path / "kept", "out": tmp_path / "found"}


def test_results_tables_and_figures(whole):
    results = json.loads((whole / "out/results.json").read_text())
    assert (results["suite"], results["data"], results["tasks"]) == ("gym", "local", ["hopper-medium"])
    assert len(results["absent"]) == 8 and results["training_seeds"] == [1] and results["older_pieces"] == 0
    assert str(whole) not in json.dumps(results)
    methods = {"BC", "DT", "RF", "DT+PG", "RF+PG", "AWAC", "IQL", "DT+AG", "RF+AG"}
    methods |= {"DT own", "RF own", "DT+AG own", "RF+AG own"}
    assert {(row["method"], row["seed"]) for row in results["rows"]} == {(method, 1) for method in methods}
    assert all(row["score"] is not None and row["episodes"] == 2 for row in results["rows"])
    tables = {
        f"tables/{name}.{kind}"
        for name in ("scores", "gains", "settings", "own-gains", "own-settings")
        for kind in ("md", "csv", "tex")
    }
    assert files_of(whole / "out") == {"results.json", "figures/scores.png", "figures/scores.svg"} | tables
    with open(whole / "out/tables/scores.csv", newline="") as file:
        header, row, total = csv.reader(file)
    (plain,) = (row["score"] for row in results["rows"] if row["method"] == "DT")
    assert row[header.index("DT")] == f"{plain:.1f}" and row[header.index("DT, CORL's readme")] == "65.1"
    assert total[0] == "total of all 9" and total[-1] == "757.8"


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=needs_ray)])
def test_two_jobs_give_the_same_and_again_nothing_is_run(whole, reproduce, tmp_path, executor):
    # Workers take everything from what they are sent, the budget too.
    reproduce(*words(tmp_path, jobs=2), "--executor", executor)
    assert files_of(tmp_path / "out") == files_of(whole / "out")
    for name in files_of(whole / "out"):
        if not name.startswith("figures"):
            assert (tmp_path / "out" / name).read_bytes() == (whole / "out" / name).read_bytes(), name
    weights = {name for name in files_of(whole / "runs") if name.endswith(".safetensors")}
    assert len(weights) > 11
    assert all((tmp_path / "runs" / n).read_bytes() == (whole / "runs" / n).read_bytes() for n in weights)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*")}
    _, out, _ = reproduce(*words(tmp_path, jobs=2))
    assert "trainings: 11, of which 0 are missing\n" in out and "failed" not in out
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*")} == before


def test_pieces_of_other_code_are_refused_or_kept_with_resume(whole, reproduce, tmp_path):
    for name in ("runs", "out"):
        shutil.copytree(whole / name, tmp_path / name, symlinks=True)
    (file,) = (tmp_path / "runs/recipes/trainings").glob("hopper-medium-bc-s1-*.json")
    record = json.loads(file.read_text())
    record["recipe"]["code"] = "older"
    file.write_text(json.dumps(record))
    code, _, err = reproduce(*words(tmp_path))
    assert code == 2 and err.count("\n") == 1 and "was made with another code; --resume keeps it" in err
    _, out, _ = reproduce(*words(tmp_path), "--resume")
    assert "1 piece that is there was made or begun by other code or another PyTorch.\n" in out
    results = [json.loads((folder / "out/results.json").read_text()) for folder in (tmp_path, whole)]
    assert [found.pop("older_pieces") for found in results] == [1, 0] and results[0] == results[1]


def test_a_piece_that_fails_costs_its_own_numbers_and_the_exit_code(whole, reproduce, tmp_path, monkeypatch):
    shutil.copytree(whole / "runs", tmp_path / "runs", symlinks=True)
    changes = TINY.changes | {"awac": {"no_such_setting": 1}}
    monkeypatch.setitem(budget.BUDGETS, "small", replace(TINY, changes=changes))
    code, out, _ = reproduce(*words(tmp_path))
    assert code == 1 and "failed: trainings/hopper-medium-awac-s1-" in out and "no_such_setting" in out
    assert out.count("failed: ") == 1 and "1 of 13 numbers are missing." in out
    rows = [json.loads((folder / "out/results.json").read_text())["rows"] for folder in (tmp_path, whole)]
    assert rows[0] == [row for row in rows[1] if row["method"] != "AWAC"]
    found, complete = (json.loads((f / "out/results.json").read_text()) for f in (tmp_path, whole))
    assert found["missing"] == [["hopper-medium", "AWAC", 1]] and complete["missing"] == []
    notes = [(folder / "out/tables/scores.md").read_text() for folder in (tmp_path, whole)]
    assert "INCOMPLETE: 1 of 13 numbers are missing." in notes[0] and "INCOMPLETE" not in notes[1]


def test_a_damaged_number_costs_itself_and_its_file_is_named(whole, reproduce, tmp_path):
    shutil.copytree(whole / "runs", tmp_path / "runs", symlinks=True)
    (file,) = (tmp_path / "runs/evaluations").glob("hopper-medium-bc-s1-*.json")
    intact = file.read_bytes()
    file.write_bytes(intact[:200])
    code, out, _ = reproduce(*words(tmp_path))
    assert code == 1 and f"failed: {file}: damaged" in out and f"; remove {file} to have it made anew" in out
    rows = [json.loads((folder / "out/results.json").read_text())["rows"] for folder in (tmp_path, whole)]
    assert rows[0] == [row for row in rows[1] if row["method"] != "BC"]
    file.unlink()
    reproduce(*words(tmp_path))
    again = json.loads((tmp_path / "out/results.json").read_text())
    assert again == json.loads((whole / "out/results.json").read_text())


def test_a_damaged_recipe_is_named(whole, reproduce, tmp_path):
    shutil.copytree(whole / "runs", tmp_path / "runs", symlinks=True)
    (file,) = (tmp_path / "runs/recipes/trainings").glob("hopper-medium-bc-s1-*.json")
    file.write_bytes(file.read_bytes()[:30])
    code, _, err = reproduce(*words(tmp_path))
    assert code == 2 and err.startswith(f"dtag reproduce: {file}: damaged or truncated JSON")


@pytest.mark.parametrize("more", [(), ("--resume",), ("--dry-run",)])
def test_pieces_of_other_data_are_never_taken(more, whole, reproduce, tmp_path, monkeypatch):
    for name in ("runs", "out"):
        shutil.copytree(whole / name, tmp_path / name, symlinks=True)
    before = files_of(tmp_path)
    with minari_root_at(tmp_path / "other"):
        make_random("Hopper-v5", 400, 1, DATASET)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "other"))
    code, _, err = reproduce(*words(tmp_path), *more)
    assert code == 2 and err.count("\n") == 1
    assert f" is of other data than {DATASET} is now; --runs takes another folder" in err
    assert {file for file in files_of(tmp_path) if not file.startswith("other/")} == before


def test_pieces_that_do_not_say_of_which_data_they_are_count_as_before(whole, reproduce, tmp_path):
    for name in ("runs", "out"):
        shutil.copytree(whole / name, tmp_path / name, symlinks=True)
    for file in (tmp_path / "runs/recipes").rglob("*.json"):
        record = json.loads(file.read_text())
        assert record["recipe"].pop("data").keys() == {DATASET}
        file.write_text(json.dumps(record))
    _, out, _ = reproduce(*words(tmp_path))
    assert "trainings: 11, of which 0 are missing\n" in out


def test_runs_within_the_results_are_gone_on_with(whole, reproduce, tmp_path):
    (tmp_path / "found").mkdir()
    shutil.copytree(whole / "runs", tmp_path / "found/runs", symlinks=True)
    arguments = ("gym", "--seeds", "1", "--jobs", "1", "--out", "found", "--runs", "found/runs")
    assert reproduce(*arguments)[0] < 2 and (tmp_path / "found/results.json").is_file()
    (tmp_path / "found/results.json").unlink()
    code, _, err = reproduce(*arguments)  # there are tables now
    assert code == 2 and "out: found holds files of something else" in err
    code, _, err = reproduce("gym", "--out", "same", "--runs", "same")
    assert code == 2 and "runs: same is the folder of the results; take another one, or one in it" in err


def test_all_tasks_whose_data_are_files_of_d4rl(reproduce, tmp_path):
    (tmp_path / "files").mkdir()
    for name in ("hopper_medium-v2.hdf5", "walker2d_medium_expert-v2.hdf5"):
        (tmp_path / "files" / name).touch()
    code, out, _ = reproduce("gym", "--data", "d4rl:files", "--dry-run")
    assert code == 0 and "data d4rl; " in out and "Tasks: hopper-medium, walker2d-medium-expert." in out
    assert (
        out.count("Without ") == 7
        and "Without hopper-medium-replay: a file of hopper-medium-replay in" in out
    )


def test_some_tasks_each_once(reproduce):
    code, out, _ = reproduce("maze2d", "--tasks", "maze2d-umaze, maze2d-large,maze2d-umaze,", "--dry-run")
    assert code == 0 and "Tasks: maze2d-umaze, maze2d-large.\n" in out and "datasets: 2, of which 2" in out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("gim", "suite: expected one of "),
        ("gym --seeds 0", "seeds: expected a positive number, got 0"),
        ("gym --jobs 0", "jobs: expected a whole number of at least 1, got 0"),
        ("gym --tasks hopper-medium,maze2d-umaze", "tasks: expected some of halfcheetah-medium, "),
        ("gym --tasks ,", "got none"),
        (
            "gym --tasks walker2d-medium",
            "data: there is none for this suite; wanted local/walker2d/medium-v0",
        ),
        ("gym --tasks walker2d-medium", "or take --data minari or --data d4rl:DIR"),
        ("gym --data minari", "wanted mujoco/halfcheetah/medium-v0 under the Minari root, "),
        ("gym --data minari", "; `dtag data download ID` fetches one, or set MINARI_DATASETS_PATH"),
        ("gym --data d4rl:.", "; D4RL's files have names like hopper_medium_replay-v2.hdf5; give the folder"),
        ("gym --data nowhere", 'data: expected "local", "minari" or "d4rl:DIR"'),
        ("gym --data d4rl:nowhere", "data: nowhere is no folder"),
        ("gym --out other", "other/results.json is not of the suite gym; take another folder"),
        ("gym --out mine", "out: mine holds files of something else"),
        ("gym --out file", "out: expected a folder, file is a file"),
        ("gym --out /proc/foo", "out: nothing can be written to /proc/foo (/proc: "),
        ("gym --out /proc/foo --dry-run", "out: nothing can be written to /proc/foo (/proc: "),
        ("gym --runs /proc/foo", "runs: nothing can be written to /proc/foo (/proc: "),
        ("gym --runs file", "runs: nothing can be written to file "),
        ("gym --runs runs", "was not made by this experiment"),
        ("toy --tasks hopper-medium", "--tasks: toy trains on no dataset and takes no such option"),
        ("toy --data minari", "--data: toy"),
        ("toy --budget full", "--budget: toy"),
        ("toy --runs x", "--runs: toy"),
        ("toy --resume", "--resume: toy"),
        ("toy --executor ray", "--executor: toy"),
        ("toy --jobs 2", "--jobs: toy"),
        ("toy --ray-address a:1", "--ray-address: toy"),
    ],
)
def test_user_errors_are_one_sentence(arguments, sentence, whole, reproduce, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/results.json").write_text('{"suite": "maze2d"}')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    (tmp_path / "file").touch()
    for file in (whole / "runs").glob("trainings/*"):
        (tmp_path / "runs/trainings" / file.name).mkdir(parents=True)
    before = files_of(tmp_path)
    extra = [] if "--jobs" in arguments or arguments.startswith("toy") else ["--jobs", "1"]
    extra += [] if "--seeds" in arguments or arguments.startswith("toy") else ["--seeds", "1"]
    code, _, err = reproduce(*arguments.split(), *extra)
    assert code == 2 and err.startswith("dtag reproduce: ") and err.count("\n") == 1 and sentence in err
    assert files_of(tmp_path) == before


def test_the_list_names_all_suites(reproduce):
    code, out, _ = reproduce("list")
    assert code == 0 and {line.split()[0] for line in out.splitlines()} >= {"gym", "maze2d", "toy", "regret"}
