"""Which pieces are made and which are kept; errors, deaths of processes, and kills in the middle."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from killing import run_script
from numbers_of_work import Number, Steps, made

from dtag_fast.executors.choice import InThisProcess
from dtag_fast.executors.processes import Processes
from dtag_fast.experiments.reproduction.runner import WorkJob, _forget_outdated, make_plan, recipe, run
from dtag_fast.experiments.reuse import Pieces

BASE = Number(1)
MIDDLE = Number(2, (BASE,))
TOP = Number(3, (MIDDLE, BASE))
OTHER = Number(5)
ALL = (TOP, OTHER)
STEPS = Steps(4)
SCRIPT = Path(__file__).with_name("killed_pieces.py")


def do(root: Path, goals=ALL, keep_older: bool = False) -> list[str]:
    with InThisProcess() as crew:
        return run(make_plan(goals, root, keep_older), root, crew)


def record_of(root: Path, work: Number | Steps) -> Path:
    return root / "recipes" / f"{work.name.removesuffix('.json')}.json"


def change(root: Path, work: Number | Steps, **values) -> None:
    """As if a piece had been made from something else, or had not been finished."""
    file = record_of(root, work)
    record = json.loads(file.read_text())
    finished = values.pop("finished", record["finished"])
    file.write_text(json.dumps(record | {"finished": finished, "recipe": record["recipe"] | values}))


def test_a_plan_writes_nothing_and_tells_what_is_missing(tmp_path):
    plan = make_plan(ALL, tmp_path / "runs", False)
    assert plan.missing == {BASE, MIDDLE, TOP, OTHER} and not plan.older and not list(tmp_path.iterdir())
    assert plan.seconds == 110 and plan.kinds() == {"numbers": (4, 4, 110.0)}


def test_all_is_made_once_in_an_order_that_works(tmp_path):
    assert do(tmp_path) == [] and made(tmp_path) == ["n5", "n1", "n2", "n3"]  # the longest of a wave first
    assert [int((tmp_path / work.name).read_text()) for work in (BASE, MIDDLE, TOP, OTHER)] == [1, 3, 7, 5]
    assert do(tmp_path) == [] and made(tmp_path) == []
    plan = make_plan(ALL, tmp_path, False)
    assert not plan.missing and plan.kinds() == {"numbers": (4, 0, 0.0)}
    assert json.loads(record_of(tmp_path, BASE).read_text())["seconds"] >= 0


def test_what_another_suite_made_is_taken(tmp_path):
    do(tmp_path, (MIDDLE,))
    made(tmp_path)
    do(tmp_path)
    assert made(tmp_path) == ["n5", "n3"]


def test_what_was_begun_is_gone_on_with(tmp_path):
    do(tmp_path)
    made(tmp_path)
    change(tmp_path, OTHER, finished=False)
    assert make_plan(ALL, tmp_path, False).missing == {OTHER}
    do(tmp_path)
    assert made(tmp_path) == ["n5"] and json.loads(record_of(tmp_path, OTHER).read_text())["finished"]


@pytest.mark.parametrize("key, words", [("code", "another code"), ("torch", "another torch")])
def test_pieces_of_other_code_are_refused_or_kept(tmp_path, key, words):
    do(tmp_path)
    made(tmp_path)
    change(tmp_path, MIDDLE, **{key: "older"})
    with pytest.raises(ValueError, match=rf"resume: .*n2-.*\.json was made with {words}; --resume keeps it"):
        make_plan(ALL, tmp_path, False)
    plan = make_plan(ALL, tmp_path, True)
    assert plan.older == {MIDDLE} and not plan.missing
    do(tmp_path, keep_older=True)
    assert made(tmp_path) == []


def left_in_the_middle(root: Path, **values) -> None:
    """STEPS, of which two are there."""
    do(root, (STEPS,))
    made(root)
    (root / STEPS.name / "steps.txt").write_text("0\n1\n")
    change(root, STEPS, finished=False, **values)


@pytest.mark.parametrize("key, words", [("code", "another code"), ("torch", "another torch")])
def test_a_folder_that_other_code_began_is_refused_or_gone_on_with(tmp_path, key, words):
    left_in_the_middle(tmp_path, **{key: "older"})
    sentence = rf"resume: .*s4-\w+ was begun with {words}; --resume goes on with it and keeps what else is"
    with pytest.raises(ValueError, match=sentence):
        make_plan((STEPS,), tmp_path, False)
    plan = make_plan((STEPS,), tmp_path, True)
    assert plan.older == plan.missing == {STEPS}
    assert do(tmp_path, (STEPS,), keep_older=True) == [] and made(tmp_path) == ["step-2", "step-3"]


@pytest.mark.parametrize("of_code", ["older", recipe(STEPS)["code"]])
def test_what_two_codes_made_is_taken_for_that_of_neither(tmp_path, monkeypatch, of_code):
    left_in_the_middle(tmp_path, code="older")
    do(tmp_path, (STEPS,), keep_older=True)
    monkeypatch.setattr("dtag_fast.experiments.reproduction.runner._code", lambda packages: of_code)
    with pytest.raises(ValueError, match="was made with another code; --resume keeps it"):
        make_plan((STEPS,), tmp_path, False)
    plan = make_plan((STEPS,), tmp_path, True)
    assert plan.older == {STEPS} and not plan.missing


def test_what_two_codes_made_names_each_once(tmp_path):
    left_in_the_middle(tmp_path, code="older")
    code = recipe(STEPS)["code"]
    for _ in range(2):
        do(tmp_path, (STEPS,), keep_older=True)
        assert json.loads(record_of(tmp_path, STEPS).read_text())["recipe"]["code"] == f"older, then {code}"
        change(tmp_path, STEPS, finished=False)


def test_a_file_that_other_code_began_is_made_from_the_start(tmp_path):
    do(tmp_path)
    made(tmp_path)
    change(tmp_path, OTHER, code="older", finished=False)
    (tmp_path / OTHER.name).write_text("half")
    do(tmp_path)
    assert made(tmp_path) == ["n5"] and (tmp_path / OTHER.name).read_text() == "5"


def test_a_piece_whose_need_is_made_anew_is_made_anew(tmp_path):
    do(tmp_path)
    made(tmp_path)
    (tmp_path / MIDDLE.name).unlink()
    assert make_plan(ALL, tmp_path, False).missing == {MIDDLE, TOP}
    change(tmp_path, TOP, code="older")  # which alone would be kept
    plan = make_plan(ALL, tmp_path, True)
    assert plan.missing == {MIDDLE, TOP} and not plan.older
    do(tmp_path, keep_older=True)
    assert made(tmp_path) == ["n2", "n3"]


def test_nothing_made_from_an_older_piece_outlives_a_kill(tmp_path):
    """The piece is made anew, then the process is killed before it makes what needs it."""
    do(tmp_path)
    (tmp_path / BASE.name).unlink()
    made(tmp_path)
    plan = make_plan(ALL, tmp_path, False)

    class Killed(InThisProcess):
        def run(self, jobs, progress):
            if any(job.work == MIDDLE for job in jobs):
                raise KeyboardInterrupt
            yield from super().run(jobs, progress)

    with pytest.raises(KeyboardInterrupt), Killed() as crew:
        run(plan, tmp_path, crew)
    assert made(tmp_path) == ["n1"] and make_plan(ALL, tmp_path, False).missing == {MIDDLE, TOP}


def test_a_piece_that_fails_spares_the_others(tmp_path):
    broken = Number(7, fails="raises")
    above = Number(8, (broken, BASE))
    (sentence,) = do(tmp_path, (above, TOP))
    assert sentence == f"{broken.name}: n7 cannot be made"
    assert made(tmp_path) == ["n7", "n1", "n2", "n3"] and not (tmp_path / above.name).exists()
    assert make_plan((above, TOP), tmp_path, False).missing == {broken, above}


def test_a_number_of_an_older_piece_is_no_number_of_a_failed_one(tmp_path):
    broken = Number(7, fails="raises")
    above = Number(8, (broken,))
    for work in (broken, above):
        pieces = Pieces(tmp_path)
        pieces.begin(work.name, recipe(work))
        (tmp_path / work.name).parent.mkdir(exist_ok=True)
        (tmp_path / work.name).write_text("1")
        pieces.finish(work.name, recipe(work))
    (tmp_path / broken.name).unlink()
    assert len(do(tmp_path, (above,))) == 1 and not (tmp_path / above.name).exists()


def test_files_that_no_recipe_describes_are_left_alone(tmp_path):
    (tmp_path / OTHER.name).parent.mkdir()
    (tmp_path / OTHER.name).write_text("mine")
    with pytest.raises(ValueError, match="was not made by this experiment"):
        make_plan(ALL, tmp_path, True)


def test_processes_make_the_same_and_one_that_dies_gets_another(tmp_path):
    once, always = Number(7, fails="dies once"), Number(8, (BASE,), fails="dies")
    seen = []
    with Processes(2) as crew:
        plan = make_plan((TOP, once, always), tmp_path, False)
        (sentence,) = run(plan, tmp_path, crew, lambda done, total: seen.append((done, total)))
    assert sentence == f"{always.name}: its process ended with code -9, twice"
    assert (tmp_path / TOP.name).read_text() == "7" and (tmp_path / once.name).read_text() == "7"
    assert sorted(made(tmp_path)) == ["n1", "n2", "n3", "n7", "n7", "n8", "n8"]
    assert seen[0] == (0, 210) and all(total == 210 for _, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1][0] <= 210


def test_what_a_process_that_died_left_is_gone_on_with(tmp_path):
    with Processes(2) as crew:
        assert run(make_plan((Steps(4, dies=True), BASE), tmp_path, False), tmp_path, crew) == []
    assert sorted(made(tmp_path)) == ["n1", "step-0", "step-1", "step-2", "step-3"]


def test_what_another_process_makes_is_waited_for_and_taken(tmp_path):
    """Its plan is older than what the other one has made: nothing of it may be removed."""
    pieces, wanted, units = Pieces(tmp_path), recipe(STEPS), []
    job = WorkJob(STEPS, tmp_path, wanted, keep_older=False)
    waiting = threading.Thread(target=job.run, args=(units.append,), daemon=True)
    with pieces.lock(STEPS.name):
        path = pieces.begin(STEPS.name, wanted)
        path.mkdir(parents=True)
        (path / "steps.txt").write_text("0\n")
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive() and made(tmp_path) == []
        pieces.finish(STEPS.name, wanted)
    waiting.join(30)
    assert made(tmp_path) == [] and (path / "steps.txt").read_text() == "0\n" and units == [job.units]


def test_what_another_process_left_unfinished_is_gone_on_with(tmp_path):
    job = WorkJob(STEPS, tmp_path, recipe(STEPS), keep_older=False)
    left_in_the_middle(tmp_path)
    job.run(lambda units: None)
    assert made(tmp_path) == ["step-2", "step-3"]


def test_what_other_code_made_meanwhile_is_left_alone(tmp_path):
    job = WorkJob(STEPS, tmp_path, recipe(STEPS), keep_older=False)
    left_in_the_middle(tmp_path, code="older")
    with pytest.raises(ValueError, match="was begun with another code"):
        job.run(lambda units: None)
    assert (tmp_path / STEPS.name / "steps.txt").read_text() == "0\n1\n"


def test_what_another_process_makes_from_a_new_piece_is_not_removed_as_outdated(tmp_path):
    do(tmp_path)
    (tmp_path / BASE.name).unlink()
    plan, pieces = make_plan(ALL, tmp_path, False), Pieces(tmp_path)
    do(tmp_path)  # the other one: all is new when this one begins
    made(tmp_path)
    with InThisProcess() as crew:
        assert run(plan, tmp_path, crew) == []
    assert made(tmp_path) == []
    (tmp_path / BASE.name).unlink()
    plan = make_plan(ALL, tmp_path, False)
    with pieces.lock(TOP.name):  # the other one is at it
        _forget_outdated(plan, pieces)
        assert (tmp_path / TOP.name).exists() and not (tmp_path / MIDDLE.name).exists()


def test_what_was_begun_and_is_damaged_can_be_removed(tmp_path):
    left_in_the_middle(tmp_path)
    place = tmp_path / STEPS.name
    (place / "steps.txt").write_bytes(b"\xff")
    (sentence,) = do(tmp_path, (STEPS,))
    assert sentence.endswith(f"; it was begun before, remove {place} to have it made anew")
    shutil.rmtree(place)
    assert do(tmp_path, (STEPS,)) == [] and (place / "steps.txt").read_text() == "0\n1\n2\n3\n"


class Threads(Number):
    def do(self, path, shelf, progress):
        path.write_text(str(torch.get_num_threads()))


def test_pieces_have_one_thread_in_this_process_too(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        do(tmp_path, (Threads(1),))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / Threads(1).name).read_text() == "1"


def test_killed_and_gone_on_with_to_the_same_bits(tmp_path):
    """Data, a critic, a policy that learns from it, and episodes: killed before changes to their folder."""
    run_script(SCRIPT, tmp_path, 5, 37)
    names = {file.relative_to(tmp_path / "whole") for file in kept(tmp_path / "whole")}
    assert len(names) == 5  # a critic is two networks
    killed = list(tmp_path.glob("killed-*"))
    assert len(killed) > 4
    for folder in killed:
        assert {file.relative_to(folder) for file in kept(folder)} == names
        for name in names:
            assert content(folder / name) == content(tmp_path / "whole" / name), (folder, name)


def kept(folder: Path) -> list[Path]:
    """Last weights of each training, and the evaluations."""
    weights = [
        file for file in folder.glob("trainings/*/checkpoints/*/*.safetensors") if file.parts[-2] == "6"
    ]
    return weights + list(folder.glob("evaluations/*.json"))


def content(file: Path):
    if file.suffix == ".safetensors":
        return file.read_bytes()
    found = json.loads(file.read_text())
    del found["wall_time"], found["steps_per_second"]
    return found
