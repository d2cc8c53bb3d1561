"""`dtag reproduce SUITE`: an experiment of a paper from nothing to tables and figures, resumable."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from dtag_fast.cli.main import EXIT_DONE, EXIT_INCOMPLETE, EXIT_INTERRUPTED
from dtag_fast.cli.terminal import make_console, progress_bar

# options that only suites which train on datasets have
_OF_STUDIES = ("data", "budget", "tasks", "runs", "resume", "executor", "jobs", "ray_address")


@dataclass(frozen=True)
class Args:
    """Run a suite of experiments and say whether what its paper claims came out. The same command again makes
    only what is missing. Exit code 1 if a claim did not hold or something could not be made."""

    suite: tyro.conf.Positional[str]  # its name; `dtag reproduce list` shows all
    data: str = "local"  # where datasets are looked for: local, minari or d4rl:DIR
    budget: Literal["small", "full"] = "small"  # what is trained and played, see --dry-run
    seeds: int | None = None  # trainings that are reported. Default: what the suite or its budget takes
    tasks: str | None = None  # some of the suite's, separated by commas. Default: all whose data are here
    out: Path | None = None  # folder for results, tables and figures. Default: results/SUITE
    runs: Path | None = None  # folder of trainings and evaluations, shared by suites. Default: results/runs
    resume: bool = False  # keep, and go on with, what is there even if other code or another PyTorch made it
    executor: Literal["local", "ray"] = "local"  # processes of this machine, or a Ray cluster
    jobs: int | None = None  # at once. Default: one per core
    ray_address: str | None = None  # of a running cluster. Default: RAY_ADDRESS, else one started here
    dry_run: bool = False  # only say what would be run, and about how long it takes


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code: 0, or 1 when a claim did not hold or something failed."""
    args = tyro.cli(Args, prog="dtag reproduce", args=list(argv))
    console = make_console()
    # Imported late: `dtag reproduce --help` does not need torch.
    from dtag_fast.experiments.reproduction.studies import STUDIES
    from dtag_fast.experiments.suites import SUITES

    if args.suite == "list":
        for name, suite in sorted((SUITES | STUDIES).items()):
            console.print(f"{name:<24}{suite.title}", soft_wrap=True, markup=False)
        return EXIT_DONE
    if args.suite in STUDIES:
        return _study(args, STUDIES[args.suite], console)
    if args.suite not in SUITES:
        known = ", ".join(sorted(SUITES | STUDIES))
        raise ValueError(f"suite: expected one of {known}, got {args.suite!r}")
    for field in fields(Args):
        if field.name in _OF_STUDIES and getattr(args, field.name) != field.default:
            option = "--" + field.name.replace("_", "-")
            raise ValueError(f"{option}: {args.suite} trains on no dataset and takes no such option")
    return _seeds(args, SUITES[args.suite], console)


def _seeds(args: Args, suite, console: Console) -> int:
    """A suite of independent seeds."""
    from dtag_fast.experiments.result_folder import refuse_unwritable
    from dtag_fast.experiments.suite_runs import plan_suite, run_suite

    seeds = suite.seeds if args.seeds is None else args.seeds
    out = args.out or Path("results") / args.suite
    plan = plan_suite(args.suite, suite, seeds, out)
    refuse_unwritable("out", out)
    _print_title(console, args.suite, suite)
    if args.dry_run:
        for name, value in asdict(suite.config).items():
            console.print(f"  {name}: {value}", soft_wrap=True, markup=False)
        console.print(
            f"{len(plan.seeds)} seeds, of which {len(plan.finished)} are finished in {out}.", soft_wrap=True
        )
        console.print(f"About {len(plan.missing) * suite.seconds:.0f} s on one core; nothing was run.")
        return EXIT_DONE
    try:
        with progress_bar(console, f"{len(plan.missing)} seeds to run") as report:
            made = run_suite(args.suite, suite, seeds, out, report)
    except KeyboardInterrupt:
        return _interrupted(out)
    if plan.finished:
        console.print(f"{len(plan.finished)} of {len(plan.seeds)} seeds taken from an earlier run.")
    return _print_findings(console, made.tables, made.claims, made.files)


def _study(args: Args, study, console: Console) -> int:
    """A suite of trainings and evaluations on datasets."""
    from dtag_fast.executors.choice import make_executor
    from dtag_fast.experiments.reproduction.budget import BUDGETS
    from dtag_fast.experiments.reproduction.lab import Lab
    from dtag_fast.experiments.reproduction.study_runs import plan_study, run_study
    from dtag_fast.experiments.reproduction.tasks import Source
    from dtag_fast.experiments.result_folder import RESULTS, refuse_other, refuse_unwritable

    budget = BUDGETS[args.budget]
    if args.seeds is not None and args.seeds < 1:
        raise ValueError(f"seeds: expected a positive number, got {args.seeds}")
    lab = Lab(budget, Source.parse(args.data), budget.seeds if args.seeds is None else args.seeds)
    out, runs = args.out or Path("results") / args.suite, args.runs or Path("results/runs")
    tasks = None if args.tasks is None else [task.strip() for task in args.tasks.split(",") if task.strip()]
    refuse_other(args.suite, out, (out / RESULTS).is_file(), runs)
    refuse_unwritable("out", out)
    refuse_unwritable("runs", runs)
    plan = plan_study(study, lab, runs, tasks=tasks, keep_older=args.resume)
    crew = make_executor(args.executor, args.jobs, "cpu", args.ray_address)
    _print_title(console, args.suite, study)
    # How many cores a cluster has is known when it is connected to.
    _print_study_plan(console, plan, lab, runs, crew.workers if args.executor == "local" else None)
    if args.dry_run:
        console.print("Nothing was run.")
        return EXIT_DONE
    places = {"runs": runs.absolute(), "out": out.absolute()}  # workers may have another working directory
    try:
        with crew, progress_bar(console, "seconds of one core") as report:
            made = run_study(args.suite, study, lab, plan, **places, crew=crew, progress=report)
    except KeyboardInterrupt:
        return _interrupted(runs)
    code = _print_findings(console, made.findings.tables, made.findings.claims, made.files)
    for sentence in made.failures:
        console.print(f"failed: {sentence}", soft_wrap=True, markup=False)
    if made.missing:
        console.print(f"{len(made.missing)} of {len(plan.goals)} numbers are missing.")
    return EXIT_INCOMPLETE if made.missing else code


def _interrupted(place: Path) -> int:
    print(f"dtag reproduce: interrupted; the same command goes on in {place}", file=sys.stderr)
    return EXIT_INTERRUPTED


def _print_title(console: Console, name: str, suite) -> None:
    console.print(f"[bold]{name}[/]: {suite.title}", soft_wrap=True)
    console.print(f"After {suite.source}.", soft_wrap=True, markup=False)


def _print_study_plan(console: Console, plan, lab, runs: Path, cores: int | None) -> None:
    """Say what would be run; `cores`: that it runs on, None where that is not known."""
    pieces = (work for wave in plan.work.waves for work in wave)
    choosing = ", seed 0 chooses settings" if any(getattr(work, "chosen_by", ()) for work in pieces) else ""
    verb = "is" if len(lab.reported) == 1 else "are"
    console.print(
        f"Budget {lab.budget.name}, data {lab.source.kind}; {lab.reported_in_words} {verb} reported"
        f"{choosing}. Tasks: {', '.join(plan.tasks) or 'none'}.",
        soft_wrap=True,
    )
    for task, wanted in plan.absent.items():
        console.print(f"Without {task}: {wanted} is not here.", soft_wrap=True, markup=False)
    for kind, (pieces, missing, seconds) in plan.work.kinds().items():
        cost = f", about {_duration(seconds)} of one core" if missing else ""
        console.print(f"  {kind}: {pieces}, of which {missing} are missing{cost}", soft_wrap=True)
    if older := len(plan.work.older):
        there = "piece that is there was" if older == 1 else "pieces that are there were"
        console.print(f"{older} {there} made or begun by other code or another PyTorch.", soft_wrap=True)
    where = "of one core" if cores in (None, 1) else f"on {cores} cores"
    console.print(
        f"About {_duration(plan.work.seconds / (cores or 1))} {where}, into {runs}.", soft_wrap=True
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _print_findings(console: Console, tables, claims, files) -> int:
    """Show what came out; the exit code."""
    for name, table in tables.items():
        _print_table(console, name, table)
    for claim in claims:
        verdict = "holds" if claim.holds else "DOES NOT HOLD"
        console.print(f"{verdict}: {claim.text}; {claim.measured}.", soft_wrap=True, markup=False)
    for file in files:
        console.print(str(file), soft_wrap=True, markup=False)
    return EXIT_DONE if all(claim.holds for claim in claims) else EXIT_INCOMPLETE


def _print_table(console: Console, name: str, table) -> None:
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(title=name, caption=table.note or None, box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(table.header):
        grid.add_column(heading, justify="left" if place < table.text_columns else "right")
    for row in table.rows:
        grid.add_row(*row)
    console.print(grid)
