"""Figures of the problem of one state (single_state.py)."""

from typing import Any

import numpy as np

from dtag_fast.experiments.plots import BLACK, BLUE, GREEN, GREY, MARKERS, VERMILION, new_axes, style
from dtag_fast.experiments.single_state import (
    HIGH,
    LOW,
    METHODS,
    SingleStateConfig,
    action_grid,
    reward,
)

LOOKS = {
    "ddpg": {"color": BLUE, "marker": MARKERS[0], "ls": "-"},
    "odt": {"color": VERMILION, "marker": MARKERS[1], "ls": "--"},
    "odt-ddpg": {"color": GREEN, "marker": MARKERS[2], "ls": "-."},
}
MOMENTS = {
    "pretrained": ("after pretraining", ":"),
    "published": ("after online epoch {published}", "--"),
    "end": ("at the end", "-"),
}


def draw(results: list[dict]) -> dict[str, Any]:
    """{"single-state": policies over training (left), critics over the actions (right)}.

    Policies: each seed as a thin line, the median thick. Critics: median over seeds and the range.
    """
    config = SingleStateConfig(**results[0]["config"])
    with style():
        figure, axes = new_axes(1, 3, size=(11.4, 3.9), width_ratios=(1.35, 1, 1))
        _policies(axes[0], results, config)
        for place, method in zip(axes[1:], ("ddpg", "odt-ddpg"), strict=True):
            _critics(place, results, method, config)
        axes[1].legend(loc="lower left", fontsize=8)
        axes[2].set_ylabel("")
    return {"single-state": figure}


def _policies(axes, results: list[dict], config: SingleStateConfig) -> None:
    for interval in (LOW, HIGH):
        axes.axhspan(*interval, color="#E9E9E9", zorder=0)
    axes.axvline(0, color=GREY, lw=0.8)
    axes.axvline(config.published_epochs, color=GREY, lw=0.8, ls=":")
    axes.axhline(0, color=BLACK, lw=0.8, ls=":")
    for method, label in METHODS.items():
        paths = np.array(
            [run["action"] for result in results for run in result["methods"] if run["method"] == method]
        )  # (seeds, 1 + epochs)
        epochs = np.arange(paths.shape[1]) - config.pretrain_epochs
        axes.plot(epochs, paths.T, color=LOOKS[method]["color"], lw=0.6, alpha=0.35)
        axes.plot(epochs, np.median(paths, axis=0), label=label, markevery=4, **LOOKS[method])
    axes.text(0.99, 0.75, "data", color=GREY, ha="right", va="center", transform=axes.get_yaxis_transform())
    axes.set(
        xlabel="epoch (online from 0; dotted: end of the published schedule)",
        ylabel="action when asked for a reward of 1",
        ylim=(-1.06, 1.06),
        title=f"Policies, {len(results)} seeds and their median",
    )
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.63), fontsize=8)


def _critics(axes, results: list[dict], method: str, config: SingleStateConfig) -> None:
    grid = action_grid()
    for interval in (LOW, HIGH):
        axes.axvspan(*interval, color="#E9E9E9", zorder=0)
    axes.plot(grid[:, 0], reward(grid)[:, 0], color=BLACK, lw=1.2, label="true reward")
    for (moment, (label, line)), shade in zip(MOMENTS.items(), (0.10, 0.16, 0.22), strict=True):
        values = np.array(
            [run["critic"][moment] for r in results for run in r["methods"] if run["method"] == method]
        )  # (seeds, GRID_POINTS)
        color = LOOKS[method]["color"]
        axes.plot(
            grid[:, 0],
            np.median(values, axis=0),
            color=color,
            ls=line,
            label=label.format(published=config.published_epochs),
        )
        axes.fill_between(grid[:, 0], values.min(axis=0), values.max(axis=0), color=color, alpha=shade, lw=0)
    axes.set(xlabel="action", ylabel="value", ylim=(-1.6, 1.25), title=f"Critic of {METHODS[method]}")
