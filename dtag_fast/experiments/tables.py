"""A small table of text, written as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dtag_fast.training.files import write_text

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<=": r"$\leq$",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "|": r"\textbar{}",
    "<": r"$<$",
    ">": r"$>$",
}


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    Attributes:
        header: (C,) names. rows: C cells each. text_columns: how many from the left are text; the others are
        numbers and stand to the right. note: a sentence below.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    note: str = ""

    SUFFIXES: ClassVar[tuple[str, ...]] = (".md", ".csv", ".tex")

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.header):
                raise ValueError(
                    f"rows: expected {len(self.header)} cells as the header has, row {number} has {len(row)}"
                )

    def markdown(self) -> str:
        rule = ["---" if i < self.text_columns else "---:" for i in range(len(self.header))]
        # A bar inside a cell, as in |a|, would end it.
        cells = ([cell.replace("|", "\\|") for cell in row] for row in (self.header, rule, *self.rows))
        text = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        return f"{text}\n\n{self.note}" if self.note else text

    def csv(self) -> str:
        """The header and the rows; without the note."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((self.header, *self.rows))
        return text.getvalue().rstrip("\n")

    def latex(self) -> str:
        """A tabular for the package booktabs, under the note as a comment."""
        text_columns = min(self.text_columns, len(self.header))
        columns = "l" * text_columns + "r" * (len(self.header) - text_columns)
        header, *rows = (" & ".join(map(_escaped, row)) + r" \\" for row in (self.header, *self.rows))
        lines = [f"% {self.note}"] if self.note else []
        lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *rows]
        return "\n".join((*lines, r"\bottomrule", r"\end{tabular}"))

    def save(self, path: Path) -> list[Path]:
        """Write `path`.md, `path`.csv and `path`.tex; returns them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = (self.markdown(), self.csv(), self.latex())
        files = [path.with_suffix(suffix) for suffix in self.SUFFIXES]
        for file, text in zip(files, texts, strict=True):
            write_text(file, text + "\n")
        return files


def _escaped(text: str) -> str:
    found, i = "", 0
    while i < len(text):
        sign = text[i : i + 2] if text[i : i + 2] in _LATEX else text[i]
        found += _LATEX.get(sign, sign)
        i += len(sign)
    return found
