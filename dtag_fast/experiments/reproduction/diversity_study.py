"""What token prediction and Action Gradient gain on parts of the replayed data, which hold less to stitch.

The part of a training is drawn by its seed, so that intervals over seeds hold the draw as well. Settings are
chosen by a training of the tuning seed on a part of the same size that it drew.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from dtag_fast.experiments import plots
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.over_seeds import half_width, mean_curve
from dtag_fast.experiments.reproduction.datasets import Data
from dtag_fast.experiments.reproduction.lab import POLICIES, Lab
from dtag_fast.experiments.reproduction.scores import (
    NONE,
    Goal,
    Score,
    gain_cell,
    gains_of,
    score_cell,
    score_of,
    with_interval,
)
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.experiments.tables import Table
from dtag_fast.training.files import read_json

TASKS = ("hopper-medium-replay", "halfcheetah-medium-replay")
FRACTIONS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
METHODS = ("DT", "RF", "DT+AG", "RF+AG")
# heading -> method without and with
GAINS = {
    "TP: RF - DT": ("DT", "RF"),
    "AG without TP: DT+AG - DT": ("DT", "DT+AG"),
    "AG with TP: RF+AG - RF": ("RF", "RF+AG"),
}

NOTE = (
    "Normalised scores, mean ± standard deviation over trainings, each on a part of its own; episodes and "
    "steps are means over them. RF: Reinformer; AG: Action Gradient with a critic of the same part."
)
GAIN_NOTE = (
    "Normalised scores: mean and 95 % interval by Student's t over trainings, seed by seed, each on a part "
    "of its own. TP: token prediction; AG: Action Gradient."
)


@dataclass(frozen=True)
class PartScore(Score):
    """A score of a policy of a part of the data: `method` holds the fraction too, see `on_part`.

    Attributes:
        fraction: of the episodes. data_episodes, data_steps: in the part.
    """

    fraction: float = 1.0
    data_episodes: int = 0
    data_steps: int = 0


def on_part(method: str, fraction: float) -> str:
    """Name of a method on a part: "RF+AG 0.1"."""
    return f"{method} {fraction:g}"


def goals(lab: Lab, tasks: Sequence[str]) -> list[Goal]:
    """All methods on all parts; a critic learns from the same part as its policy."""
    found = []
    for task in tasks:
        for fraction in FRACTIONS:
            for seed in lab.reported:
                part = part_of(lab.data(task), fraction, seed)
                # IQL's own policy is not played here; with it, the whole set's critic is that of the tables.
                changes = {} if fraction == 1 else {"policy": False}
                critic = lab.training(task, "iql", seed, data=part, **changes)
                for name, algorithm in POLICIES.items():
                    both = lab.refined(lab.training(task, algorithm, seed, data=part), critic)
                    found.append(Goal(task, on_part(name, fraction), seed, both))
                    refined = on_part(f"{name}+AG", fraction)
                    found.append(Goal(task, refined, seed, both, row="refined"))
    return found


def part_of(data: Data, fraction: float, seed: int) -> Data:
    """The episodes that `seed` draws; the whole set is the same for all."""
    return data if fraction == 1 else replace(data, fraction=fraction, seed=seed)


def row_of(goal: Goal, shelf: Shelf) -> PartScore | None:
    """As `score_of`."""
    score = score_of(goal, shelf)
    if score is None:
        return None
    policy = goal.work.policy
    data = read_json(shelf.path(policy) / "config.json")["dataset"]
    return PartScore(
        **asdict(score),
        fraction=policy.data.fraction,
        data_episodes=data["episodes"],
        data_steps=data["steps"],
    )


def fractions_of(rows: Sequence[PartScore]) -> list[float]:
    """Ascending."""
    return sorted({row.fraction for row in rows})


def part_scores(rows: Sequence[PartScore], tasks: Sequence[str]) -> Table:
    """A row for each part of each task."""
    cells = []
    for task in tasks:
        for fraction in fractions_of(rows):
            mine = [row for row in rows if (row.task, row.fraction) == (task, fraction)]
            sizes = [
                f"{fmean(sizes):.0f}" if (sizes := [getattr(row, name) for row in mine]) else NONE
                for name in ("data_episodes", "data_steps")
            ]
            scores = [score_cell(rows, task, on_part(method, fraction)) for method in METHODS]
            cells.append([task, f"{fraction:g}", *sizes, *scores])
    header = ["task", "fraction", "episodes", "steps", *METHODS]
    return Table(header, cells, note=NOTE)


def part_gains(rows: Sequence[PartScore], tasks: Sequence[str]) -> Table:
    """A row for each part of each task."""
    cells = [
        [
            task,
            f"{fraction:g}",
            *(gain_cell(rows, task, *_pair(g, fraction)) for g in GAINS),
        ]
        for task in tasks
        for fraction in fractions_of(rows)
    ]
    return Table(["task", "fraction", *GAINS], cells, note=GAIN_NOTE)


def _pair(gain: str, fraction: float) -> tuple[str, str]:
    """The methods without and with, on a part."""
    without, better = GAINS[gain]
    return on_part(without, fraction), on_part(better, fraction)


def _gains(rows: Sequence[PartScore], task: str, gain: str, fraction: float) -> dict[int, float]:
    """Seed -> gain."""
    return gains_of(rows, task, *_pair(gain, fraction))


def gain_curves(rows: Sequence[PartScore], task: str) -> list[plots.Curve]:
    """A curve over fractions for each gain, with its range over the seeds that have all of them."""
    curves = []
    for gain in GAINS:
        found = {fraction: _gains(rows, task, gain, fraction) for fraction in fractions_of(rows)}
        found = {fraction: gains for fraction, gains in found.items() if gains}
        seeds = set.intersection(*(set(gains) for gains in found.values())) if found else set()
        if seeds:
            runs = [(list(found), [gains[seed] for gains in found.values()]) for seed in sorted(seeds)]
            curves.append(mean_curve(gain, runs, band="range"))
    return curves


def gain_against_fraction(rows: Sequence[PartScore], tasks: Sequence[str]):
    """A panel for each task: gains against the fraction of the episodes."""
    looks = dict(zip(GAINS, plots.line_styles(), strict=False))
    fractions = fractions_of(rows)
    with plots.style():
        size = (max(4.0 * len(tasks), 5.6), 3.8)
        figure, places = plots.new_axes(1, len(tasks), size=size, squeeze=False)
        for axes, task in zip(places[0], tasks, strict=True):
            axes.axhline(0, color=plots.GREY, lw=0.8)
            for curve in gain_curves(rows, task):
                plots.draw_line(axes, curve.x, curve, looks[curve.label])
            axes.set(title=task, xscale="log", xlabel="fraction of the episodes", ylabel="gain in score")
            axes.set_xticks(fractions, [f"{fraction:g}" for fraction in fractions])
            axes.minorticks_off()
        handles, labels = places[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def grows_with_data(rows: Sequence[PartScore], tasks: Sequence[str], gain: str) -> Claim:
    """Whether a gain is larger on the whole set than on the smallest part.

    It is where the 95 % interval of the differences is above zero: one for each seed, a mean over the tasks,
    as trainings of the same seed on other tasks are no draws of the same number.
    """
    fractions = fractions_of(rows)
    by_task, texts = [], []
    for task in tasks:
        part, whole = (_gains(rows, task, gain, end) for end in (fractions[0], fractions[-1]))
        if both := sorted(part.keys() & whole.keys()):
            by_task.append({seed: whole[seed] - part[seed] for seed in both})
            ends = (fmean(gains[seed] for seed in both) for gains in (whole, part))
            texts.append("{} {:+.1f} against {:+.1f}".format(task, *ends))
    seeds = sorted(set.intersection(*map(set, by_task))) if by_task else []
    differences = [fmean(found[seed] for found in by_task) for seed in seeds]
    half = half_width(differences)
    return Claim(
        f"{gain.partition(':')[0]} gains more on the whole set than on the smallest part",
        half is not None and fmean(differences) > half,
        f"difference {with_interval(differences)}; {'; '.join(texts)}"
        if seeds
        else "no seed with both on every task",
    )


def report(rows: Sequence[PartScore], tasks: Sequence[str]) -> Findings:
    """See `Study`."""
    return Findings(
        tables={"scores": part_scores(rows, tasks), "gains": part_gains(rows, tasks)},
        figures={"gain-against-fraction": gain_against_fraction(rows, tasks)},
        claims=[grows_with_data(rows, tasks, gain) for gain in GAINS if gain.startswith("AG")]
        if rows
        else [],
    )


STUDY = Study(
    title="parts of the replayed data: what token prediction and Action Gradient gain on each",
    source="Action Gradient, arXiv 2510.05285, its open question of the dataset's diversity",
    tasks=TASKS,
    goals=goals,
    report=report,
    read=row_of,
)
