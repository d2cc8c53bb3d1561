"""What the verbs show: a console that fits pipes as well, and a progress bar that only a terminal sees."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PIPE_WIDTH = 160  # columns when the output is a file or a pipe, so that lines stay whole


def make_console(quiet: bool = False) -> Console:
    """Console of standard output, or one that prints nothing."""
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=PIPE_WIDTH, highlight=False, quiet=quiet)


@contextmanager
def progress_bar(console: Console, text: str) -> Iterator[Callable[..., None]]:
    """A bar as a function `report(done, total, note="")`; nothing is drawn where the output is no
    terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield report


def load_with_progress(console: Console, dataset: str):
    """`data.load_dataset` with a bar."""
    from dtag_fast.data import load_dataset  # it takes torch, which --help does not need

    with progress_bar(console, f"reading {dataset}") as report:
        return load_dataset(dataset, progress=report)


def numbers(name: str, text: str, kind: type) -> list:
    """Comma-separated numbers of an option: "0,5,10" -> [0, 5, 10].

    Raises:
        ValueError: naming the option.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name}: expected {what} separated by commas, got {text!r}") from None


def expect_file(name: str, path: Path) -> None:
    """Refuse a file that cannot be written, before there is anything to lose.

    Raises:
        ValueError: naming the option.
    """
    if path.is_dir():
        raise ValueError(f"{name}: expected a file, got the folder {path}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"{name}: {path} cannot be written, as {folder} is no folder that may be written to")
