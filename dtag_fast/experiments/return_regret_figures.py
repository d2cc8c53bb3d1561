"""Figure of the regret of return-conditioned policies (return_regret.py)."""

from typing import Any

import numpy as np

from dtag_fast.experiments.plots import (
    BLACK,
    GREY,
    Curve,
    draw_line,
    line_styles,
    new_axes,
    style,
)
from dtag_fast.experiments.return_regret_report import POLICIES


def draw(results: list[dict]) -> dict[str, Any]:
    """{"regret": returns achieved (left), regret against the target beside its bound (right)}.

    Means over seeds, bands from the least to the greatest. The bound: median over seeds where it is finite in
    most of them.
    """
    offsets = np.array([row["offset"] for row in results[0]["targets"]])
    targets = _column(results, "target")  # (seeds, targets)
    with style():
        figure, (left, right) = new_axes(1, 2, size=(9.6, 4.0))
        for axes in (left, right):
            axes.axvspan(0, offsets.max() + 0.5, color="#EFEFEF", zorder=0)
            axes.set(xlabel="target less the best return in the data", xlim=(offsets.min() - 0.5, None))
        for (policy, label), look in zip(POLICIES.items(), line_styles(), strict=False):
            achieved = _column(results, policy)
            draw_line(left, offsets, _curve(label, achieved), look)
            draw_line(right, offsets, _curve(label, np.maximum(targets - achieved, 0)), look)
        for key, line, label in (("best", "-", "best policy"), ("behaviour", ":", "the data's policy")):
            level = np.mean([result[key] for result in results])
            left.axhline(level, color=BLACK, ls=line, lw=1)
            left.annotate(
                label, (1, level), (-3, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=8
            )
        lowest = min(_column(results, policy).min() for policy in POLICIES)
        highest = max(result["best"] for result in results)
        left.plot(offsets, targets.mean(axis=0), color=GREY, lw=1, label="return asked for")
        left.set(ylabel="return", ylim=(lowest - 1, highest + 2), title=f"Return, {len(results)} MDPs")

        bounds = np.array(
            [[np.inf if row["bound"] is None else row["bound"] for row in r["targets"]] for r in results]
        )
        bound = np.median(bounds, axis=0)
        finite = np.isfinite(bound)
        right.plot(offsets[finite], bound[finite], color=BLACK, ls="-", marker="x", label="bound")
        right.set(ylabel="target less return", title="Regret against the target")
        right.set_yscale("symlog", linthresh=1)
        (asked,) = (line for line in left.lines if line.get_label() == "return asked for")
        figure.legend(handles=[*right.lines, asked], loc="outside lower center", ncols=5)
        right.text(
            0.98, 0.03, "grey: beyond the data", color=GREY, ha="right", fontsize=8, transform=right.transAxes
        )
    return {"regret": figure}


def _column(results: list[dict], name: str) -> np.ndarray:
    return np.array([[row[name] for row in result["targets"]] for result in results], float)


def _curve(label: str, values: np.ndarray) -> Curve:
    """Mean over seeds (axis 0) with the range as its band."""
    x = np.arange(values.shape[1])
    return Curve(label, x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))
