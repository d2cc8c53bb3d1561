"""Tables, a figure and claims about critics: what Action Gradient gains with each, and its error."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from dtag_fast.experiments import plots
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.rank_correlation import rank_correlation
from dtag_fast.experiments.reproduction import own_choice
from dtag_fast.experiments.reproduction.scores import NONE, Score, chosen_in_words, gains_of, with_interval
from dtag_fast.experiments.reproduction.study import Findings
from dtag_fast.experiments.tables import Table

BASE, REFINED = "RF", "RF+AG"
ONE_SIDED = 1.645  # standard deviations of a normal distribution beyond which 5 % lie

NOTE = (
    "Held-out episodes, means over training seeds. rank: rank correlation of Q with the discounted return G "
    "that followed; other actions: the same with the actions of other steps; explained: 1 - Var(G - Q) / "
    "Var(G); error: root mean square of Q - G, bias: its mean, both in standard deviations of G. gain: of "
    "Action Gradient over Reinformer in normalised score, with its 95 % interval by Student's t."
)
OWN_NOTE = (
    "Gains as above. Own: by training seed, the step size is chosen on the same policy and critic, by "
    "episodes that are not reported; in brackets what it gained on those."
)
RELATION_NOTE = (
    "Rank correlation over critics, each with its means over seeds. Below zero: the critic that errs less "
    "gains more."
)


@dataclass(frozen=True)
class CriticFit:
    """What `critic_error.measure` says of a critic; `method` is its name, `updates` those of its training."""

    task: str
    method: str
    seed: int
    steps: int = 0
    rank: float | None = None
    rank_other_actions: float | None = None
    explained: float | None = None
    error: float | None = None
    bias: float | None = None
    diverged: int | None = None
    updates: int | None = None

    @property
    def disorder(self) -> float | None:
        """1 - rank correlation: 0 where Q orders the held-out steps as their returns do."""
        return None if self.rank is None else 1 - self.rank


MEASURES: dict[str, Callable[[CriticFit], float | None]] = {
    "rank error (1 - correlation)": lambda fit: fit.disorder,
    "normalised error": lambda fit: fit.error,
}


def refined_by(critic: str) -> str:
    """The method's name."""
    return f"{REFINED} {critic}"


@dataclass(frozen=True)
class Judged:
    """A critic on a task, all seeds.

    Attributes:
        fits: of the critic. gains: of Action Gradient in score, by seed. refined: scores with it.
        own_gains, own: the same with settings chosen on the critic itself.
    """

    task: str
    critic: str
    fits: list[CriticFit]
    gains: dict[int, float]
    refined: list[Score]
    own_gains: dict[int, float]
    own: list[Score]

    def mean(self, measure: Callable[[CriticFit], float | None]) -> float | None:
        """Over seeds; None where no seed has it."""
        found = [value for fit in self.fits if (value := measure(fit)) is not None]
        return fmean(found) if found else None


def judge(rows: Sequence[CriticFit | Score], tasks: Sequence[str]) -> list[Judged]:
    """Every critic on every task, in the order of the rows."""
    fits = [row for row in rows if isinstance(row, CriticFit)]
    scores = [row for row in rows if isinstance(row, Score)]
    found = []
    for task in tasks:
        for name in dict.fromkeys(fit.method for fit in fits if fit.task == task):
            elsewhere, own = refined_by(name), own_choice.own(refined_by(name))
            found.append(
                Judged(
                    task,
                    name,
                    fits=[fit for fit in fits if (fit.task, fit.method) == (task, name)],
                    gains=gains_of(scores, task, BASE, elsewhere),
                    refined=[score for score in scores if (score.task, score.method) == (task, elsewhere)],
                    own_gains=gains_of(scores, task, BASE, own),
                    own=[score for score in scores if (score.task, score.method) == (task, own)],
                )
            )
    return found


def relations(judged: Sequence[Judged], measure: Callable) -> dict[str, tuple[float, int]]:
    """Task -> rank correlation over its critics of error and gain, and how many critics; a task with fewer
    than three, or without a difference, is left out."""
    found = {}
    for task in dict.fromkeys(one.task for one in judged):
        both = [
            (error, fmean(one.gains.values()))
            for one in judged
            if one.task == task and one.gains and (error := one.mean(measure)) is not None
        ]
        if len(both) >= 3 and (relation := rank_correlation(*zip(*both, strict=True))) is not None:
            found[task] = relation, len(both)
    return found


def smaller_error_larger_gain(judged: Sequence[Judged], name: str) -> Claim:
    """Whether critics of smaller error gain more within tasks, by more than chance.

    The mean over T tasks of rank correlations over n critics each has, where error and gain have nothing to
    do with each other, the mean 0 and the variance sum 1 / (n - 1) / T^2. That takes critics for independent:
    those of IQL are alike, and so chance passes the limit somewhat more often than it is said to.
    """
    text = f"within tasks, the smaller a critic's held-out {name}, the larger the gain of Action Gradient"
    found = relations(judged, MEASURES[name])
    if not found:
        return Claim(text, False, "no task with three critics to compare")
    mean = fmean(relation for relation, _ in found.values())
    limit = -ONE_SIDED * math.sqrt(sum(1 / (count - 1) for _, count in found.values())) / len(found)
    return Claim(
        text,
        mean < limit,
        f"rank correlation of error and gain {mean:+.2f}, mean of {len(found)} tasks; by chance, once in "
        f"twenty, below {limit:+.2f}",
    )


def critic_table(judged: Sequence[Judged]) -> Table:
    """A row for each critic on each task."""
    header = ["task", "critic", "updates", "rank", "other actions", "explained", "error", "bias"]
    header += ["gain", "Q gain", "AG"]
    rows = []
    for one in judged:
        numbers = [
            _cell(one.mean(measure))
            for measure in (
                lambda fit: fit.rank,
                lambda fit: fit.rank_other_actions,
                lambda fit: fit.explained,
                lambda fit: fit.error,
                lambda fit: fit.bias,
            )
        ]
        q_gains = [score.q_gain for score in one.refined if score.q_gain is not None]
        gain = with_interval(list(one.gains.values()))
        if lost := sum(fit.diverged is not None for fit in one.fits):
            gain += f", {lost} of {len(one.fits)} diverged"
        settings = [score.setting for score in one.refined if score.diverged is None]
        q_gain = f"{fmean(q_gains):.3g}" if q_gains else NONE
        updates = next((f"{fit.updates:,}" for fit in one.fits if fit.updates is not None), NONE)
        setting = settings[0] if settings else NONE
        rows.append([one.task, one.critic, updates, *numbers, gain, q_gain, setting])
    return Table(header, rows, text_columns=2, note=NOTE)


def own_table(judged: Sequence[Judged]) -> Table:
    """What settings gain that were chosen on each critic itself, beside those chosen on the tuning seed's."""
    rows = []
    for one in judged:
        gains = [with_interval(list(found.values())) for found in (one.gains, one.own_gains)]
        rows.append([one.task, one.critic, *gains, chosen_in_words(one.own)])
    header = ["task", "critic", "gain", "gain, own", "AG, own"]
    return Table(header, rows, text_columns=2, note=OWN_NOTE)


def _cell(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def relation_table(judged: Sequence[Judged], tasks: Sequence[str]) -> Table:
    """Task by measure."""
    found = {name: relations(judged, measure) for name, measure in MEASURES.items()}
    rows = [
        [task, *(f"{found[name][task][0]:+.2f}" if task in found[name] else NONE for name in MEASURES)]
        for task in tasks
    ]
    return Table(["task", *(f"gain and {name}" for name in MEASURES)], rows, note=RELATION_NOTE)


def gain_against_error(judged: Sequence[Judged], tasks: Sequence[str]):
    """A row of panels for each measure, a column for each task; a dot for each critic, a bar for the range of
    its gain over seeds."""
    names = list(dict.fromkeys(one.critic for one in judged))
    looks = dict(zip(names, plots.line_styles(), strict=False))
    handles = {}
    with plots.style():
        size = (max(3.2 * len(tasks), 6.4), 2.7 * len(MEASURES) + 0.8)
        figure, places = plots.new_axes(len(MEASURES), len(tasks), size=size, squeeze=False, sharey="col")
        for task, axes in zip(tasks, places[0], strict=True):
            axes.set_title(task)
        for (label, measure), row in zip(MEASURES.items(), places, strict=True):
            for task, axes in zip(tasks, row, strict=True):
                axes.axhline(0, color=plots.GREY, lw=0.8)
                errors = []
                for one in (one for one in judged if one.task == task and one.gains):
                    if (error := one.mean(measure)) is None:
                        continue
                    errors.append(error)
                    gains, look = list(one.gains.values()), looks[one.critic] | {"ls": ""}
                    mean = fmean(gains)
                    ends = [[mean - min(gains)], [max(gains) - mean]]
                    bar = {"yerr": ends, "capsize": 3, "elinewidth": 1}
                    handles[one.critic] = axes.errorbar(error, mean, **bar, **look)
                axes.set_xlabel(label)
                if errors and max(errors) > 10 * min(errors) > 0:
                    axes.set_xscale("log")
        for axes in places[:, 0]:
            axes.set_ylabel("gain in score")
        shown = [name for name in names if name in handles]
        figure.legend([handles[name] for name in shown], shown, loc="outside lower center", ncols=4)
    return figure


def report(rows: Sequence[CriticFit | Score], tasks: Sequence[str]) -> Findings:
    """See `Study`."""
    judged = judge(rows, tasks)
    return Findings(
        tables={
            "critics": critic_table(judged),
            "own": own_table(judged),
            "relation": relation_table(judged, tasks),
        },
        figures={"gain-against-error": gain_against_error(judged, tasks)},
        claims=[smaller_error_larger_gain(judged, name) for name in MEASURES],
    )
