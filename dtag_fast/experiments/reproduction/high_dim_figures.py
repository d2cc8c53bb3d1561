"""Figures of latency and gain over action dimensions."""

from collections.abc import Sequence
from statistics import fmean

from dtag_fast.experiments import plots
from dtag_fast.experiments.reproduction.high_dim_tables import (
    SHOWN_LR,
    SHOWN_STEPS,
    Gain,
    Latency,
    closed,
)

LOWEST = -1.0  # of the share that is closed, where the figure ends


def latency(found: Sequence[Latency]):
    """A panel for each device and batch: milliseconds against A, both logarithmic; crosses: other states."""
    panels = [(one, batch) for one in found for batch in dict.fromkeys(row["batch"] for row in one.rows)]
    columns = min(2, len(panels))
    with plots.style():
        figure, places = plots.new_axes(
            -(-len(panels) // columns),
            columns,
            size=(4.2 * columns, 3.4 * -(-len(panels) // columns)),
            squeeze=False,
        )
        for axes, (one, batch) in zip(places.flat, panels, strict=False):
            rows = [row for row in one.rows if row["batch"] == batch]
            usual = rows[0]["state_dim"]
            for (key, label), look in zip(
                (("eager_seconds", "eager loop"), ("refiner_seconds", "Refiner")),
                plots.line_styles(),
                strict=False,
            ):
                line = sorted(
                    (row["action_dim"], 1e3 * row[key]) for row in rows if row["state_dim"] == usual
                )
                axes.plot(*zip(*line, strict=True), label=f"{label}, S = {usual}", **look)
                for row in (row for row in rows if row["state_dim"] != usual):
                    label = f"S = {row['state_dim']}" if key == "refiner_seconds" else None
                    axes.plot(row["action_dim"], 1e3 * row[key], "x", color=plots.BLACK, ms=7, label=label)
            axes.set(xscale="log", yscale="log", xlabel="action dimensions $A$", ylabel="ms of a call")
            axes.set_xscale("log", base=2)
            axes.set_title(f"{one.device}, batch {batch}, n = {one.steps}")
            axes.legend(fontsize=8)
        for axes in list(places.flat)[len(panels) :]:
            axes.set_visible(False)
    return figure


def gain(found: Sequence[Gain]):
    """Left: the share of the squared distance that is closed, against A. Right: the critic's error."""
    activations = list(dict.fromkeys(one.activation for one in found))
    with plots.style():
        figure, (left, right) = plots.new_axes(1, 2, size=(9.6, 3.8), width_ratios=(1.5, 1))
        looks = plots.line_styles()
        for scaled in (True, False):
            of = f"lr = {SHOWN_LR:g}{' A' if scaled else ''}"
            for activation in activations:
                _closed(left, found, activation, "trained", scaled, f"{activation}, {of}", next(looks))
            exact = {"color": plots.GREY, "ls": "-" if scaled else "--", "marker": None}
            _closed(left, found, activations[0], "exact", scaled, f"exact critic, {of}", exact)
        left.axhline(0, color=plots.BLACK, lw=0.8)
        left.set(ylim=(LOWEST, 1.05), ylabel=f"share closed, n = {SHOWN_STEPS} (cut at {LOWEST:g})")
        left.legend(fontsize=8)
        for activation, look in zip(activations, plots.line_styles(), strict=False):
            sizes = sorted({one.action_dim for one in found if one.activation == activation})
            errors = [
                fmean(o.critic_error for o in found if (o.activation, o.action_dim) == (activation, a))
                for a in sizes
            ]
            right.plot(sizes, errors, label=activation, **look)
        right.axhline(1, color=plots.BLACK, lw=0.8, ls=":", label="the mean reward")
        right.set(ylabel="error of Q / spread of rewards", yscale="log")
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xlabel("action dimensions $A$")
    return figure


def _closed(axes, found: Sequence[Gain], activation, critic, scaled, label: str, look: dict) -> None:
    sizes = sorted({one.action_dim for one in found if one.activation == activation})
    values = [closed(found, activation, a, critic, scaled) for a in sizes]
    axes.plot(sizes, [fmean(v) for v in values], label=label, **look)
    if critic == "trained":
        axes.fill_between(
            sizes,
            *zip(*((min(v), max(v)) for v in values), strict=True),
            color=look["color"],
            alpha=0.15,
            lw=0,
        )
