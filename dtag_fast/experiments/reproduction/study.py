"""A suite whose numbers come from trainings and evaluations on datasets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.scores import Goal, score_of
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.experiments.tables import Table


@dataclass(frozen=True)
class Findings:
    """What a study makes of its scores.

    Attributes:
        tables, figures: by name. claims: of the paper, and whether they hold here.
    """

    tables: dict[str, Table]
    figures: dict[str, Any]
    claims: list[Claim] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """What a name stands for.

    Attributes:
        title: one line. source: paper and section.
        tasks: that it is about, whether their data are here or not.
        goals: (lab, tasks whose data are here) -> the numbers it reports.
        report: (rows, tasks) -> what is made of them.
        read: (goal, shelf) -> its row, a dataclass of JSON values; None where there is no number.
    """

    title: str
    source: str
    tasks: tuple[str, ...]
    goals: Callable[[Lab, Sequence[str]], list[Goal]]
    report: Callable[[Sequence[Any], Sequence[str]], Findings]
    read: Callable[[Goal, Shelf], Any] = score_of
