"""`dtag plot RUNS`: training curves of run folders, score against n of evaluations; PNG and SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True)
class Args:
    """Draw training curves of run folders and score against n of JSON files that `dtag evaluate` wrote.

    Several runs share one figure, so do several evaluations. JSON files inside a run folder are found there.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]  # run folders and evaluation JSON files
    out: Path | None = None  # folder for the figures; default: RUN/plots for one path, else ./plots


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    args = tyro.cli(Args, prog="dtag plot", args=list(argv))
    console = Console()
    for file in draw(args):
        console.print(str(file), soft_wrap=True)
    return 0


def draw(args: Args) -> list[Path]:
    """Draw what `args` ask for; returns the files written.

    Raises:
        ValueError: a path is neither a run folder nor an evaluation, or holds nothing to draw.
    """
    from dtag_fast.experiments import curves, plots

    if not args.runs:
        raise ValueError("runs: expected at least one run folder or evaluation JSON file, got none")
    runs = [path for path in args.runs if curves.is_run(path)]
    named = [path for path in args.runs if curves.is_evaluation(path)]
    found = [
        file for path in args.runs for file in sorted(path.rglob("*.json")) if curves.is_evaluation(file)
    ]
    for path in args.runs:
        if path not in runs and path not in named and not any(path in file.parents for file in found):
            raise ValueError(
                f"runs: {path} is neither a run folder with metrics.jsonl nor a JSON file of `dtag evaluate`"
            )
    lines, score_name = curves.score_curves(curves.run_labels([*named, *found]))
    if not lines and (named or not runs):
        raise ValueError(
            "runs: the evaluations hold one n each, which makes no curve; "
            "evaluate with several, e.g. --ag-steps 0,5,10"
        )
    folder = args.out or _default_folder(args.runs)
    files = []
    if runs:
        panels = curves.training_panels(curves.run_labels(runs))
        files += plots.save(plots.training_curves(panels), folder / "training")
    if lines:
        figure = plots.score_against_steps(lines, score_name=score_name)
        files += plots.save(figure, folder / "score_against_n")
    return files


def _default_folder(paths: tuple[Path, ...]) -> Path:
    if len(paths) > 1:
        return Path("plots")
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / "plots"
