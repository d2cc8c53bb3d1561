"""Cells: what is the same, what is added, how files name settings."""

import json

import pytest

from dtag_fast.ops.refine.options import SGD, Adam, ClipNorm, Radius
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.sweep import Cell, read_settings, settings_grid
from dtag_fast.sweep.cells import make_cells, setting_columns


def test_a_grid_over_every_field_has_one_plain_policy():
    lists = {"optimizer": ("sgd", "adam"), "reduce": ("min", "mean", 0), "gradient": ("raw", ClipNorm(1.0))}
    found = settings_grid((0, 1, 5), (0.1, 0.2), **lists, radius=(None, 0.1), select=("best", "last"))
    assert len(found) == 1 + 2 * 2 * 2 * 3 * 2 * 2 * 2 and sum(s.is_plain for s in found) == 1
    assert len({Cell(0, None, s).key for s in found}) == len(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (AGSetting(5, 1), AGSetting(5, 1.0)),
        (AGSetting(5, optimizer="sgd"), AGSetting(5, optimizer=SGD())),
        (AGSetting(5, radius=0.1), AGSetting(5, radius=Radius(0.1))),
        (AGSetting(0, 0.5, reduce="mean"), AGSetting()),
    ],
)
def test_spellings_of_one_setting_are_one_cell(one, other):
    assert Cell(3, 1.0, one).key == Cell(3, 1.0, other).key
    assert len(make_cells([3], [1.0], [one, other, AGSetting()])[0]) == (1 if other.is_plain else 2)


def test_columns_name_every_option():
    setting = AGSetting(3, 0.5, Adam((0.5, 0.9)), 1, ClipNorm(2.0), Radius(0.1, "l2"), "last")
    columns = setting_columns(setting)
    assert columns["optimizer"] == "Adam(betas=(0.5, 0.9), eps=1e-08)" and columns["reduce"] == "1"
    assert columns["gradient"] == "clip:2" and (columns["radius"], columns["radius_norm"]) == (0.1, "l2")
    assert all(word in columns["setting"] for word in ("n=3", "lr=0.5", "reduce=1", "norm=l2", "select=last"))


def test_starts_are_an_axis_and_make_cells_of_settings_without_steps():
    found = settings_grid((0, 5), (0.1, 0.2), reduce=("min", "mean"), starts=(1, 4))
    assert len(found) == 1 + 2 + 2 * 2 * 2 and len({Cell(0, None, s).key for s in found}) == len(found)
    columns = [setting_columns(setting) for setting in found]
    assert sorted(c["starts"] for c in columns if c["steps"] == 0) == [1, 4, 4]
    labels = {"plain policy", "AG n=0 starts=4", "AG n=0 reduce=mean starts=4"}
    assert {c["setting"] for c in columns if c["steps"] == 0} == labels
    assert "AG n=5 lr=0.2 reduce=mean starts=4" in [c["setting"] for c in columns]
    columns = setting_columns(AGSetting(5, starts=4, spread=0.5))
    assert columns["spread"] == 0.5 and columns["setting"].endswith("starts=4 spread=0.5")
    assert len(settings_grid((0, 5), starts=(1, 4), spread=(0.5, 1.0))) == 2 + 2 + 2
    cells, added = make_cells([1], [None], [AGSetting(0, 0.1, starts=4), AGSetting(0, 0.2, starts=4)])
    assert added and [cell.setting for cell in cells] == [AGSetting(), AGSetting(starts=4)]


def test_the_plain_policy_is_added_where_it_is_missing():
    cells, added = make_cells([1, 2], [5.0, 6.0], settings_grid((3,)))
    assert added and len(cells) == 8 and sum(cell.setting.is_plain for cell in cells) == 4
    assert not make_cells([1], [None], settings_grid((0, 3)))[1]
    assert cells[1].baseline == cells[0] and cells[0].label == "plain policy target=5"


def test_settings_of_a_file_are_those_written(tmp_path):
    settings = [AGSetting(2, 0.1), AGSetting(3, optimizer=Adam((0.5, 0.9)), gradient=ClipNorm(1.0))]
    settings.append(AGSetting(4, radius=Radius(0.2, "l2"), select="last", starts=3))
    file = tmp_path / "settings.json"
    file.write_text(json.dumps([setting.to_dict() for setting in settings]))
    assert read_settings(file) == settings
    file.write_text('[{"steps": 1, "gradient": "clip:3"}]')
    assert read_settings(file) == [AGSetting(1, gradient=ClipNorm(3.0))]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "expected JSON"),
        ("[]", "expected a list"),
        ("{}", "expected a list"),
        ("[3]", "entry 0: expected an object"),
        ('[{"steps": 1}, {"n": 5}]', "entry 1: unknown field 'n'; the fields are steps, lr"),
        ('[{"steps": -1}]', "entry 0: steps: expected a whole number"),
        ('[{"optimizer": {"name": "Lion"}}]', "to be one of SGD, Adam"),
    ],
)
def test_a_file_that_is_no_such_list_is_refused(tmp_path, text, complaint):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="settings") as error:
        read_settings(tmp_path / "settings.json")
    assert complaint in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is none"):
        read_settings(tmp_path / "no.json")
