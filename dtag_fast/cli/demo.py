"""`dtag demo`: PointMaze data, training, evaluation with and without Action Gradient, table and plots."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_WIDTH = 120  # columns when the output is a file or a pipe
PLAIN_EVERY = 0.25  # share of a task between two of its lines


@dataclass(frozen=True)
class Args:
    """Make PointMaze-UMaze data, train two policies and a critic, compare with and without Action Gradient.

    Finished parts of an earlier run with the same configuration are used again.
    """

    out: Path | None = None  # folder for all of it; None: runs/demo, or runs/demo-quick with --quick
    quick: bool = False  # about a minute: all parts, too little training for numbers that mean anything
    seed: int = 0  # of data, weights and batches


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    args = tyro.cli(Args, prog="dtag demo", args=list(argv))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH, highlight=False)
    # Imported late: `dtag demo --help` needs none of it.
    from dtag_fast.experiments.demo import run_demo
    from dtag_fast.experiments.demo_config import DemoConfig, quick_config

    config = replace(quick_config() if args.quick else DemoConfig(), seed=args.seed)
    out = args.out or Path("runs/demo-quick" if args.quick else "runs/demo")
    began = time.perf_counter()
    reporter = _BarReporter(console) if console.is_terminal else _LineReporter(console)
    with reporter:
        results = run_demo(config, out, reporter)
    console.print()
    console.print(_toy_sentence(results))
    console.print(_table(results))
    if args.quick:
        console.print(
            "[bold]Quick form:[/] trained far too little for these numbers to mean anything; "
            "run `dtag demo` without --quick."
        )
    console.print(f"Plots: {out / 'plots'}   Numbers: {out / 'results.json'}")
    console.print(f"Finished in {time.perf_counter() - began:.0f} s.")
    return 0


def _toy_sentence(results: dict) -> str:
    toy = results["toy"]
    imitator = min(run["imitator_distance"] for run in toy)
    refined = max(run["refined_distance"] for run in toy)
    return (
        f"Toy, optimum at a = 0, data only at |a| > 0.5, {len(toy)} seed(s): "
        f"the imitator stays at |a| >= {imitator:.3f}, Action Gradient ends at |a| <= {refined:.4f}."
    )


def _table(results: dict) -> Table:
    """The reported rows, narrow enough for a terminal of 80 columns."""
    config, references = results["config"], results["references"]
    table = Table(
        title=f"PointMaze-UMaze (D4RL's maze2d protocol), the same {config['episodes']} episodes in all rows",
        caption=(
            f"AG: Action Gradient with step size {config['ag_lr']:g}; n and step size were fixed in advance. "
            f"Score: 0 is a return of {references['ref_min_score']:g} (random), 100 one of "
            f"{references['ref_max_score']:g} (D4RL's reference). In brackets 95 % intervals, ± the standard "
            "deviation, over the episodes of one training seed. Gain: over the row above, paired."
        ),
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for name in ("return", "D4RL score", "gain in return", "Q gain"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results["table"]:
        score, gain, with_ag = row["score"], row["return_gain"], row["steps"] > 0
        table.add_row(
            f"  with AG, n = {row['steps']}" if with_ag else row["label"],
            f"{row['return']['mean']:.1f} ± {row['return']['std']:.1f}",
            f"[bold]{score['mean']:.1f}[/] ({score['ci95'][0]:.0f}, {score['ci95'][1]:.0f})",
            f"{gain['mean']:+.1f} ({gain['ci95'][0]:+.0f}, {gain['ci95'][1]:+.0f})" if with_ag else "",
            f"{row['q_gain']:+.2f}" if with_ag else "",
            end_section=with_ag,
        )
    return table


class _BarReporter:
    """Progress bars, one per task of a stage; for terminals."""

    def __init__(self, console: Console):
        self._progress = Progress(
            TextColumn("  {task.description:<22}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._console = self._progress.console
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_BarReporter":
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def stage(self, title: str) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()
        self._console.print(f"[bold]{title}[/]")

    def say(self, text: str) -> None:
        self._console.print(f"  {text}")

    def progress(self, task: str, done: int, total: int) -> None:
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(task, total=total)
        self._progress.update(self._tasks[task], completed=done)
        if done >= total:
            self._progress.stop_task(self._tasks[task])


class _LineReporter:
    """A line per stage and per quarter of a task; for logs."""

    def __init__(self, console: Console):
        self._console = console
        self._quarters: dict[str, int] = {}
        self._began = time.perf_counter()

    def __enter__(self) -> "_LineReporter":
        return self

    def __exit__(self, *_) -> None:
        pass

    def stage(self, title: str) -> None:
        self._quarters.clear()
        self._console.print(f"[{time.perf_counter() - self._began:5.0f} s] {title}", markup=False)

    def say(self, text: str) -> None:
        self._console.print(f"          {text}", markup=False)

    def progress(self, task: str, done: int, total: int) -> None:
        quarter = int(done / total / PLAIN_EVERY)
        if quarter > self._quarters.get(task, 0):
            self._quarters[task] = quarter
            self.say(f"{task}: {done:,} of {total:,}")
