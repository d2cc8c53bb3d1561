"""`dtag reproduce SUITE`: an experiment of a paper from nothing to tables and figures, resumable."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from dtag_fast.cli.main import EXIT_DONE, EXIT_INCOMPLETE
from dtag_fast.cli.terminal import make_console, progress_bar


@dataclass(frozen=True)
class Args:
    """Run a suite of experiments and say whether what its paper claims came out. The same command again runs
    only the seeds that are missing. Exit code 1 if a claim did not hold."""

    suite: tyro.conf.Positional[str]  # single-state, regret or toy
    seeds: int | None = None  # how many, from seed 0 on. Default: what the suite takes, see --dry-run
    out: Path | None = None  # folder for results, tables and figures. Default: results/SUITE
    dry_run: bool = False  # only say what would be run


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code: 0, or 1 when a claim did not hold."""
    args = tyro.cli(Args, prog="dtag reproduce", args=list(argv))
    console = make_console()
    # Imported late: `dtag reproduce --help` does not need torch.
    from dtag_fast.experiments.suite_runs import plan_suite, run_suite
    from dtag_fast.experiments.suites import find_suite

    suite = find_suite(args.suite)
    seeds = suite.seeds if args.seeds is None else args.seeds
    out = args.out or Path("results") / args.suite
    plan = plan_suite(args.suite, suite, seeds, out)
    console.print(f"[bold]{args.suite}[/]: {suite.title}", soft_wrap=True)
    console.print(f"After {suite.source}.", soft_wrap=True, markup=False)
    if args.dry_run:
        _print_plan(console, suite, plan, out)
        return EXIT_DONE
    with progress_bar(console, f"{len(plan.missing)} seeds to run") as report:
        made = run_suite(args.suite, suite, seeds, out, report)
    if plan.finished:
        console.print(f"{len(plan.finished)} of {len(plan.seeds)} seeds taken from an earlier run.")
    for name, table in made.tables.items():
        _print_table(console, name, table)
    for claim in made.claims:
        verdict = "holds" if claim.holds else "DOES NOT HOLD"
        console.print(f"{verdict}: {claim.text}; {claim.measured}.", soft_wrap=True, markup=False)
    for file in made.files:
        console.print(str(file), soft_wrap=True, markup=False)
    return EXIT_DONE if all(claim.holds for claim in made.claims) else EXIT_INCOMPLETE


def _print_plan(console: Console, suite, plan, out: Path) -> None:
    from dataclasses import asdict

    for name, value in asdict(suite.config).items():
        console.print(f"  {name}: {value}", soft_wrap=True, markup=False)
    console.print(
        f"{len(plan.seeds)} seeds, of which {len(plan.finished)} are finished in {out}.", soft_wrap=True
    )
    console.print(f"About {len(plan.missing) * suite.seconds:.0f} s on one core; nothing was run.")


def _print_table(console: Console, name: str, table) -> None:
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(title=name, caption=table.note or None, box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(table.header):
        grid.add_column(heading, justify="left" if place < table.text_columns else "right")
    for row in table.rows:
        grid.add_row(*row)
    console.print(grid)
