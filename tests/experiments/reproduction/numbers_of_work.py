"""Pieces of work that cost nothing: numbers in files, steps in folders, and a notebook of what was made."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dtag_fast.experiments.reproduction.work import Progress, Shelf, Work


@dataclass(frozen=True)
class Number(Work):
    """`value` and the numbers of all that it needs; appends its label to the file made.txt of the shelf.

    fails: "raises", or "dies once" or "dies" by a signal to its own process.
    """

    value: int
    needed: tuple["Number", ...] = ()
    fails: str = ""

    folder: ClassVar[str] = "numbers"
    code: ClassVar[tuple[str, ...]] = ("experiments/tables.py",)

    @property
    def label(self) -> str:
        return f"n{self.value}"

    @property
    def needs(self) -> tuple[Work, ...]:
        return self.needed

    @property
    def seconds(self) -> float:
        return 10.0 * self.value

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        with open(shelf.root / "made.txt", "a") as file:
            file.write(f"{self.label}\n")
        progress(0.5)
        if self.fails == "raises":
            raise ValueError(f"{self.label} cannot be made")
        died = shelf.root / "died"
        if self.fails == "dies" or (self.fails == "dies once" and not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        path.write_text(str(self.value + sum(int(shelf.path(need).read_text()) for need in self.needed)))
        progress(1.0)


@dataclass(frozen=True)
class Steps(Work):
    """A folder with a file of `count` steps, gone on with where it was left; appends "step N" to made.txt.

    dies: by a signal to its own process in the middle, once.
    """

    count: int
    dies: bool = False

    folder: ClassVar[str] = "steps"
    suffix: ClassVar[str] = ""
    code: ClassVar[tuple[str, ...]] = ("experiments/tables.py",)

    @property
    def label(self) -> str:
        return f"s{self.count}"

    @property
    def seconds(self) -> float:
        return 10.0 * self.count

    def do(self, path: Path, shelf: Shelf, progress: Progress) -> None:
        path.mkdir(exist_ok=True)
        file = path / "steps.txt"
        begun = len(file.read_text().split()) if file.exists() else 0
        for number in range(begun, self.count):
            if self.dies and not begun and number == self.count // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            for notebook, line in ((file, f"{number}\n"), (shelf.root / "made.txt", f"step-{number}\n")):
                with open(notebook, "a") as appended:
                    appended.write(line)
        progress(1.0)


def made(root: Path) -> list[str]:
    """Labels in the order in which they were made; the notebook begins anew."""
    file = root / "made.txt"
    found = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return found
