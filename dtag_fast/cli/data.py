"""`dtag data list | show | make | import | download`: which datasets there are, and making new ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dtag_fast.data import catalog
from dtag_fast.data.discrete import DiscreteActions

RECIPES = Literal["pointmaze-umaze", "pointmaze-medium", "pointmaze-large", "random"]
_WIDE = 160  # columns when the output is not a terminal, so that a file or pipe gets whole lines


@dataclass(frozen=True)
class ListArgs:
    """List the Minari datasets on this machine."""

    root: Path | None = None  # folder to look in; default: MINARI_DATASETS_PATH, else ~/.minari/datasets


@dataclass(frozen=True)
class ShowArgs:
    """Show what a dataset is like: sizes, spaces, returns, lengths, normalised score, oddities."""

    dataset: tyro.conf.Positional[str]  # Minari id, folder, D4RL file or pickle of trajectories
    png: Path | None = None  # also draw histograms of returns and lengths into this file


@dataclass(frozen=True)
class MakeArgs:
    """Make a dataset under the Minari root: of a waypoint controller in a maze, or of a random policy."""

    recipe: tyro.conf.Positional[RECIPES]  # which maze; random: a uniformly random policy in --env
    steps: int = 1_000_000  # environment steps; the size of D4RL's maze2d-umaze and of its random sets
    seed: int = 0  # same seed, same data
    id: str | None = None  # Minari id of the new dataset; default: as random/hopper-1000000-s0-v0
    env: str | None = None  # of random: Gymnasium environment, as Hopper-v5 or module:Id-v0
    max_episode_steps: int | None = None  # of random: time limit; default: the environment's
    observation_keys: tuple[str, ...] = ()  # of random: entries of a Dict observation that are the state


@dataclass(frozen=True)
class ImportArgs:
    """Make a dataset under the Minari root, of files or by combining datasets."""

    id: str  # Minari id of the new dataset, as d4rl/hopper-medium-v2
    files: tyro.conf.Positional[tuple[Path, ...]] = ()  # D4RL .hdf5 files or pickles of trajectories
    combine: tuple[str, ...] = ()  # in place of files: ids of datasets to join
    env: str | None = None  # Gymnasium environment of the files; default: what their names say


@dataclass(frozen=True)
class DownloadArgs:
    """Download a dataset from Minari's server."""

    dataset: tyro.conf.Positional[str]  # Minari id


Args = (
    Annotated[ListArgs, tyro.conf.subcommand("list")]
    | Annotated[ShowArgs, tyro.conf.subcommand("show")]
    | Annotated[MakeArgs, tyro.conf.subcommand("make")]
    | Annotated[ImportArgs, tyro.conf.subcommand("import")]
    | Annotated[DownloadArgs, tyro.conf.subcommand("download")]
)


def main(argv: Sequence[str]) -> int:
    """Entry of the verb; see `run`."""
    return run(tyro.cli(Args, prog="dtag data", args=list(argv)))


def run(args: Args, console: Console | None = None) -> int:
    """Do what `args` ask for, printing to `console`; returns the exit code, 0."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDE)
    verbs = {
        ListArgs: _list,
        ShowArgs: _show,
        MakeArgs: _make,
        ImportArgs: _import,
        DownloadArgs: _download,
    }
    verbs[type(args)](args, console)
    return 0


def _list(args: ListArgs, console: Console) -> None:
    root = args.root or catalog.minari_root()
    datasets = catalog.list_local(root)
    if not datasets:
        console.print(
            f"no datasets under {root}; set {catalog.ROOT_VARIABLE}, or use `dtag data make`, `import` or "
            "`download`"
        )
        return
    table = Table(title=f"datasets under {root}", title_justify="left")
    table.add_column("id", overflow="fold")
    table.add_column("environment")
    for column in ("episodes", "steps", "MB"):
        table.add_column(column, justify="right")
    for dataset in datasets:
        counts = ("?", "?") if dataset.problem else (f"{dataset.episodes:,}", f"{dataset.steps:,}")
        table.add_row(dataset.dataset_id, dataset.env_id or "-", *counts, f"{dataset.size / 1e6:.1f}")
    console.print(table)
    for dataset in datasets:
        if dataset.problem:
            console.print(f"{dataset.dataset_id}: {dataset.problem}", markup=False, soft_wrap=True)


def _show(args: ShowArgs, console: Console) -> None:
    from dtag_fast.data import load_dataset
    from dtag_fast.data.histogram import save_histogram
    from dtag_fast.data.summary import summarize

    with _bar(console, f"converting {args.dataset}") as progress:
        store = load_dataset(args.dataset, progress=progress)
    title = Text(str(store.metadata.get("dataset_id")))  # a file's name may look like rich's markup
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in _facts(store.metadata, summarize(store)):
        table.add_row(name, Text(text))
    console.print(table)
    if args.png is not None:
        save_histogram(store, args.png)
        console.print(f"histograms: {args.png}", markup=False, soft_wrap=True)


def _facts(metadata: dict, summary) -> Iterator[tuple[str, str]]:
    from dtag_fast.data.scores import why_no_score
    from dtag_fast.data.summary import QUANTILES

    limit = metadata.get("max_episode_steps")
    environment = metadata.get("env_id") or "not recorded"
    yield "environment", environment + (f", at most {limit} steps" if limit else "")
    keys = metadata.get("observation_keys")
    yield "state", f"{summary.state_dim} numbers" + (f" ({' + '.join(keys)})" if keys else "")
    low, high, discrete = (
        metadata.get("action_low"),
        metadata.get("action_high"),
        DiscreteActions.of(metadata),
    )
    if discrete is not None:
        yield "action", f"one of {discrete.n}, numbered {discrete.start} to {discrete.last}: {discrete}"
    else:
        yield "action", f"{summary.action_dim} numbers" + (f" in {_bounds(low, high)}" if low else "")
    yield (
        "episodes",
        (
            f"{summary.episodes:,} ({summary.terminated:,} terminated, {summary.truncated:,} truncated, "
            f"{summary.episodes - summary.terminated - summary.truncated:,} neither)"
        ),
    )
    yield "steps", f"{summary.steps:,}"
    yield "size", f"{summary.size / 1e6:.1f} MB as float32 arrays"
    yield "return", f"{summary.return_mean:.1f} ± {summary.return_std:.1f}"
    marks = ["minimum", *(f"{100 * q:.0f} %" for q in QUANTILES[1:-1]), "maximum"]
    yield "return quantiles", _pairs(marks, summary.return_quantiles, ".1f")
    yield "length quantiles", _pairs(marks, summary.length_quantiles, ".0f")
    score = summary.score
    if score is None:
        yield "normalised score", f"none: {why_no_score(metadata)}"
    else:
        yield (
            "normalised score",
            (
                f"{score.score:.1f} (0 = {score.ref_min:g}, 100 = {score.ref_max:g}; "
                f"references: {score.source})"
            ),
        )
        if score.note:
            yield "", score.note
    for note in metadata.get("notes") or ():
        yield "note", note


def _bounds(low: list[float], high: list[float]) -> str:
    if len(set(low)) == len(set(high)) == 1:
        return f"[{low[0]:g}, {high[0]:g}]"
    return f"bounds per dimension, within [{min(low):g}, {max(high):g}]"


def _pairs(marks: list[str], values: Sequence[float], form: str) -> str:
    return ", ".join(f"{mark}: {value:{form}}" for mark, value in zip(marks, values, strict=True))


def _make(args: MakeArgs, console: Console) -> None:
    make = _random if args.recipe == "random" else _pointmaze
    _expect_options_of_recipe(args)
    with _bar(console, f"collecting {args.recipe}") as progress:
        dataset_id = make(args, progress)
    console.print(f"{dataset_id} under {catalog.minari_root()}", markup=False, soft_wrap=True)


def _expect_options_of_recipe(args: MakeArgs) -> None:
    if args.recipe == "random":
        if args.env is None:
            raise ValueError("--env: random needs the environment to play in, got none; as --env Hopper-v5")
        return
    for name in ("env", "max_episode_steps", "observation_keys"):
        if getattr(args, name) not in (None, ()):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option}: {args.recipe} has its own environment; leave it out, or make random")


def _pointmaze(args: MakeArgs, progress: Callable[[int, int], None]) -> str:
    from dtag_fast.data.pointmaze import make_pointmaze

    size = args.recipe.removeprefix("pointmaze-")
    return make_pointmaze(size, args.steps, args.seed, args.id, progress)


def _random(args: MakeArgs, progress: Callable[[int, int], None]) -> str:
    from dtag_fast.data.random_policy import make_random

    return make_random(
        args.env,
        args.steps,
        args.seed,
        args.id,
        max_episode_steps=args.max_episode_steps,
        observation_keys=args.observation_keys or None,
        progress=progress,
    )


def _import(args: ImportArgs, console: Console) -> None:
    from dtag_fast.data.importing import combine, import_files

    if bool(args.files) == bool(args.combine):
        given = "both" if args.files else "neither"
        raise ValueError(f"FILE, --combine: expected files or ids of datasets to combine, got {given}")
    if args.combine and args.env:
        raise ValueError("--env: datasets to combine bring their own environment; leave it out")
    with _bar(console, f"importing {args.id}") as progress:
        if args.combine:
            combine(args.combine, args.id, progress)
            notes = []
        else:
            notes = import_files(args.files, args.id, args.env, progress)
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"{args.id} under {catalog.minari_root()}", markup=False, soft_wrap=True)


def _download(args: DownloadArgs, console: Console) -> None:
    from dtag_fast.data.download import download

    download(args.dataset)
    console.print(f"{args.dataset} under {catalog.minari_root()}", markup=False, soft_wrap=True)


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr that is fed (done, total) and leaves nothing behind; silent off a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    err = Console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
