"""Pieces of an experiment are reused exactly when the same recipe finished them."""

import json

import pytest

from dtag_fast.experiments.reuse import Found, Pieces, code_fingerprint, write_json

RECIPE = {"steps": 3, "sizes": (1, 2), "nested": {"lr": 0.1}}


@pytest.fixture
def pieces(tmp_path):
    return Pieces(tmp_path)


def make(pieces, name="piece.json", recipe=RECIPE):
    path = pieces.begin(name, recipe)
    write_json(path, "content")
    pieces.finish(name, recipe)
    return path


def test_the_same_recipe_is_reused(pieces):
    assert pieces.look("piece.json", RECIPE) == (Found.NOTHING, "")
    make(pieces)
    assert pieces.look("piece.json", RECIPE) == (Found.FINISHED, "")


def test_another_recipe_is_not_and_says_why(pieces):
    make(pieces)
    found, difference = pieces.look("piece.json", {"steps": 4, "sizes": (1, 2), "seed": 1})
    assert found is Found.OTHER
    assert difference == "nested, seed, steps"


def test_an_interrupted_piece_is_not_reused(pieces):
    path = pieces.begin("piece.json", RECIPE)
    assert pieces.look("piece.json", RECIPE)[0] is Found.BEGUN
    write_json(path, "content")  # killed before finish
    assert pieces.look("piece.json", RECIPE)[0] is Found.BEGUN


def test_a_finished_piece_that_was_deleted_is_made_again(pieces):
    make(pieces).unlink()
    assert pieces.look("piece.json", RECIPE)[0] is Found.BEGUN


def test_beginning_removes_what_another_recipe_left_unless_told_to_keep_it(pieces):
    folder = pieces.begin("run", RECIPE)
    (folder / "checkpoints").mkdir(parents=True)
    pieces.begin("run", RECIPE, keep=True)
    assert (folder / "checkpoints").exists()
    pieces.begin("run", RECIPE)
    assert not folder.exists()


def test_what_no_recipe_describes_is_never_touched(pieces, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("do not delete")
    with pytest.raises(ValueError, match="was not made by this experiment"):
        pieces.look("run", RECIPE)
    assert (tmp_path / "run" / "thesis.txt").exists()


def test_write_json_leaves_no_draft_and_replaces_whole(tmp_path):
    write_json(tmp_path / "a" / "b.json", [1])
    write_json(tmp_path / "a" / "b.json", [2])
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == [2]
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.json"]


def test_fingerprint_follows_the_sources(tmp_path, monkeypatch):
    import dtag_fast

    (tmp_path / "models").mkdir()
    monkeypatch.setattr(dtag_fast, "__file__", str(tmp_path / "__init__.py"))
    seen = {code_fingerprint("models")}
    for text in ("a = 1", "a = 2"):
        (tmp_path / "models" / "x.py").write_text(text)
        seen.add(code_fingerprint("models"))
    (tmp_path / "models" / "x.py").rename(tmp_path / "models" / "y.py")
    seen.add(code_fingerprint("models"))
    (tmp_path / "models" / "x.txt").write_text("no source")
    assert code_fingerprint("models") in seen
    assert len(seen) == 4


def test_fingerprint_follows_the_presets(tmp_path, monkeypatch):
    import dtag_fast

    (tmp_path / "algorithms/presets").mkdir(parents=True)
    monkeypatch.setattr(dtag_fast, "__file__", str(tmp_path / "__init__.py"))
    seen = {code_fingerprint("algorithms")}
    for text in ("lr = 1", "lr = 2"):
        (tmp_path / "algorithms/presets/x.toml").write_text(text)
        seen.add(code_fingerprint("algorithms"))
    assert len(seen) == 3


def test_a_piece_is_locked_by_one_at_a_time(pieces):
    with pieces.lock("run") as held, pieces.lock("run", wait=False) as again:
        assert held and not again
        with pieces.lock("piece.json", wait=False) as other:
            assert other
    with pieces.lock("run", wait=False) as held:
        assert held


# Names of recipes


@pytest.mark.parametrize(("name", "recipe"), [("piece.json", "piece.json"), ("run", "run.json")])
def test_a_recipe_has_the_name_of_its_piece(pieces, tmp_path, name, recipe):
    make(pieces, name)
    assert [file.name for file in (tmp_path / "recipes").iterdir()] == [recipe]


def make_as_older_versions(pieces, finished, recipe=RECIPE):
    record = {"finished": finished, "recipe": recipe}
    write_json(pieces.root / "recipes/piece.json.json", record)
    if finished:
        write_json(pieces.path("piece.json"), "older content")


def test_what_an_older_version_made_is_reused_by_the_same_recipe_alone(pieces):
    make_as_older_versions(pieces, finished=True)
    assert pieces.look("piece.json", RECIPE) == (Found.FINISHED, "")
    assert pieces.look("piece.json", RECIPE | {"steps": 4}) == (Found.OTHER, "steps")


def test_what_an_older_version_finished_is_finished_whatever_it_was_made_from(pieces):
    make_as_older_versions(pieces, finished=True, recipe=RECIPE | {"steps": 4})
    assert pieces.look("piece.json", RECIPE)[0] is Found.OTHER and pieces.is_finished("piece.json")
    pieces.path("piece.json").unlink()
    assert not pieces.is_finished("piece.json")


@pytest.mark.parametrize("finished", [True, False])
def test_what_is_begun_again_has_nothing_of_an_older_version(pieces, tmp_path, finished):
    make_as_older_versions(pieces, finished)
    path = pieces.begin("piece.json", RECIPE)
    assert not path.exists()
    assert [file.name for file in (tmp_path / "recipes").iterdir()] == ["piece.json"]
    assert pieces.look("piece.json", RECIPE) == (Found.BEGUN, "")


def test_an_older_version_that_came_after_a_newer_one_is_believed(pieces):
    """It knows nothing of the newer name: the record there is of a piece that is gone."""
    make(pieces).unlink()
    make_as_older_versions(pieces, finished=True, recipe=RECIPE | {"steps": 4})
    assert pieces.look("piece.json", RECIPE) == (Found.OTHER, "steps")


def test_a_folder_and_a_file_of_one_name_are_not_mixed_up(pieces):
    write_json(pieces.root / "recipes/run.json", {"finished": True, "recipe": RECIPE})  # older: of a folder
    pieces.path("run").mkdir()
    assert pieces.look("run", RECIPE)[0] is Found.FINISHED
    with pytest.raises(ValueError, match=r"run\.json is the recipe of run, not of run\.json; take an"):
        pieces.look("run.json", RECIPE)
    make(pieces)
    with pytest.raises(ValueError, match=r"piece\.json is the recipe of piece\.json, not of piece; "):
        pieces.look("piece", RECIPE)
