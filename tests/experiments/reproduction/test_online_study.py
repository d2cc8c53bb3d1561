"""The suite of online fine-tuning: runs, interrupted and diverged ones among them, its table and claims."""

import json

import pytest
from suites_of_data import TINY, make_data

from dtag_fast.executors.choice import InThisProcess
from dtag_fast.experiments.reproduction.budget import BUDGETS, FULL
from dtag_fast.experiments.reproduction.datasets import Data, Maze
from dtag_fast.experiments.reproduction.finetunings import CURVE, RUN, Finetuning
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.online_study import (
    ONLINE_TASKS,
    STUDY,
    Run,
    goals,
    read_run,
    report,
)
from dtag_fast.experiments.reproduction.runner import make_plan, run
from dtag_fast.experiments.reproduction.scores import Goal
from dtag_fast.experiments.reproduction.study_runs import plan_study, run_study
from dtag_fast.experiments.reproduction.tasks import Source
from dtag_fast.experiments.reproduction.trainings import Training
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.training.files import read_json_lines

HOPPER, MAZE = "hopper-medium-replay", "maze2d-umaze"
DATASET = "local/hopper/medium-replay-v0"


@pytest.fixture(scope="module")
def hopper_root(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("minari"), DATASET)


@pytest.fixture(scope="module")
def whole(hopper_root, tmp_path_factory):
    """(folder, report) of the suite on a hopper and a maze, two seeds."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, InThisProcess() as crew:
        patch.setenv("MINARI_DATASETS_PATH", str(hopper_root))
        patch.setenv("DTAG_CACHE", str(folder / "cache"))
        lab = Lab(TINY, Source.parse("local"), 2)
        plan = plan_study(STUDY, lab, folder / "runs")
        places = {"runs": folder / "runs", "out": folder / "out"}
        made = run_study("online", STUDY, lab, plan, crew=crew, **places)
    assert made.failures == [] and made.missing == [] and list(plan.absent) == [
        "halfcheetah-medium-replay", "door-human", "antmaze-umaze"
    ]  # fmt: skip
    return folder, made


def make(root, *works) -> Shelf:
    with InThisProcess() as crew:
        assert run(make_plan(works, root, False), root, crew) == []
    return Shelf(root)


@pytest.mark.parametrize("budget", BUDGETS)
def test_both_algorithms_make_the_same_updates_of_the_policy(budget, tmp_path):
    for body, quality in (task.split("-", 1) for task in ONLINE_TASKS):
        (tmp_path / "local" / body / f"{quality}-v0/data").mkdir(parents=True)
        (tmp_path / "local" / body / f"{quality}-v0/data/metadata.json").write_text("{}")
    lab = Lab(BUDGETS[budget], Source("local", tmp_path), 2)
    found = {(goal.task, goal.method): goal.work for goal in goals(lab, ONLINE_TASKS) if goal.seed == 2}
    assert len(found) == 2 * len(ONLINE_TASKS)
    for task in ONLINE_TASKS:
        odt, td3 = found[task, "odt"], found[task, "td3-odt"]
        each = 2 if task == HOPPER or task.startswith("halfcheetah") else 1
        assert td3.policy.updates == each * odt.policy.updates
        assert dict(td3.policy.changes)["policy_delay"] == each
        assert (odt.policy.seed, td3.policy.seed, odt.seed, td3.seed) == (2, 2, 1_000, 1_000)
        assert (odt.env_steps, odt.online, odt.eval_every) == (td3.env_steps, td3.online, td3.eval_every)
        if lab.budget is FULL:
            published = (5_000, 500_000) if each == 2 else (40_000, 1_000_000)
            assert (odt.policy.updates, odt.env_steps) == published


def test_results_of_the_suite(whole):
    folder, _ = whole
    results = json.loads((folder / "out/results.json").read_text())
    assert [(row["task"], row["seed"], row["algorithm"]) for row in results["rows"]] == [
        (task, seed, name) for task in (HOPPER, MAZE) for seed in (1, 2) for name in ("odt", "td3-odt")
    ]
    assert str(folder) not in json.dumps(results)
    for row in results["rows"]:
        steps = row["env_steps"]
        assert steps[0] == 0 and steps[-1] >= TINY.env_steps and list(steps) == sorted(set(steps))
        assert len(steps) == len(row["returns"]) == len(row["scores"]) and row["diverged"] is None
    hopper = [row for row in results["rows"] if row["task"] == HOPPER]
    assert all(row["dataset"] == DATASET and len(row["env_steps"]) >= 3 for row in hopper)
    written = {file.relative_to(folder / "out").as_posix() for file in (folder / "out").rglob("*.*")}
    kinds = [("tables", kind) for kind in ("md", "csv", "tex")] + [
        ("figures", kind) for kind in ("png", "svg")
    ]
    assert written == {"results.json", *(f"{place}/online.{kind}" for place, kind in kinds)}


def test_a_fine_tuning_keeps_its_run_and_its_curve(whole):
    folder, _ = whole
    places = list((folder / "runs/finetunings").iterdir())
    assert len(places) == 8
    for place in places:
        assert {file.name for file in place.iterdir()} == {RUN, CURVE}
        curve = json.loads((place / CURVE).read_text())
        config = json.loads((place / RUN / "config.json").read_text())
        log = read_json_lines(place / RUN / "metrics.jsonl")
        found = [entry["eval/env_steps"] for entry in log if "eval/env_steps" in entry]
        assert [evaluation["env_steps"] for evaluation in curve["evaluations"]] == found
        iterations = sum("online/env_steps" in entry for entry in log)
        assert curve["policy_updates"] == 2 * iterations and config["online"]["steps_per_iteration"] == 20
        each = 2 if config["algorithm"] == "td3-odt" and "hopper" in place.name else 1
        assert config["start"]["step"] == 2 * each and config["start"]["took"] == "everything, optimizers too"


@pytest.mark.parametrize("stops", [1, 3])
def test_an_interrupted_run_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch, hopper_root, stops):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(hopper_root))
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    lab, shelf = Lab(TINY, Source.parse("local"), 2), Shelf(whole[0] / "runs")
    work = next(goal.work for goal in goals(lab, [HOPPER]) if (goal.method, goal.seed) == ("td3-odt", 2))
    left = stops

    def interrupt(share: float) -> None:
        nonlocal left
        assert 0 < share <= 1
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.do(tmp_path / "again", shelf, interrupt)
    assert not (tmp_path / "again" / CURVE).exists()
    work.do(tmp_path / "again", shelf, interrupt)
    theirs = shelf.path(work)
    assert (tmp_path / "again" / CURVE).read_bytes() == (theirs / CURVE).read_bytes()
    last = "last/model.safetensors"
    ours = tmp_path / "again" / RUN / "checkpoints" / last
    assert ours.read_bytes() == (theirs / RUN / "checkpoints" / last).read_bytes()


def test_divergence_offline_and_online_is_a_result(tmp_path, monkeypatch, hopper_root):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(hopper_root))
    monkeypatch.setenv("DTAG_CACHE", str(tmp_path / "cache"))
    changes = tuple(sorted((TINY.changes["td3-odt"] | {"critic_lr": 1e30}).items()))
    online = tuple(sorted(TINY.online.items()))
    for updates in (20, 1):  # offline already, and not before it goes online
        policy = Training(HOPPER, Data(DATASET), "td3-odt", updates, 1, changes)
        work = Finetuning(policy, 100, online, 2, 1)
        shelf = make(tmp_path / "runs", work)
        found = read_run(Goal(HOPPER, "td3-odt", 1, work), shelf)
        assert found.diverged > 0 and found.values == ()
        assert (shelf.path(work) / RUN).exists() == (updates == 1)


def test_data_of_a_maze_are_those_on_the_shelf(whole):
    folder, _ = whole
    config = next((folder / "runs/finetunings").glob(f"{MAZE}-td3-odt-s1-*/{RUN}/config.json"))
    about = json.loads(config.read_text())["dataset"]
    assert about["dataset_id"] == Maze("umaze", TINY.maze_steps).dataset_id


def runs_of(task, algorithm, *curves, **about):
    return [
        Run(task, algorithm, seed, (0, 10, 20), tuple(9 * y for y in curve), curve, **about)
        for seed, curve in enumerate(curves, start=1)
    ]


def test_table_and_claims():
    rows = [
        *runs_of("a", "odt", (1.0, 1.0, 3.0), (2.0, 4.0, 2.0)),
        *runs_of("a", "td3-odt", (1.0, 5.0, 7.0), (3.0, 3.0, 10.0)),
        *runs_of("b", "odt", (5.0, 5.0, 5.0)),
        Run("b", "td3-odt", 1, diverged=3),
        Run("c", "td3-odt", 4, (0, 30), (200.0, 100.0)),
    ]
    found = report(rows, ["a", "b", "c"])
    table = found.tables["online"]
    assert table.rows == [
        # t of one degree of freedom: 12.706; half widths are 12.706 |x - y| / 2
        ("a", "odt", "2", "20", "1.5 (-4.9 to 7.9)", "2.5 (-3.9 to 8.9)", "+1.0 (-11.7 to +13.7)", "-",
         "2.2 (-7.3 to 11.8)", "-"),
        ("a", "td3-odt", "2", "20", "2.0 (-10.7 to 14.7)", "8.5 (-10.6 to 27.6)", "+6.5 (+0.1 to +12.9)",
         "+6.0 (-19.4 to +31.4)", "4.6 (3.0 to 6.2)", "+2.4 (-5.6 to +10.3)"),
        ("b", "odt", "1", "20", "5.0", "5.0", "+0.0", "-", "5.0", "-"),
        ("b", "td3-odt", "0, 1 diverged", "-", "-", "-", "-", "-", "-", "-"),
        ("c", "odt", "0", "-", "-", "-", "-", "-", "-", "-"),
        ("c", "td3-odt", "1", "30", "200.0", "100.0", "-100.0", "-", "150.0", "-"),
    ]  # fmt: skip
    above, improved = found.claims
    assert (above.holds, above.measured) == (True, "on 1 of 1")
    assert (improved.holds, improved.measured) == (False, "on 1 of 2")
    axes = found.figures["online"].axes
    assert [place.get_title() for place in axes[:3]] == ["a", "b", "c"]
    assert axes[0].lines[1].get_ydata().tolist() == [2.0, 4.0, 8.5]
    assert axes[0].get_ylabel() == "score or return"


def test_without_any_run_there_is_a_table_and_no_claim_holds():
    found = report([], ["a"])
    assert [row[2] for row in found.tables["online"].rows] == ["0", "0"] and not found.figures
    assert [claim.holds for claim in found.claims] == [False, False]


@pytest.mark.parametrize("missing", ["all", "first", "last"])
def test_a_curve_without_its_ends_is_no_number(tmp_path, missing):
    work = Finetuning(Training(HOPPER, Data(DATASET), "odt", 2, 1), 100)
    goal, shelf = Goal(HOPPER, "odt", 1, work), Shelf(tmp_path)
    assert read_run(goal, shelf) is None
    curve = [
        {"env_steps": steps, "return_mean": 1.0, "normalized_score": None, "policy_updates": 0}
        for steps in (0, 50, 100)
    ]
    curve = {"all": [], "first": curve[1:], "last": curve[:-1]}[missing]
    about = {"dataset": DATASET, "target_return": 1.0, "policy_updates": 4, "env_steps": 100}
    shelf.path(work).mkdir(parents=True)
    (shelf.path(work) / CURVE).write_text(json.dumps(about | {"evaluations": curve}))
    assert read_run(goal, shelf) is None
