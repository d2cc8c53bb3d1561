"""Runs a study: plans its pieces of work, makes what is missing, writes results, tables and figures."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dtag_fast.executors.choice import Executor
from dtag_fast.experiments.reproduction import runner
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.scores import Goal
from dtag_fast.experiments.reproduction.study import Findings, Study
from dtag_fast.experiments.reproduction.work import Shelf
from dtag_fast.experiments.result_folder import RESULTS, refuse_other, write_findings


@dataclass(frozen=True)
class StudyPlan:
    """What would be run.

    Attributes:
        tasks: whose data are here. absent: task -> what was looked for. work: the pieces behind the goals.
    """

    tasks: list[str]
    absent: dict[str, str]
    goals: list[Goal]
    work: runner.Plan


@dataclass(frozen=True)
class StudyReport:
    """What `run_study` made.

    Attributes:
        findings: tables, figures and claims. missing: goals without a number. failures: a sentence each.
        files: everything written.
    """

    findings: Findings
    missing: list[Goal]
    failures: list[str]
    files: list[Path]


def plan_study(
    study: Study, lab: Lab, runs: Path, *, tasks: Sequence[str] | None = None, keep_older: bool = False
) -> StudyPlan:
    """Look which tasks have data and which pieces of work are missing; writes nothing.

    Args:
        tasks: some of the study's; None for all. runs: folder of the pieces, shared by all suites.

    Raises:
        ValueError: a task of another study, nothing to report for want of data, or as `runner.make_plan`.
    """
    asked = list(dict.fromkeys(study.tasks if tasks is None else tasks))
    foreign = [task for task in asked if task not in study.tasks]
    if foreign or not asked:
        got = repr(foreign[0]) if foreign else "none"
        raise ValueError(f"tasks: expected some of {', '.join(study.tasks)}, got {got}")
    found = [task for task in asked if lab.data(task) is not None]
    absent = {task: lab.source.wanted(task) for task in asked if task not in found}
    goals = study.goals(lab, found)
    if not goals:
        raise ValueError(
            f"data: there is none for this suite; wanted {', '.join(absent.values())} ({lab.source.root}); "
            f"{lab.source.remedy}"
        )
    works = list(dict.fromkeys(goal.work for goal in goals))
    return StudyPlan(found, absent, goals, runner.make_plan(works, runs, keep_older))


def run_study(
    name: str,
    study: Study,
    lab: Lab,
    plan: StudyPlan,
    *,
    runs: Path,
    out: Path,
    crew: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StudyReport:
    """Make what is missing and write results.json, tables/ and figures/ under `out`.

    Where pieces failed and there is no number at all, `out` stays as it is.

    Args:
        name: of the suite. plan: of `plan_study`. runs: as there.
        crew: an executor that was entered. progress: called with estimated seconds, done and in all.

    Raises:
        ValueError: `out` holds results of another suite.
    """
    refuse_other(name, out, (out / RESULTS).is_file(), runs)
    failures = runner.run(plan.work, runs, crew, progress)
    found, damaged = _read(study, plan.goals, Shelf(runs))
    failures += damaged
    rows = [row for row in found.values() if row is not None]
    missing = [goal for goal, row in found.items() if row is None]
    if failures and not rows:
        return StudyReport(Findings({}, {}), plan.goals, failures, [])
    findings = study.report(rows, plan.tasks)
    summary = _summary(name, study, lab, plan, rows, missing, findings)
    label = label_of(lab, plan, missing)
    files = write_findings(out, summary, findings.tables, findings.figures, label)
    return StudyReport(findings, missing, failures, files)


def _read(study: Study, goals: Sequence[Goal], shelf: Shelf) -> tuple[dict[Goal, Any], list[str]]:
    """The row of each goal, and a sentence for every one whose file is damaged."""
    found, damaged = {}, []
    for goal in goals:
        try:
            found[goal] = study.read(goal, shelf)
        except ValueError as error:
            found[goal] = None
            damaged.append(f"{error}; remove {shelf.path(goal.work)} to have it made anew")
    return found, list(dict.fromkeys(damaged))


def label_of(lab: Lab, plan: StudyPlan, missing: Sequence[Goal]) -> str:
    """Of what the numbers are, in a sentence or more."""
    text = f"Budget {lab.budget.name}, data {lab.source.kind}, {lab.reported_in_words}."
    if plan.absent:
        text += f" Without {', '.join(plan.absent)}, whose data are not here."
    if missing:
        text += f" INCOMPLETE: {len(missing)} of {len(plan.goals)} numbers are missing."
    return text


def _summary(
    name: str,
    study: Study,
    lab: Lab,
    plan: StudyPlan,
    rows: list[Any],
    missing: Sequence[Goal],
    findings: Findings,
) -> dict:
    """What results.json holds beside tables and figures; nothing in it says where on this machine anything
    lies."""
    return {
        "suite": name,
        "source": study.source,
        "budget": asdict(lab.budget),
        "data": lab.source.kind,
        "tasks": plan.tasks,
        "absent": list(plan.absent),
        "training_seeds": list(lab.reported),
        "older_pieces": len(plan.work.older),
        "claims": [asdict(claim) for claim in findings.claims],
        "missing": [[goal.task, goal.method, goal.seed] for goal in missing],
        "rows": [asdict(row) for row in rows],
    }
