"""`dtag plot` of sweeps, wall time and latency: what the figures show is what the tables say."""

import numpy as np
import pytest
from matplotlib.text import Text
from sweep_rows import (
    GAINS,
    PLAIN,
    SWEEP_FIGURES,
    lines,
    panel_of,
    plots_in,
    row,
    rows_of_a_sweep,
    scores,
    write,
)

from dtag_fast.cli.main import main
from dtag_fast.experiments import sweep_plots, sweep_tables, time_plots
from dtag_fast.experiments.plot_sources import Sources, find_sources
from dtag_fast.experiments.sweep_panels import sweep_panels
from dtag_fast.experiments.sweep_tables import find_table, load_table, read_table
from dtag_fast.rollout.statistics import paired_difference, summarize


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "sweep", rows_of_a_sweep())


def test_a_cell_is_summarised_and_compared_with_the_plain_policy_on_the_same_seeds(table):
    panel = panel_of(table)
    assert panel.title == "dt, Hopper-v5 (5 episodes)" and panel.score_name == "normalised score"
    assert panel.steps == [2, 5] and panel.rates == [0.01, 0.1]
    assert panel.plain.score == summarize(PLAIN) and panel.plain.gain is None
    assert [(cell.steps, cell.rule.lr) for cell in panel.cells] == [(2, 0.01), (5, 0.01), (2, 0.1), (5, 0.1)]
    for cell in panel.cells:
        mine = scores(cell.steps, cell.rule.lr)
        assert cell.score == summarize(mine) and cell.gain == paired_difference(mine, PLAIN)
        assert cell.q_gain == pytest.approx(cell.steps * cell.rule.lr * 1.2) and cell.episodes == 5


def test_pairs_need_both_and_the_order_of_rows_means_nothing(tmp_path, table):
    rows = rows_of_a_sweep()
    shuffled = write(tmp_path / "b", [rows[i] for i in np.random.default_rng(0).permutation(len(rows))])
    assert panel_of(shuffled).cells == panel_of(table).cells
    fewer = [r for r in rows if not (r["steps"] == 5 and r["lr"] == 0.1 and r["seed"] > 8)]
    fewer = [r for r in fewer if not (r["steps"] == 0 and r["seed"] == 7)]
    panel = panel_of(write(tmp_path / "c", fewer))
    cell = panel.cells[-1]
    assert cell.episodes == 2 and panel.title.endswith("(2 to 5 episodes)")
    assert cell.gain.mean == pytest.approx(scores(5, 0.1)[1] - PLAIN[1])  # seed 8 alone was played by both
    assert panel.cells[0].gain == paired_difference(scores(2, 0.01)[1:], PLAIN[1:])


def test_failed_episodes_are_counted_and_left_out(tmp_path):
    rows = rows_of_a_sweep()
    rows += [row(99, None, steps=2, lr=0.1, q_gain=None, error="the environment broke")]
    panel = panel_of(write(tmp_path, rows))
    assert panel.title == "dt, Hopper-v5 (5 episodes, 1 failed)"
    assert panel.cells[2].score == summarize(scores(2, 0.1))


def test_returns_where_there_are_no_references(tmp_path):
    panel = panel_of(write(tmp_path, rows_of_a_sweep(normalized_score=None)))
    assert panel.score_name == "return" and panel.plain.score == summarize(30 * PLAIN)


def test_starts_are_panels_and_begin_at_the_best_of_them(tmp_path):
    """Whatever the other options of the row without steps; gains are over the plain policy."""
    best = [row(7 + e, score + 3, starts=4, select="best") for e, score in enumerate(PLAIN)]
    several = [r | {"starts": 4, "select": "last"} for r in rows_of_a_sweep() if r["steps"]]
    one, four = sweep_panels({"sweep": load_table(write(tmp_path / "a", rows_of_a_sweep() + several + best))})
    assert "starts=1" in one.title and "starts=4" in four.title
    assert one.unclimbed == one.plain == four.plain and four.cells == one.cells
    assert four.unclimbed.score == summarize(PLAIN + 3)
    axes = sweep_plots.score_against_n([one, four]).axes
    for panel, value in zip(axes, (PLAIN.mean(), PLAIN.mean() + 3), strict=False):
        assert all(y[0] == pytest.approx(value) for _, y in lines(panel).values())
    (alone,) = sweep_panels({"sweep": load_table(write(tmp_path / "b", rows_of_a_sweep() + best))})
    assert alone == panel_of(write(tmp_path / "c", rows_of_a_sweep()))


def test_every_choice_of_the_other_options_is_a_panel_and_shares_the_plain_policy(tmp_path):
    rows = rows_of_a_sweep()
    rows += [r | {"optimizer": "adam", "radius": 0.1, "radius_norm": "inf"} for r in rows if r["steps"]]
    rows += rows_of_a_sweep(target_return=1800.0)
    first, adam, other = sweep_panels({"sweep": load_table(write(tmp_path, rows))})
    assert first.title == (
        "target_return=3600, sgd, radius=none, radius_norm=none (5 episodes)"
    )  # what differs, and only that
    assert adam.title.startswith("target_return=3600, adam, radius=0.1") and "1800" in other.title
    assert adam.plain == first.plain and adam.cells == first.cells


def test_parquet_says_what_jsonl_says(table, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(read_table(table)), file)
    assert panel_of(file) == panel_of(table)
    assert find_table(tmp_path) == file and find_table(table.parent) == table == find_table(table)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"table.parquet: no Parquet file, or a damaged one"):
        read_table(file)


def test_half_a_last_line_is_left_out_and_a_damaged_one_refused(table):
    whole = table.read_text()
    table.write_text(whole + whole[:40])
    assert len(read_table(table)) == 25
    table.write_text(whole[:40] + "\n" + whole)
    with pytest.raises(ValueError, match=r"table.jsonl: line 1 is not JSON; the file is damaged"):
        read_table(table)


def test_score_against_n_has_a_line_per_lr_from_the_plain_policy_on(table):
    panel = panel_of(table)
    figure = sweep_plots.score_against_n([panel])
    (axes,) = figure.axes
    drawn = lines(axes)
    assert list(drawn) == ["lr=0.01", "lr=0.1"]
    for rate, label in ((0.01, "lr=0.01"), (0.1, "lr=0.1")):
        x, y = drawn[label]
        assert x[0] == 0 and np.allclose(x[1:], [1, 2], atol=0.2)
        assert np.allclose(y, [PLAIN.mean(), scores(2, rate).mean(), scores(5, rate).mean()])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "2", "5"]
    assert axes.get_ylabel() == "normalised score (mean, 95 % interval)"
    low, high = panel.cells[0].score.ci95
    bars = axes.containers[0].lines[2][0].get_segments()
    assert np.allclose(bars[1][:, 1], [low, high])


def test_score_against_lr_has_a_logarithmic_axis_and_a_line_per_n(tmp_path):
    rows = rows_of_a_sweep()
    rows += [row(7 + e, s, steps=2, lr=0.0) for e, s in enumerate(PLAIN)]  # has no place on such an axis
    (axes,) = sweep_plots.score_against_lr([panel_of(write(tmp_path, rows))]).axes
    drawn = lines(axes)
    assert axes.get_xscale() == "log" and set(drawn) == {"plain policy", "$n$=2", "$n$=5"}
    assert np.allclose(drawn["plain policy"][1], PLAIN.mean())
    x, y = drawn["$n$=5"]
    assert np.allclose(np.log10(x.astype(float)), [-2, -1], atol=0.2)
    assert np.allclose(y, [scores(5, 0.01).mean(), scores(5, 0.1).mean()])


def test_the_map_has_the_gain_and_the_place_of_its_interval_in_every_cell(table):
    panel = panel_of(table)
    figure = sweep_plots.gain_map([panel])
    axes = figure.axes[0]
    expected = [[GAINS[n, lr] * 0.8 for n in (2, 5)] for lr in (0.01, 0.1)]
    assert np.allclose(axes.images[0].get_array(), expected)
    assert axes.images[0].get_cmap().name == "cividis"
    texts = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "+0.8\n▲", (1, 0): "+3.2\n▲", (0, 1): "+4.8\n▲", (1, 1): "−16.0\n▼"}  # noqa: RUF001
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0.01", "0.1"]


def test_gains_whose_interval_holds_zero_are_told_apart(tmp_path):
    rows = [row(e, float(e)) for e in range(4)]
    rows += [row(e, e + (-1.0) ** e, steps=3, lr=0.1) for e in range(4)]
    panel = panel_of(write(tmp_path, rows))
    assert sweep_plots.sign(panel.cells[0]) == sweep_plots.HOLDS
    figure = sweep_plots.gain_map([panel])
    (text,) = figure.axes[0].texts
    assert text.get_text() == f"0\n{sweep_plots.HOLDS}"
    figure.canvas.draw()
    (line,) = (t for t in figure.findobj(Text) if t.get_text().startswith("95 % interval"))
    extent = line.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width  # of the narrowest map too


@pytest.mark.parametrize(
    ("gain", "largest", "text"),
    [(7.4, 101.0, "+7"), (7.44, 16.0, "+7.4"), (-0.004, 3.0, "0.00"), (-0.0123, 0.1, "\N{MINUS SIGN}0.012")],
)
def test_gains_are_as_exact_as_three_digits_of_the_largest(gain, largest, text):
    assert sweep_plots.figure_of(gain, largest) == text


def test_q_gain_against_gain_shades_where_the_critic_misleads(table):
    (axes,) = sweep_plots.q_gain_against_gain([panel_of(table)]).axes
    x, y = lines(axes)["lr=0.1"]
    assert np.allclose(x, [0.24, 0.6]) and np.allclose(y, [4.8, -16.0])
    assert "Q rises, score falls" in [text.get_text() for text in axes.texts]
    (shade,) = [c for c in axes.collections if type(c).__name__ == "FillBetweenPolyCollection"]
    corners = shade.get_paths()[0].vertices
    assert corners[:, 1].max() == 0 and corners[:, 1].min() <= -16 and corners[:, 0].min() >= 0


EVALUATION = {
    "env_id": "Hopper-v5", "episodes": 3, "steps": 2000, "steps_per_second": 500.0, "policy": {"step": 7},
    "wall_time": {
        "seconds": 4.0, "workers": 2, "not_captured": None,
        "split": {"policy": 0.5, "refine": 0.2, "environment": 0.25, "other": 0.05},
    },
    "settings": [],
}  # fmt: skip


def test_wall_time_is_stacked_per_environment_step():
    (axes,) = time_plots.wall_time({"a": EVALUATION, "b": EVALUATION}).axes
    widths = [bar.get_width() for bar in axes.patches[:4]]
    assert np.allclose(widths, [2000, 800, 1000, 200])  # microseconds of a worker: 4 s x 2 workers / 2000
    assert axes.patches[1].get_x() == pytest.approx(2000) and len(axes.patches) == 8
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]


def latency_of(captured):
    times = {"mean": 9.0, "p50": 8.0, "p95": 12.0, "p99": 20.0}
    settings = [{"label": "plain policy", "parts": {"policy": times, "total": times}, "captured": captured}]
    return {"env_id": "Hopper-v5", "device": "cpu", "threads": 2, "actions": 10, "settings": settings}


def test_latency_shows_the_percentiles_of_every_part():
    captured = {"mean": 3.0, "p50": 2.0, "p95": 4.0, "p99": 5.0}
    figure = time_plots.latency({"a": latency_of(None), "b": latency_of(captured)})
    first, second = figure.axes
    assert set(lines(first)) == {"policy", "total"} and set(lines(second)) == {"policy", "total", "captured"}
    assert lines(second)["captured"][0] == [2.0]
    ends = [tuple(line.get_xdata()) for line in second.lines]
    assert (2.0, 5.0) in ends and (8.0, 20.0) in ends
    assert [text.get_text() for text in figure.legends[0].texts] == ["policy", "total", "captured"]


def test_the_command_draws_a_sweep_into_its_folder(table, capsys):
    assert main(["plot", str(table.parent)]) == 0
    names = {file.name for file in (table.parent / "plots").iterdir()}
    assert names == {kind + end for kind in SWEEP_FIGURES for end in (".png", ".svg")}
    assert all((table.parent / "plots" / name).stat().st_size > 5_000 for name in names)
    assert capsys.readouterr().out.count("sweep_") == 8


def write_metrics(run):
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')


def test_a_run_is_drawn_with_its_sweep_and_a_folder_with_all_below_it(tmp_path, capsys):
    for name in ("a", "b"):
        write_metrics(tmp_path / "runs" / name)
        write(tmp_path / "runs" / name / "sweep", rows_of_a_sweep(run=name))
    alone = {"training", *SWEEP_FIGURES}
    assert main(["plot", str(tmp_path / "runs" / "a")]) == 0 and plots_in(tmp_path / "runs" / "a") == alone
    assert main(["plot", str(tmp_path / "runs")]) == 0 and plots_in(tmp_path / "runs") == alone
    svg = (tmp_path / "runs" / "plots" / "sweep_gain_map.svg").read_text()
    assert "a/sweep" in svg and "b/sweep" in svg  # a panel each
    assert capsys.readouterr().err == ""


def test_a_table_that_was_named_and_found_is_drawn_once(tmp_path):
    write_metrics(tmp_path / "run")
    table = write(tmp_path / "run" / "sweep", rows_of_a_sweep())
    sources = find_sources([tmp_path / "run", table, tmp_path / "run"])
    assert sources == Sources([tmp_path / "run"], [], {table: table}, {})
    sources = find_sources([tmp_path])
    assert sources == Sources([tmp_path / "run"], [], {}, {table.parent: table})


@pytest.mark.parametrize("rows", [[], [row(0, 1.0)], [[1]]])
def test_a_sweep_with_nothing_to_draw_is_left_out_aloud_unless_it_is_all_there_is(rows, tmp_path, capsys):
    table = write(tmp_path / "run" / "sweep", rows)
    assert main(["plot", str(tmp_path / "run")]) == 2
    complaint = capsys.readouterr().err.removeprefix("dtag plot: ")
    assert complaint.startswith(f"{table}: ")
    write_metrics(tmp_path / "run")
    assert main(["plot", str(tmp_path / "run")]) == 0
    assert plots_in(tmp_path / "run") == {"training"}
    assert capsys.readouterr().err == f"dtag plot: left out: {complaint}"
    assert main(["plot", str(tmp_path / "run"), str(table)]) == 2  # named, it is an error


def test_several_sweeps_are_panels_of_one_figure_and_files_repeat_byte_by_byte(table, tmp_path):
    other = write(tmp_path / "other" / "sweep", rows_of_a_sweep(env_id="Walker2d-v5"))
    for folder in ("a", "b"):
        assert main(["plot", str(table), str(other.parent), "--out", str(tmp_path / folder)]) == 0
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    svg = (tmp_path / "a" / "sweep_gain_map.svg").read_text()
    assert "Walker2d-v5" in svg and "Hopper-v5" in svg


def test_without_the_plain_policy_there_is_no_gain_to_draw(tmp_path):
    write(tmp_path, [r for r in rows_of_a_sweep() if r["steps"]])
    assert main(["plot", str(tmp_path)]) == 0
    names = {file.stem for file in (tmp_path / "plots").iterdir()}
    assert names == {"sweep_score_against_n", "sweep_score_against_lr"}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "no row in it yet; let the sweep go on"),
        ([row(0, 1.0)], "no finished episode with Action Gradient (steps > 0); let the sweep go on"),
        ([row(0, None, steps=2)], "no finished episode with Action Gradient (steps > 0)"),
        ([{"step": 3, "loss": 1.0}], "row 1 has no 'checkpoint_step'; expected the table of a `dtag sweep`"),
        ([[1]], "row 1 has no 'run'; expected the table of a `dtag sweep`"),
    ],
)
def test_a_table_with_nothing_to_draw_is_refused_in_one_sentence(rows, complaint, tmp_path, capsys):
    write(tmp_path, rows)
    assert main(["plot", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dtag plot: ") and complaint in error and error.count("\n") == 1
    assert not (tmp_path / "plots").exists()


def test_a_table_is_read_once(table, monkeypatch):
    read, files = sweep_tables.read_json_lines, []

    def count(file):
        files.append(file)
        return read(file)

    monkeypatch.setattr(sweep_tables, "read_json_lines", count)
    for path in (table.parent.parent, table):  # found, and named
        files.clear()
        assert main(["plot", str(path), "--out", str(table.parent / "plots")]) == 0
        assert files == [table]
