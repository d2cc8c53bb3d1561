"""Figures of scores over tasks and methods."""

from collections.abc import Sequence
from statistics import fmean

from dtag_fast.experiments import plots
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
