"""`dtag plot`: training curves of runs and score against n of evaluations."""

import json

import pytest

from dtag_fast.cli.main import main
from dtag_fast.experiments.curves import (
    is_evaluation,
    is_online,
    run_labels,
    score_curves,
    training_panels,
)
from dtag_fast.experiments.plots import Curve, learning_curves, training_curves


def write_run(folder, records):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def setting(steps, mean, *, lr=0.03, target=None, optimizer="sgd", score=True):
    summary = {"mean": mean, "ci95": [mean - 1, mean + 1]}
    return {
        "setting": {"steps": steps, "lr": lr, "optimizer": optimizer, "reduce": "min"},
        "target_return": target,
        **summary,
        "normalized": {"mean": mean / 2, "ci95": [mean / 2 - 1, mean / 2 + 1]} if score else None,
    }


def write_evaluation(file, settings):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"env_id": "Maze", "episodes": 3, "settings": settings}))
    return file


@pytest.fixture
def run(tmp_path):
    records = [{"step": 10 * k, "train/loss": 1 / k, "time/seconds": k} for k in range(1, 6)]
    records[-1]["eval/score"] = 50.0
    return write_run(tmp_path / "runs" / "dt", records)


def test_one_panel_per_metric_without_clock_times(run, tmp_path):
    other = write_run(tmp_path / "runs" / "iql", [{"step": 5, "train/loss": 2.0}])
    panels = training_panels({"dt": run, "iql": other})
    assert list(panels) == ["train/loss", "eval/score"]
    dt, iql = panels["train/loss"]
    assert (dt.label, list(dt.x), list(dt.y)) == ("dt", [10, 20, 30, 40, 50], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert (iql.label, list(iql.x), list(iql.y)) == ("iql", [5], [2.0])
    assert list(panels["eval/score"][0].x) == [50]


def test_a_run_looks_the_same_in_every_panel():
    a, b = (Curve(label, [1, 2], [3, 4]) for label in ("a", "b"))
    figure = training_curves({"both": [a, b], "one": [b]}, x_name="hours")
    both, one = figure.axes
    assert one.lines[0].get_color() == both.lines[1].get_color() != both.lines[0].get_color()
    assert [text.get_text() for text in one.get_legend().get_texts()] == ["b"]
    assert one.get_xlabel() == "hours"


def test_runs_that_play_are_drawn_over_steps_of_their_environment(run, tmp_path, capsys):
    """In a figure of their own, where others are over updates."""
    records = [
        {"step": 30, "eval/return_mean": 1.0, "eval/env_steps": 0},
        {"step": 33, "online/return_mean": 2.0, "online/env_steps": 50, "time/collect_s": 9.0},
        {"step": 33, "eval/return_mean": 3.0, "eval/env_steps": 50},
    ]
    online = write_run(tmp_path / "runs" / "online", records)
    assert is_online(online) and not is_online(run)
    panels = training_panels({"online": online})
    assert list(panels) == ["eval/return_mean", "online/return_mean"]
    assert [list(panels[name][0].x) for name in panels] == [[0, 50], [50]]
    assert main(["plot", str(tmp_path / "runs")]) == 0
    assert {file.stem for file in (tmp_path / "runs" / "plots").iterdir()} == {"training", "finetuning"}


def test_a_line_being_written_is_left_out_and_a_damaged_one_refused(run):
    file = run / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"step": 60, "train/lo')
    assert list(training_panels({"dt": run})["train/loss"][0].x) == [10, 20, 30, 40, 50]
    file.write_text('{"step":\n' + whole)
    with pytest.raises(ValueError, match=r"metrics.jsonl: line 1 is not JSON"):
        training_panels({"dt": run})


def test_labels_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"]
    assert list(run_labels(paths[:1])) == ["seed0"]
    assert list(run_labels(paths)) == ["a/seed0", "b/seed0"]


def test_plain_policy_is_the_start_of_every_curve_of_its_target(tmp_path):
    settings = [setting(0, 10, target=t) for t in (1.0, 2.0)]
    settings += [
        setting(n, 10 + n, lr=lr, target=t) for lr in (0.01, 0.03) for t in (1.0, 2.0) for n in (5, 2)
    ]
    lines, name = score_curves({"file": write_evaluation(tmp_path / "e.json", settings)})
    assert name.startswith("normalised score")
    assert [line.label for line in lines] == [
        "lr=0.01, target=1",
        "lr=0.01, target=2",
        "lr=0.03, target=1",
        "lr=0.03, target=2",
    ]
    for line in lines:
        assert (list(line.x), list(line.y)) == ([0, 2, 5], [5.0, 6.0, 7.5])
        assert (line.low[0], line.high[0]) == (4.0, 6.0)


def test_several_starts_begin_at_the_best_of_them_and_not_at_the_plain_policy(tmp_path):
    settings = [setting(0, 10), setting(0, 11), setting(5, 12), setting(5, 13)]
    settings += [setting(8, 14), setting(9, 15)]
    for one, starts in zip(settings, (1, 4, 1, 4, 16, 16), strict=True):
        one["setting"] |= {"starts": starts, "reduce": "min"}
    found, _ = score_curves({"file": write_evaluation(tmp_path / "e.json", settings)})
    assert {line.label: list(line.x) for line in found} == {
        "lr=0.03, starts=1": [0, 5],
        "lr=0.03, starts=4": [0, 5],
        "lr=0.03, starts=16": [8, 9],
    }
    assert [line.y[0] for line in found] == [5.0, 5.5, 7.0]


def test_a_regularised_setting_is_named_by_what_it_has(tmp_path):
    settings = [setting(0, 10), setting(5, 12), setting(5, 13), setting(8, 14)]
    for number in (2, 3):
        settings[number]["setting"]["behaviour"] = {"name": "Behaviour", "weight": 0.4, "radius": 1.0}
    for number in (0, 1):
        settings[number]["setting"]["behaviour"] = None
    lines, _ = score_curves({"file": write_evaluation(tmp_path / "e.json", settings)})
    assert [line.label for line in lines] == ["lr=0.03", "behaviour weight=0.4 radius=1"]
    assert [list(line.x) for line in lines] == [[0, 5], [0, 5, 8]]


def test_what_a_sweep_says_of_itself_is_no_evaluation(tmp_path):
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({"run": "rf", "checkpoints": {"150": "abc"}}))
    assert not is_evaluation(file)


def test_returns_where_a_file_has_no_references(tmp_path):
    with_score = write_evaluation(tmp_path / "a.json", [setting(0, 10), setting(5, 12)])
    without = write_evaluation(
        tmp_path / "b.json", [setting(0, 20, score=False), setting(5, 22, score=False)]
    )
    lines, name = score_curves({"a": with_score, "b": without})
    assert name.startswith("return")
    assert [(line.label, list(line.y)) for line in lines] == [
        ("a, lr=0.03", [10, 12]),
        ("b, lr=0.03", [20, 22]),
    ]


def test_command_writes_png_and_svg_into_the_run(run, capsys):
    write_evaluation(run / "evaluations" / "n.json", [setting(0, 10), setting(5, 12)])
    assert main(["plot", str(run)]) == 0
    files = {file.name for file in (run / "plots").iterdir()}
    assert files == {"training.png", "training.svg", "score_against_n.png", "score_against_n.svg"}
    assert all((run / "plots" / name).stat().st_size > 5_000 for name in files)
    assert capsys.readouterr().out.count("plots") == 4


def test_same_input_same_svg(run, tmp_path):
    for folder in ("a", "b"):
        assert main(["plot", str(run), "--out", str(tmp_path / folder)]) == 0
    a, b = ((tmp_path / folder / "training.svg").read_bytes() for folder in ("a", "b"))
    assert a == b


@pytest.mark.parametrize("wrong", ["missing", "empty", "other.json", "single.json"])
def test_what_can_not_be_drawn_is_refused_in_one_sentence(wrong, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("{}")
    write_evaluation(tmp_path / "single.json", [setting(5, 10)])
    assert main(["plot", str(tmp_path / wrong)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dtag plot: runs: ") and error.count("\n") == 1


def test_learning_curves_have_a_panel_per_dataset_and_a_look_per_algorithm():
    odt, td3 = (Curve(name, [0, 9], [1, 2], [0, 1], [2, 3]) for name in ("odt", "td3-odt"))
    figure = learning_curves({"hopper": [odt, td3], "ant": [td3]}, score_name="return")
    hopper, ant = figure.axes
    assert ant.lines[0].get_color() == hopper.lines[1].get_color() != hopper.lines[0].get_color()
    assert ant.lines[0].get_linestyle() != hopper.lines[0].get_linestyle()  # told apart without colours
    assert [axes.get_title() for axes in figure.axes] == ["hopper", "ant"]
    assert (ant.get_xlabel(), ant.get_ylabel()) == ("environment steps", "return")
    assert len(hopper.collections) == 2  # the intervals
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["odt", "td3-odt"]
