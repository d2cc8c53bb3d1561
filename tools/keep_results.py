"""Keeps what suites of `dtag reproduce` found: their results.json and figures, for docs/results.md.

    python -m tools.keep_results gym maze2d ...    copies results/SUITE to docs/results/reproduction

Then `python -m tools.make_tables` writes the tables.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def keep(folder: Path, kept: Path) -> list[Path]:
    """Copy a suite's results and PNG figures; returns the copies. Of what each seed of a suite of seeds gave
    only the seeds are kept: its tables are there, and the rest is made in minutes.

    Args:
        folder: of the suite, named as it is. kept: where copies go.

    Raises:
        FileNotFoundError: there are no results. ValueError: numbers are missing.
    """
    results = folder / "results.json"
    if not results.is_file():
        raise FileNotFoundError(f"{results}: expected the results of a suite; run `dtag reproduce` first")
    found = json.loads(results.read_text())
    if missing := len(found.get("missing", ())):
        are = "number is" if missing == 1 else "numbers are"
        raise ValueError(f"{results}: {missing} {are} missing; run `dtag reproduce {folder.name}` again")
    copies = {}
    for figure in sorted((folder / "figures").glob("*.png")):
        copies[figure] = kept / f"{folder.name}-{figure.name}"
    kept.mkdir(parents=True, exist_ok=True)
    for source, target in copies.items():
        shutil.copyfile(source, target)
    if seeds := found.pop("seeds", None):
        found["training_seeds"] = [each["seed"] for each in seeds]
    summary = kept / f"{folder.name}.json"
    summary.write_text(json.dumps(found, indent=1) + "\n")
    return [summary, *copies.values()]


def main(argv: Sequence[str]) -> int:
    """Keep the results of the suites that are named; the exit code is 2 where one was not run."""
    parser = argparse.ArgumentParser(prog="python -m tools.keep_results", description=__doc__)
    parser.add_argument("suites", nargs="+", metavar="SUITE")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    args = parser.parse_args(argv)
    for suite in args.suites:
        try:
            files = keep(args.results / suite, ROOT / "docs/results/reproduction")
        except (FileNotFoundError, ValueError) as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
        for file in files:
            print(file.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
