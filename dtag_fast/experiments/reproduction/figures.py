"""Figures of scores over tasks and methods."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from dtag_fast.experiments import plots
from dtag_fast.experiments.over_seeds import mean_curve
from dtag_fast.experiments.plots import Curve
from dtag_fast.experiments.reproduction.scores import Score, values_of


def dots(scores: Sequence[Score], tasks: Sequence[str], methods: Sequence[str]):
    """A panel for each task, three to a row: a line of methods, a dot for each training seed, a bar for their
    mean."""
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    height = 0.24 * len(methods) + 0.9
    with plots.style():
        figure, places = plots.new_axes(
            rows, columns, size=(3.4 * columns + 0.6, height * rows), squeeze=False, sharey=True
        )
        for axes, task in zip(places.flat, tasks, strict=False):
            for place, method in enumerate(methods):
                values = list(values_of(scores, task, method).values())
                if not values:
                    continue
                color = plots.VERMILION if "+AG" in method else plots.BLUE
                axes.plot(values, [place] * len(values), "o", color=color, ms=4, alpha=0.6)
                axes.plot(fmean(values), place, "|", color=color, ms=13, mew=2.2)
            axes.set(title=task, xlabel="score", ylim=(len(methods) - 0.4, -0.6))
            axes.set_yticks(range(len(methods)), methods)
        for axes in list(places.flat)[len(tasks) :]:
            axes.set_visible(False)
    return figure


def over_steps(scores: Sequence[Score], task: str, methods: Mapping[int, str], label: str) -> Curve | None:
    """Scores over n, mean and range over training seeds; None where none has two n.

    Args:
        methods: n, ascending -> method that takes as many steps; of 0 the policy alone.
    """
    by_seed: dict[int, list[tuple[int, float]]] = {}
    for n, method in methods.items():
        for seed, value in values_of(scores, task, method).items():
            by_seed.setdefault(seed, []).append((n, value))
    runs = [tuple(zip(*points, strict=True)) for points in by_seed.values() if len(points) > 1]
    return mean_curve(label, runs, band="range") if runs else None
