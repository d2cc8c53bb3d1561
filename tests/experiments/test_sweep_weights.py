"""`dtag plot` of sweeps that hold regularised settings: weights beside step sizes."""

import numpy as np
import pytest
from sweep_rows import (
    PLAIN,
    SWEEP_FIGURES,
    lines,
    panel_of,
    plots_in,
    regularised_rows,
    row,
    rows_of_a_sweep,
    scores,
    write,
)

from dtag_fast.cli.main import main
from dtag_fast.experiments import sweep_plots
from dtag_fast.experiments.sweep_panels import Rule, sweep_panels
from dtag_fast.experiments.sweep_tables import load_table
from dtag_fast.rollout.statistics import paired_difference, summarize


@pytest.fixture
def both(tmp_path):
    """A table of raw rows as they were before there were regularised ones, and of these."""
    return write(tmp_path / "both", rows_of_a_sweep() + regularised_rows())


def test_regularised_cells_share_a_panel_with_raw_ones(both, tmp_path):
    panel, raw = panel_of(both), panel_of(write(tmp_path / "raw", rows_of_a_sweep()))
    assert panel.rules == [
        Rule(0.01), Rule(0.1), Rule(None, 0.4, 0.5), Rule(None, 0.4, 1.0), Rule(None, 0.8, 1.0)
    ]  # fmt: skip
    assert [rule.label for rule in panel.rules[2:]] == ["weight=0.4:0.5", "weight=0.4", "weight=0.8"]
    assert panel.cells[:4] == raw.cells and panel.rates == raw.rates and panel.title == raw.title
    cell = panel.cells[-1]
    assert (cell.steps, cell.rule.lr, cell.rule.weight) == (5, None, 0.8)
    mine = PLAIN + 5 * 3.0 * (1 - 0.1 * np.arange(5))
    assert cell.score == summarize(mine) and cell.gain == paired_difference(mine, PLAIN)


def test_regularised_cells_belong_to_every_raw_panel_of_their_kind_and_to_one_of_their_own(tmp_path):
    adam = [r | {"optimizer": "adam"} for r in rows_of_a_sweep() if r["steps"]]
    other = [r for r in regularised_rows(reduce="mean")]
    failed = row(99, None, steps=2, lr=None, behaviour_weight=0.4, behaviour_radius=1.0, optimizer=None)
    rows = regularised_rows() + rows_of_a_sweep() + adam + [failed | {"gradient": None, "error": "broke"}]
    tables = {"sweep": load_table(write(tmp_path, rows + other))}
    sgd, second, alone = sweep_panels(tables)
    assert sgd.title == "reduce=min, sgd (5 episodes, 1 failed)"
    assert [len(panel.rules) for panel in (sgd, second, alone)] == [5, 5, 3]
    assert sgd.cells[4:] == second.cells[4:] and alone.title == "reduce=mean, regularised (5 episodes)"
    titles = [panel.title for panel in sweep_panels(tables, apart=True)]
    assert titles == [
        "reduce=min, sgd (5 episodes)",
        "reduce=min, adam (5 episodes)",
        "reduce=min, regularised (5 episodes, 1 failed)",
        "reduce=mean, regularised (5 episodes)",
    ]


def test_score_against_n_has_a_line_per_weight_with_open_markers(both):
    (axes,) = sweep_plots.score_against_n([panel_of(both)]).axes
    drawn = lines(axes)
    assert list(drawn) == ["lr=0.01", "lr=0.1", "weight=0.4:0.5", "weight=0.4", "weight=0.8"]
    assert np.allclose(drawn["weight=0.8"][1], PLAIN.mean() + 0.8 * np.array([0, 6, 15]))
    faces = [container.lines[0].get_markerfacecolor() for container in axes.containers]
    assert [face == "white" for face in faces] == [False, False, True, True, True]
    looks = {(c.lines[0].get_color(), c.lines[0].get_marker()) for c in axes.containers}
    assert len(looks) == 5


def test_weights_stand_apart_to_the_right_of_lr(both):
    figure = sweep_plots.score_against_lr([panel_of(both)])
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.01", "0.1", "0.4:0.5", "0.4", "0.8"]
    assert "weight of the behaviour" in axes.get_xlabel()
    places = axes.get_xticks()
    (edge,) = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert places[1] < edge < places[2]
    found = [tuple(np.round(c.lines[0].get_ydata().astype(float), 6)) for c in axes.containers]
    expected = []
    for n in (2, 5):  # a line for lr and one for each radius
        expected.append(tuple(np.round([scores(n, lr).mean() for lr in (0.01, 0.1)], 6)))
        expected.append((round(PLAIN.mean() + 0.8 * n * 2, 6),))
        expected.append(tuple(np.round([PLAIN.mean() + 0.8 * n * gain for gain in (8.0, 3.0)], 6)))
    assert found == expected
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["$n$=2", "$n$=5", "plain policy"]


def test_weights_have_a_map_of_their_own_beside_that_of_lr(both):
    panels = sweep_panels({"sweep": load_table(both)}, apart=True)
    figure = sweep_plots.gain_map(panels)
    raw, regularised = [axes for axes in figure.axes if axes.images and axes.get_xlabel()]
    assert (raw.get_ylabel(), regularised.get_ylabel()) == ("step size lr", "weight of the behaviour")
    assert np.allclose(regularised.images[0].get_array(), [[3.2, 8], [12.8, 32], [4.8, 12]])
    assert [t.get_text() for t in regularised.get_yticklabels()] == ["0.4:0.5", "0.4", "0.8"]
    assert raw.images[0].get_clim() == regularised.images[0].get_clim()  # colours are comparable


def test_q_gain_against_gain_has_both(both):
    figure = sweep_plots.q_gain_against_gain([panel_of(both)])
    drawn = lines(figure.axes[0])
    assert np.allclose(drawn["weight=0.4"], [[16, 40], [12.8, 32]])
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["lr=0.01", "lr=0.1", "weight=0.4:0.5", "weight=0.4", "weight=0.8"] == list(drawn)


@pytest.mark.parametrize("figure", ["score_against_n", "score_against_lr", "q_gain_against_gain"])
def test_a_legend_lies_within_its_figure(both, figure):
    drawn = getattr(sweep_plots, figure)([panel_of(both)])
    drawn.canvas.draw()
    extent = drawn.legends[0].get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= drawn.bbox.width


def test_a_sweep_of_weights_alone_is_drawn(tmp_path):
    plain = [r for r in rows_of_a_sweep() if not r["steps"]]
    write(tmp_path, plain + regularised_rows())
    assert main(["plot", str(tmp_path)]) == 0
    assert plots_in(tmp_path) == set(SWEEP_FIGURES) - {"sweep_score_against_lr"}
