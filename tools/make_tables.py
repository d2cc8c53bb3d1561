"""Writes the tables of README.md and docs/*.md from result files, so that no number is typed by hand.

    python -m tools.make_tables            rewrite what stands between the marks
    python -m tools.make_tables --check    only say which tables are out of date; exit code 1 if any is

Marks (tools/tables.py has the names):
    <!-- table:evaluation docs/results/a.json docs/results/b.json -->
    <!-- /table:evaluation -->
"""

import argparse
import re
import sys
from pathlib import Path

from .tables import DEFAULT_FILES, TABLES

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table:(\w+)((?: [^ \n]+)*) -->\n)(.*?)(<!-- /table:\2 -->)", re.DOTALL)
OPENING = re.compile(r"<!-- table:")


def filled(text: str, root: Path) -> str:
    """`text` with every table made anew.

    Raises:
        ValueError: an unknown name, a file that is missing, a mark without its end.
    """

    def fill(match: re.Match) -> str:
        opening, name, words, _, closing = match.groups()
        if name not in TABLES:
            raise ValueError(f"table:{name}: expected one of {', '.join(TABLES)}")
        arguments = [argument(word, root) for word in words.split() or DEFAULT_FILES.get(name, ())]
        if not arguments:
            raise ValueError(f"table:{name}: expected a result file after the name")
        for file in arguments:
            if isinstance(file, Path) and not file.exists():
                raise ValueError(f"table:{name}: no file {file.relative_to(root)}")
        return f"{opening}\n{TABLES[name](*arguments)}\n\n{closing}"

    result, count = BLOCK.subn(fill, text)
    if count != len(OPENING.findall(text)):
        raise ValueError("a <!-- table:NAME --> mark has no <!-- /table:NAME --> after it")
    return result


def argument(word: str, root: Path) -> Path | str:
    return root / word if word.endswith(".json") else word


def documents(root: Path) -> list[Path]:
    return [file for file in (root / "README.md", *sorted((root / "docs").rglob("*.md"))) if file.exists()]


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail if anything would change")
    check = parser.parse_args(argv).check
    failed = False
    for file in documents(root):
        text = file.read_text()
        try:
            made = filled(text, root)
        except ValueError as error:
            print(f"{file.relative_to(root)}: {error}", file=sys.stderr)
            failed = True
            continue
        if made == text:
            continue
        if check:
            print(f"{file.relative_to(root)}: out of date: python -m tools.make_tables", file=sys.stderr)
            failed = True
        else:
            file.write_text(made)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
