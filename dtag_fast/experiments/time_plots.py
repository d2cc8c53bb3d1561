"""Where the time of evaluations went, and what single actions take."""

from collections.abc import Mapping

from dtag_fast.experiments.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    new_axes,
    style,
)

# part -> colour, hatch of its bar, marker of its percentiles; the hatches tell bars apart without colours
PARTS = {
    "policy": (BLUE, "", "o"),
    "refine": (ORANGE, "///", "s"),
    "transfer": (PURPLE, "xxx", "v"),
    "environment": (GREEN, "...", "^"),
    "other": (GREY, "\\\\\\", "P"),
    "total": (BLACK, "", "D"),
    "captured": (VERMILION, "", "X"),
}


def wall_time(evaluations: Mapping[str, dict]):
    """Stacked bars of the wall time per environment step: policy, refine, environment, other.

    Args:
        evaluations: label -> evaluation of one checkpoint, as `dtag evaluate` writes it.
    """
    with style():
        height = 1.5 + 0.42 * len(evaluations)
        figure, axes = new_axes(1, 1, size=(6.4, height))
        for row, result in enumerate(evaluations.values()):
            wall, left = result["wall_time"], 0.0
            a_step = 1e6 * wall["seconds"] * wall["workers"] / result["steps"]  # microseconds of a worker
            for part, share in wall["split"].items():
                color, hatch, _ = PARTS[part]
                axes.barh(
                    row,
                    share * a_step,
                    left=left,
                    height=0.62,
                    color=color,
                    hatch=hatch,
                    edgecolor="white",
                    lw=0.5,
                    label=part if row == 0 else None,
                )
                left += share * a_step
            crew = "1 worker" if wall["workers"] == 1 else f"{wall['workers']} workers"
            note = f" {result['steps_per_second']:,.0f} steps/s, {crew}"
            axes.text(left, row, note, va="center", fontsize=8)
        axes.set_yticks(range(len(evaluations)), list(evaluations))
        axes.set_ylim(len(evaluations) - 0.5, -0.5)
        axes.margins(x=0.45)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("wall time of a worker per environment step, µs")
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def latency(measured: Mapping[str, dict]):
    """p50, p95 and p99 of the parts of an action, settings downwards, a panel per file.

    Args:
        measured: label -> `LatencyResult.to_dict`.
    """
    rows = [
        sum(len(_times(s)) for s in result["settings"]) + len(result["settings"])
        for result in measured.values()
    ]
    with style():
        size = (6.8, 1.1 + 0.21 * sum(rows) + 0.6 * len(rows))
        figure, places = new_axes(len(rows), 1, size=size, squeeze=False, sharex=True, height_ratios=rows)
        for axes, (label, result) in zip(places.flat, measured.items(), strict=True):
            _latency_panel(axes, result)
            about = f"{result['env_id']}, {result['device']}, PyTorch threads: {result['threads']}"
            axes.set_title(f"{label}: {about}, {result['actions']:,} actions", fontsize=9.5)
        places.flat[-1].set_xlabel("µs per action: p50 (marker), p95 (bar), p99 (end of the line)")
        found = {}
        for axes in places.flat:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                found.setdefault(name, handle)
        entries = {part: found[part] for part in PARTS if part in found}
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=min(6, len(entries))
        )
    return figure


def _latency_panel(axes, result: dict) -> None:
    from matplotlib.ticker import LogLocator

    y, ticks = 0.0, []
    for setting in result["settings"]:
        top = y
        for part, times in _times(setting).items():
            color, _, marker = PARTS[part]
            axes.plot([times["p50"], times["p99"]], [y, y], color=color, lw=1.4)
            axes.plot(times["p95"], y, "|", color=color, ms=8, mew=1.6)
            axes.plot(times["p50"], y, marker, color=color, ls="none", label=part)
            y += 1.0
        ticks.append((top + y - 1.0) / 2)
        y += 1.0
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(ticks, [setting["label"] for setting in result["settings"]])
    axes.set_ylim(y - 1.2, -0.8)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", which="minor", lw=0.3)


def _times(setting: dict) -> dict[str, dict]:
    captured = setting["captured"]
    return setting["parts"] if captured is None else setting["parts"] | {"captured": captured}
