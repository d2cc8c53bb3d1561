"""`dtag plot RUNS`: figures of run folders, evaluations and sweeps; PNG and SVG."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console


@dataclass(frozen=True)
class Args:
    """Draw training curves of run folders, those of online fine-tuning over steps of the environment; score
    against n, wall time and latency of JSON files that `dtag evaluate` wrote; scores, gains and Q gains of
    the tables that `dtag sweep` wrote.

    Several of a kind share their figures. A folder, a run's or any other, is searched for all of them.
    """

    runs: tyro.conf.Positional[
        tuple[Path, ...]
    ]  # run, sweep and other folders, tables, evaluation JSON files
    out: Path | None = None  # folder for the figures; default: RUN/plots for one path, else ./plots


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; returns the exit code, 0."""
    args = tyro.cli(Args, prog="dtag plot", args=list(argv))
    console = Console()
    files, left_out = draw(args)
    for file in files:
        console.print(str(file), soft_wrap=True)
    for sentence in left_out:
        print(f"dtag plot: left out: {sentence}", file=sys.stderr)
    return 0


def draw(args: Args) -> tuple[list[Path], list[str]]:
    """Draw what `args` ask for; returns the files written, and why a sweep that was found is in none of them.

    Raises:
        ValueError: a path is no run folder, evaluation or sweep and holds none, or there is nothing to draw.
    """
    from dtag_fast.experiments import curves, plots
    from dtag_fast.experiments.plot_sources import find_sources

    if not args.runs:
        raise ValueError("runs: expected at least one run or sweep folder or evaluation JSON file, got none")
    sources = find_sources(args.runs)
    tables, left_out = _drawable(sources)
    figures = {}
    offline, online = [], []
    for run in sources.runs:
        (online if curves.is_online(run) else offline).append(run)
    if offline:
        panels = curves.training_panels(curves.run_labels(offline))
        figures["training"] = plots.training_curves(panels)
    if online:
        panels = curves.training_panels(curves.run_labels(online))
        figures["finetuning"] = plots.training_curves(panels, x_name="environment steps")
    if sources.evaluations:
        figures |= _evaluation_figures(curves.run_labels(sources.evaluations))
    if tables:
        labels = {label: tables[path] for label, path in curves.run_labels(list(tables)).items()}
        figures |= _sweep_figures(labels)
    if not figures:
        one_n = "runs: the evaluations hold one n each, which makes no curve, and no wall time; "
        raise ValueError(*left_out[:1] or [one_n + "evaluate with several, e.g. --ag-steps 0,5,10"])
    folder = args.out or _default_folder(args.runs)
    return [file for name, figure in figures.items() for file in plots.save(figure, folder / name)], left_out


def _drawable(sources) -> tuple[dict[Path, Any], list[str]]:
    """The tables to draw, read, and why others are not: one that nobody named must not keep the rest from
    being drawn."""
    from dtag_fast.experiments.sweep_tables import load_table, nothing_to_draw

    tables, left_out = {path: load_table(file) for path, file in sources.named_tables.items()}, []
    for folder, file in sources.found_tables.items():
        try:
            table = load_table(file)
        except ValueError as error:
            left_out.append(str(error))
            continue
        if table.is_drawable:
            tables[folder] = table
        else:
            left_out.append(nothing_to_draw([table]))
    return tables, left_out


def _evaluation_figures(files: dict[str, Path]) -> dict:
    """Name -> figure of what JSON files of `dtag evaluate` hold."""
    from dtag_fast.experiments import curves, plots, time_plots

    figures = {}
    lines, score_name = curves.score_curves(files)
    if lines:
        figures["score_against_n"] = plots.score_against_steps(lines, score_name=score_name)
    evaluations = curves.read_evaluations(files)
    timed = {name: e for name, e in evaluations.items() if e.get("wall_time") and e["steps"]}
    if timed:
        figures["wall_time"] = time_plots.wall_time(timed)
    latencies = curves.read_latencies(files)
    if latencies:
        figures["latency"] = time_plots.latency(latencies)
    return figures


def _sweep_figures(tables: dict[str, Any]) -> dict:
    """Name -> figure of what the tables of `dtag sweep`, label -> SweepTable, hold; those that would show
    nothing are left out."""
    from dtag_fast.experiments import sweep_plots
    from dtag_fast.experiments.sweep_panels import sweep_panels

    panels, apart = sweep_panels(tables), sweep_panels(tables, apart=True)
    paired = [panel for panel in apart if any(cell.gain for cell in panel.cells)]
    judged = [panel for panel in panels if any(cell.gain and cell.q_gain is not None for cell in panel.cells)]
    figures = {"sweep_score_against_n": sweep_plots.score_against_n(panels)}
    along_lr = [panel for panel in panels if sum(rate > 0 for rate in panel.rates) > 1]
    if along_lr:
        figures["sweep_score_against_lr"] = sweep_plots.score_against_lr(along_lr)
    if paired:
        figures["sweep_gain_map"] = sweep_plots.gain_map(paired)
    if judged:
        figures["sweep_q_gain_against_gain"] = sweep_plots.q_gain_against_gain(judged)
    return figures


def _default_folder(paths: tuple[Path, ...]) -> Path:
    if len(paths) > 1:
        return Path("plots")
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / "plots"
