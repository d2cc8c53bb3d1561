"""The figures of the experiments. Colour-blind safe (Okabe-Ito), told apart in print by line and marker too.

Every function takes plain numbers and returns a matplotlib Figure; `save` writes it as PNG and SVG.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

BLACK, GREY = "#000000", "#767676"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))


@dataclass(frozen=True)
class Curve:
    """One line of a figure: values y (N,) at x (N,), and optionally an interval low (N,) to high (N,)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class GainPath:
    """How a policy's gains move with n: mean Q gain and mean return gain (N,) with its interval, n (N,)."""

    label: str
    steps: Sequence[int]
    q_gain: Sequence[float]
    return_gain: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


SUFFIXES = (".png", ".svg")


def save(figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg; returns both."""
    files = [path.with_suffix(suffix) for suffix in SUFFIXES]
    save_png(figure, files[0])
    with style():
        # Without date and random ids the same figure is the same file.
        figure.savefig(files[1], metadata={"Date": None})
    return files


def save_png(figure, path: Path) -> Path:
    """Write a PNG of 160 dots an inch; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(path, dpi=160)
    return path


def toy_landscape(
    *,
    grid: Sequence[float],
    true_reward: Sequence[float],
    critic: Sequence[float],
    demonstrated: Sequence[float],
    imitated: Sequence[float],
    paths: Sequence[Sequence[float]],
):
    """The toy's reward and critic over the action (above), and where Action Gradient walks (below).

    Args:
        grid: (G,) actions; true_reward, critic: (G,) there.
        demonstrated: (N,) actions of the data. imitated: (P,) actions of the imitator. paths: (n + 1, P).
    """
    imitated, paths = np.asarray(imitated), np.asarray(paths)
    with style():
        figure, (above, below) = new_axes(2, 1, size=(6.4, 5.6), sharex=True, height_ratios=(3, 2))
        nearest = float(np.abs(demonstrated).min())
        for axes in (above, below):
            axes.axvspan(-nearest, nearest, color="#EFEFEF", zorder=0)
        above.text(0, 0.03, "no data", ha="center", color=GREY, transform=above.get_xaxis_transform())
        above.plot(grid, true_reward, color=BLACK, ls="--", lw=1.4, label="true reward $1-a^2$")
        above.plot(grid, critic, color=BLUE, label="critic, smallest of two")
        data = np.asarray(demonstrated)[:: max(1, len(demonstrated) // 300)]
        above.plot(
            data, np.full(len(data), -0.06), "|", color=GREY, ms=9, alpha=0.5, label="actions in the data"
        )
        above.plot(imitated, 1 - imitated**2, "v", color=VERMILION, ms=7, alpha=0.8, label="imitator")
        above.plot(paths[-1], 1 - paths[-1] ** 2, "*", color=GREEN, ms=12, label="after Action Gradient")
        above.set(ylabel="value of the action", ylim=(-0.12, 1.12))
        above.legend(loc="upper center", bbox_to_anchor=(0.5, 1.24), ncols=3)

        shown = np.unique(np.linspace(0, paths.shape[1] - 1, 24).astype(int))
        shown = np.argsort(imitated)[shown]
        below.plot(paths[:, shown], np.arange(len(paths)), color=GREEN, lw=0.9, alpha=0.7)
        below.plot(paths[0, shown], np.zeros(len(shown)), "v", color=VERMILION, ms=6, clip_on=False)
        below.plot(
            paths[-1, shown], np.full(len(shown), len(paths) - 1), "*", color=GREEN, ms=11, clip_on=False
        )
        below.axvline(0, color=BLACK, ls=":", lw=1)
        below.set(xlabel="action $a$", ylabel="Action Gradient step $i$", xlim=(-1.02, 1.02))
        below.set_ylim(len(paths) - 1, 0)
    return figure


def score_against_steps(curves: Sequence[Curve], *, score_name: str, title: str = ""):
    """Score against the number of Action Gradient steps n, with intervals; n is spaced evenly."""
    ticks = sorted({int(n) for curve in curves for n in curve.x})
    place = {n: k for k, n in enumerate(ticks)}
    with style():
        figure, axes = new_axes(1, 1, size=(5.6, 3.8))
        for curve, look in zip(curves, line_styles(), strict=False):
            x = [place[int(n)] for n in curve.x]
            draw_line(axes, x, curve, look)
        axes.set(xlabel="Action Gradient steps $n$ (0: without)", ylabel=score_name, title=title)
        axes.set_xticks(range(len(ticks)), [str(n) for n in ticks])
        axes.legend()
    return figure


def q_gain_against_return_gain(paths: Sequence[GainPath], *, return_name: str, title: str = ""):
    """What the critic promises against what the environment pays, one point per n.

    A sound critic climbs to the upper right. Where the Q gain grows while the return gain falls, Action
    Gradient is exploiting the critic's errors.
    """
    with style():
        figure, axes = new_axes(1, 1, size=(5.6, 3.8))
        axes.axhline(0, color=GREY, lw=0.8)
        for path, look in zip(paths, line_styles(), strict=False):
            y = np.asarray(path.return_gain)
            axes.errorbar(
                path.q_gain,
                y,
                yerr=(y - np.asarray(path.low), np.asarray(path.high) - y),
                label=path.label,
                capsize=3,
                elinewidth=1,
                **look,
            )
            for n, q, gain in zip(path.steps, path.q_gain, y, strict=True):
                axes.annotate(
                    f"{n}", (q, gain), (5, 5), textcoords="offset points", color=look["color"], fontsize=8
                )
        axes.set(
            xlabel="mean Q gain per step, $Q(s, a) - Q(s, a_0)$",
            ylabel=f"gain in {return_name}, paired",
            title=title,
        )
        axes.legend(title="number at a point: $n$")
    return figure


def training_curves(panels: Mapping[str, Sequence[Curve]], *, x_name: str = "updates", title: str = ""):
    """One small panel per metric (name -> curves over updates, or what `x_name` says), three to a row.

    Curves of the same label look the same in all panels.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    looks = _looks(panels)
    with style():
        figure, axes = new_axes(rows, columns, size=(3.4 * columns, 2.5 * rows + 0.4), squeeze=False)
        for place, (name, curves) in zip(axes.flat, panels.items(), strict=False):
            for curve in curves:
                look = looks[curve.label]
                marker = look if len(curve.x) <= 20 else {**look, "marker": None}
                draw_line(place, curve.x, curve, marker)
            place.set_title(name)
            place.set_xlabel(x_name)
            place.ticklabel_format(style="sci", axis="x", scilimits=(-3, 4))
            if len(looks) > 1:
                place.legend()
        for place in list(axes.flat)[len(panels) :]:
            place.set_visible(False)
        if title:
            figure.suptitle(title)
    return figure


def learning_curves(
    panels: Mapping[str, Sequence[Curve]],
    *,
    score_name: str,
    x_name: str = "environment steps",
    log_x: bool = False,
):
    """A panel per dataset (name -> curves over steps of the environment, or `x_name`), three to a row.

    Curves of the same label look the same in all panels. With `log_x` x is logarithmic from 1 on.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    looks, drawn = _looks(panels), {}
    with style():
        size = (3.6 * columns if columns > 1 else 5.6, 3.1 * rows + 0.6)
        figure, places = new_axes(rows, columns, size=size, squeeze=False)
        for axes, (name, curves) in zip(places.flat, panels.items(), strict=False):
            for curve in curves:
                look = looks[curve.label]
                draw_line(axes, curve.x, curve, look if len(curve.x) <= 20 else {**look, "markevery": 0.1})
                drawn.setdefault(curve.label, axes.lines[-1])
            axes.set(title=name, xlabel=x_name, ylabel=score_name)
            if log_x:
                axes.set_xscale("symlog", linthresh=1, linscale=0.4)
                axes.set_xlim(left=0)
            else:
                axes.ticklabel_format(style="sci", axis="x", scilimits=(-3, 4))
        for axes in list(places.flat)[len(panels) :]:
            axes.set_visible(False)
        handles = [drawn[label] for label in looks]
        figure.legend(handles, list(looks), loc="outside lower center", ncols=min(6, len(looks)))
    return figure


def draw_line(axes, x, curve: Curve, look: dict) -> None:
    """A curve at places x (N,) in one of `line_styles`, its interval as a band."""
    axes.plot(x, curve.y, label=curve.label, **look)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(x, curve.low, curve.high, color=look["color"], alpha=0.18, lw=0)


def _looks(panels: Mapping[str, Sequence[Curve]]) -> dict[str, dict]:
    """Label -> its one of `line_styles`."""
    labels = dict.fromkeys(curve.label for curves in panels.values() for curve in curves)
    return dict(zip(labels, line_styles(), strict=False))


def line_styles():
    """Colour, marker and line of one curve after the other; the first 36 all differ."""
    for turn in count():
        for place, color in enumerate(COLOURS):
            shifted = (place + turn) % len(COLOURS)
            yield {"color": color, "marker": MARKERS[shifted], "ls": LINES[shifted]}


def new_axes(rows: int, columns: int, *, size: tuple[float, float], **options):
    """A figure of `size` in inches, and its axes."""
    # A bare Figure: no pyplot, so no window system, no global list of open figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


@contextmanager
def style():
    """The look of all figures, for as long as it is open."""
    import matplotlib

    with matplotlib.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.7,
            "font.size": 10,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.7,
            "lines.markersize": 5.5,
            "svg.hashsalt": "dtag_fast",
        }
    ):
        yield
