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
