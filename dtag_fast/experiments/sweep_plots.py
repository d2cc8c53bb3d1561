"""The figures of a sweep over Action Gradient's n, lr and weights: a panel per policy and choice of other
options."""

import math
import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from dtag_fast.experiments.plots import BLACK, GREY, VERMILION, line_styles, new_axes, style
from dtag_fast.experiments.sweep_panels import Cell, Panel, Rule

COLUMNS = 3  # panels in a row
SPREAD = 0.16  # by how much of the way to the next place lines are set apart, so that intervals show
ABOVE, BELOW, HOLDS = "▲", "▼", "○"  # where the 95 % interval of a gain lies: of 0, or holding it
FLOOR = -2.0  # of the largest gain: losses below it share a colour, so that gains keep theirs apart
LOG_RANGE = 30  # of largest to smallest Q gain, from which on their axis is logarithmic


def score_against_n(panels: Sequence[Panel]):
    """Score against n, a line per lr and per weight; n = 0, where every line begins, is the plain policy, or
    with several starts the best of them."""
    looks = _looks(panels)
    with style():
        figure, places = _grid(panels, 4.2, 3.0)
        for axes, panel in places:
            ticks = [0] * (panel.unclimbed is not None) + panel.steps
            place = {n: k for k, n in enumerate(ticks)}
            shifts = _shifts(len(panel.rules))
            for rule, shift in zip(panel.rules, shifts, strict=True):
                cells = [cell for cell in panel.cells if cell.rule == rule]
                cells = [panel.unclimbed, *cells] if panel.unclimbed else cells
                x = [place[cell.steps] + shift * (cell.steps > 0) for cell in cells]
                _draw(axes, x, cells, looks[rule], rule.label)
            axes.set_xticks(range(len(ticks)), [str(n) for n in ticks])
            axes.set(xlabel="Action Gradient steps $n$ (0: without)", ylabel=_score(panel))
        _legend(figure, places)
    return figure


def score_against_lr(panels: Sequence[Panel]):
    """Score against lr on a logarithmic axis, a line per n; the plain policy is the level line.

    Regularised cells have no lr: they stand apart to the right, at places for their weights.
    """
    numbers = sorted({n for panel in panels for n in panel.steps})
    looks = dict(zip(numbers, line_styles(), strict=False))
    with style():
        figure, places = _grid(panels, 4.2, 3.0)
        for axes, panel in places:
            place, nearest = _places(panel)
            if panel.plain is not None:
                axes.axhspan(*panel.plain.score.ci95, color=GREY, alpha=0.15, lw=0)
                axes.axhline(panel.plain.score.mean, color=BLACK, lw=1.2, ls="--", label="plain policy")
            for n, shift in zip(panel.steps, _shifts(len(panel.steps)), strict=True):
                mine = [cell for cell in panel.cells if cell.steps == n and cell.rule in place]
                for radius in dict.fromkeys(cell.rule.radius for cell in mine):  # None: raw
                    cells = [cell for cell in mine if cell.rule.radius == radius]
                    x = [place[cell.rule] * nearest**shift for cell in cells]
                    _draw(axes, x, cells, _open(looks[n], radius is not None), f"$n$={n}")
            axes.set_xscale("log")
            axes.set_xticks(list(place.values()), [rule.value for rule in place])
            axes.set_xticks([], minor=True)
            xlabel = "step size lr"
            if len(apart := [x for rule, x in place.items() if rule.is_regularised]):
                axes.axvline(apart[0] / nearest**0.75, color=GREY, lw=0.8)
                xlabel += "; right: weight of the behaviour"
            axes.set(xlabel=xlabel, ylabel=_score(panel))
        _legend(figure, places)
    return figure


def gain_map(panels: Sequence[Panel]):
    """The mean paired gain over the plain policy, n across, lr or weight upwards, number and interval's place
    in it.

    Args:
        panels: of lr or of weights each (`sweep_panels` with apart). Those of one environment share colours.
    """
    gains: dict[str, list[float]] = {}
    for panel in panels:
        gains.setdefault(panel.env_id, [0.0]).extend(cell.gain.mean for cell in panel.cells if cell.gain)
    with style():
        widest, tallest = (max(len(getattr(p, name)) for p in panels) for name in ("steps", "rules"))
        # at least as wide as the line below it
        figure, places = _grid(panels, max(3.7, 1.9 + 0.62 * widest), 1.3 + 0.5 * tallest)
        for axes, panel in places:
            low, high = min(gains[panel.env_id]), max(gains[panel.env_id])
            _map(figure, axes, panel, (max(low, FLOOR * high) if high else low, high), low)
        figure.supxlabel(
            f"95 % interval {ABOVE} above 0, {BELOW} below 0, {HOLDS} holds 0", fontsize=9, color="#404040"
        )
    return figure


def q_gain_against_gain(panels: Sequence[Panel]):
    """What the critic promises against what the environment pays, a point per cell; does it mislead?

    Where Q rises and the score falls, lower right, Action Gradient exploits the critic's errors.
    """
    looks = _looks(panels)
    with style():
        figure, places = _grid(panels, 4.4, 3.4)
        for axes, panel in places:
            cells = [cell for cell in panel.cells if cell.gain and cell.q_gain is not None]
            gains = np.array([cell.q_gain for cell in cells])
            wide = gains.min() > 0 and gains.max() > LOG_RANGE * gains.min()
            for rule in panel.rules:
                mine = [cell for cell in cells if cell.rule == rule]
                if not mine:
                    continue
                look = looks[rule] | {"lw": 0.8}
                _draw(axes, [c.q_gain for c in mine], mine, look, rule.label, lambda c: c.gain)
                axes.annotate(
                    f"{mine[-1].steps}",
                    (mine[-1].q_gain, mine[-1].gain.mean),
                    (4, 3),
                    textcoords="offset points",
                    color=look["color"],
                    fontsize=8,
                )
            if wide:
                axes.set_xscale("log")
            axes.set(
                xlabel="mean Q gain per step, $Q(s, a) - Q(s, a_0)$",
                ylabel=f"paired gain in {panel.score_name}",
            )
            _mark_misleading(axes)
        _legend(figure, places, title="along a line $n$ grows; the number is its last $n$")
    return figure


def _mark_misleading(axes) -> None:
    """Shade where Q rises and the score falls."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    low = min(low, -0.12 * (high - low))
    start = max(left, 0.0)
    axes.fill_between([start, right], low, 0, color=VERMILION, alpha=0.10, lw=0, zorder=0)
    axes.axhline(0, color=GREY, lw=0.8)
    if axes.get_xscale() == "linear":
        axes.axvline(0, color=GREY, lw=0.8)
    axes.text(0.02, 0.03, "Q rises, score falls", color=VERMILION, fontsize=8, transform=axes.transAxes)
    axes.set(xlim=(left, right), ylim=(low, high))


def _map(figure, axes, panel: Panel, limits: tuple[float, float], lowest: float) -> None:
    """One panel, its colours between two gains; `lowest` is the smallest of those that share them."""
    steps, rules = panel.steps, panel.rules
    gains = np.full((len(rules), len(steps)), np.nan)
    for cell in panel.cells:
        if cell.gain is not None:
            gains[rules.index(cell.rule), steps.index(cell.steps)] = cell.gain.mean
    low, high = limits
    image = axes.imshow(gains, cmap="cividis", vmin=low, vmax=high, origin="lower", aspect="auto")
    axes.set_facecolor("#F4F4F4")
    for cell in panel.cells:
        if cell.gain is None:
            continue
        share = (cell.gain.mean - low) / (high - low) if high > low else 1.0
        axes.text(
            steps.index(cell.steps),
            rules.index(cell.rule),
            f"{figure_of(cell.gain.mean, max(-lowest, high))}\n{sign(cell)}",
            ha="center",
            va="center",
            fontsize=8,
            linespacing=1.0,
            color=BLACK if share > 0.55 else "white",
        )
    axes.set_xticks(range(len(steps)), [str(n) for n in steps])
    axes.set_yticks(range(len(rules)), [rule.value for rule in rules])
    upwards = "step size lr" if panel.rates else "weight of the behaviour"
    axes.set(xlabel="Action Gradient steps $n$", ylabel=upwards)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    extend = "min" if lowest < low else "neither"
    figure.colorbar(image, ax=axes, label=f"gain in {panel.score_name}", shrink=0.9, extend=extend)


def sign(cell: Cell) -> str:
    """Where the interval of a cell's gain lies."""
    low, high = cell.gain.ci95
    return ABOVE if low > 0 else BELOW if high < 0 else HOLDS


def figure_of(gain: float, largest: float) -> str:
    """A gain as exact as three digits of the largest, at most four of them after the point."""
    decimals = min(4, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 0
    text = f"{gain:+.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]


def _draw(
    axes,
    x: Sequence[float],
    cells: Sequence[Cell],
    look: dict,
    label: str,
    values: Callable[[Cell], object] = lambda cell: cell.score,
) -> None:
    """Means with their 95 % intervals."""
    means = np.array([values(cell).mean for cell in cells])
    ends = np.array([values(cell).ci95 for cell in cells]).reshape(-1, 2)
    errors = np.maximum(np.stack([means - ends[:, 0], ends[:, 1] - means]), 0.0)
    axes.errorbar(x, means, yerr=errors, label=label, capsize=2, elinewidth=0.9, **look)


def _looks(panels: Sequence[Panel]) -> dict[Rule, dict]:
    """Rule -> colour, marker and line; markers of regularised ones are open."""
    rules = sorted({rule for panel in panels for rule in panel.rules}, key=lambda rule: rule.order)
    looks = dict(zip(rules, line_styles(), strict=False))
    return {rule: _open(look, rule.is_regularised) for rule, look in looks.items()}


def _open(look: dict, is_open: bool) -> dict:
    return look | {"mfc": "white"} if is_open else look


def _places(panel: Panel) -> tuple[dict[Rule, float], float]:
    """Rule -> its place on a logarithmic axis of lr, and the smallest ratio of neighbouring places.

    lr = 0 has no place there, and moves nothing. Weights, by their radii, follow the largest lr at that
    ratio, after a gap.
    """
    place = {rule: rule.lr for rule in panel.rules if rule.lr}
    rates = list(place.values())
    nearest = min((b / a for a, b in pairwise(rates)), default=2.0)
    weights = [rule for rule in panel.rules if rule.is_regularised]
    return place | {rule: rates[-1] * nearest ** (1.5 + k) for k, rule in enumerate(weights)}, nearest


def _shifts(count: int) -> np.ndarray:
    return np.linspace(-SPREAD, SPREAD, count) if count > 1 else np.zeros(1)


def _score(panel: Panel) -> str:
    return f"{panel.score_name} (mean, 95 % interval)"


def _grid(panels: Sequence[Panel], width: float, height: float):
    """A figure with a panel of this size, in inches, for each of `panels`, and (axes, panel) of each."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (width * columns + 0.3, (height + 0.35) * rows + 0.45)
    figure, axes = new_axes(rows, columns, size=size, squeeze=False)
    for place in list(axes.flat)[len(panels) :]:
        place.set_visible(False)
    places = list(zip(axes.flat, panels, strict=False))
    for place, panel in places:
        place.set_title(_wrapped(panel.title, int(width * 12)), fontsize=9.5)
    return figure, places


def _wrapped(title: str, width: int) -> str:
    return "\n".join(textwrap.wrap(title, width))


def _legend(figure, places, **options) -> None:
    """One legend for all panels, below them; its lines in the order of their numbers."""
    order = {f"$n$={n}": (0, n) for _, panel in places for n in panel.steps}
    order |= {rule.label: rule.order for _, panel in places for rule in panel.rules}
    found = {}
    for axes, _ in places:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    entries = {
        label: found[label] for label in sorted(found, key=lambda label: order.get(label, (math.inf,)))
    }
    inches = 0.6 + 0.065 * max(map(len, entries))  # of a column, about
    columns = min(len(entries), max(1, int((figure.get_figwidth() + 0.3) / inches)))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, **options)
