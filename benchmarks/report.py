"""Prints what a benchmark run measured as a table of times and ratios, and can keep it for the docs.

pytest benchmarks --benchmark-only --benchmark-json build/benchmark.json
python -m benchmarks.report build/benchmark.json [more.json ...] [--save benchmarks/results [--part NAME]]
"""

import argparse
import json
import re
from pathlib import Path

from . import machine as machines
from . import roofline

FORMAT = 1
Rows = list[tuple[str, dict]]


def duration(seconds: float) -> str:
    """Three significant digits in the unit that suits: 38.2 us, 1.71 ms."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError("unreachable")


def table(rows: Rows) -> str:
    """A Markdown table: a line per variant with its median, quartiles and ratio to the reference.

    Args:
        rows: (name, extra_info): extra_info["variants"] is what `interleave.measure` returns, and
            extra_info["reference"] the key in it that the others are compared with.
    """
    lines = ["| benchmark | variant | median | quartiles | ratio |", "| --- | --- | ---: | ---: | ---: |"]
    for name, info in rows:
        base = info["variants"][info["reference"]]["median"]
        for variant, time in info["variants"].items():
            quartiles = f"{duration(time['q25'])} to {duration(time['q75'])}"
            ratio = f"{time['median'] / base:.3g}x"
            lines.append(f"| {name} | {variant} | {duration(time['median'])} | {quartiles} | {ratio} |")
            name = ""
    return "\n".join(lines)


def device_table(rows: Rows) -> str:
    """A Markdown table of the times on a GPU, back to back, beside the peak of the precision; "" without any.

    Args:
        rows: as for `table`; those count that have extra_info["device"], what test_refine_gpu.py measures.
    """
    lines = ["| benchmark | variant | on the device | quartiles | precision | of peak |"]
    lines.append("| --- | --- | ---: | ---: | --- | ---: |")
    for name, info in rows:
        for variant, time in info.get("device", {}).items():
            precision = info["precisions"][variant]
            share = None
            if "flops" in info:
                share = roofline.fraction(info["flops"], time["median"], info.get("device_name"), precision)
            quartiles = f"{duration(time['q25'])} to {duration(time['q75'])}"
            of_peak = "" if share is None else f"{100 * share:.2g} %"
            median = duration(time["median"])
            lines.append(f"| {name} | {variant} | {median} | {quartiles} | {precision} | {of_peak} |")
            name = ""
    return "\n".join(lines) if len(lines) > 2 else ""


def read(files: list[Path]) -> dict | None:
    """pytest-benchmark's results of one machine, from one or several files; None when none holds any.

    A run that was cut off or skipped every row leaves an empty file, half a file or none.
    """
    whole = []
    for file in files:
        try:
            whole.append(json.loads(file.read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
    if not whole:
        return None
    return {**whole[0], "benchmarks": [entry for data in whole for entry in data["benchmarks"]]}


def condense(data: dict) -> dict:
    """What is kept of pytest-benchmark's JSON: the machine, the commit and the times."""
    return {
        "format": FORMAT,
        "date": data["datetime"][:10],
        "commit": data["commit_info"].get("id"),
        "machine": data["machine_info"]["dtag_fast"],
        "benchmarks": [
            {
                "name": entry["name"].removeprefix("test_"),
                "median": entry["stats"]["median"],
                "rounds": entry["stats"]["rounds"],
                "info": entry["extra_info"],
            }
            for entry in data["benchmarks"]
        ],
    }


def interleaved(result: dict) -> Rows:
    return [(entry["name"], entry["info"]) for entry in result["benchmarks"] if "variants" in entry["info"]]


def file_name(result: dict, part: str = "") -> str:
    """By machine, date and, for a run of some benchmarks alone, their name."""
    slug = re.sub(r"[^a-z0-9]+", "-", machines.name(result["machine"]).lower()).strip("-")
    return f"{slug}-{result['date']}{part and f'-{part}'}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="+", help="file written by pytest --benchmark-json")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="keep the result in DIR, named by machine and date"
    )
    parser.add_argument(
        "--part", default="", metavar="NAME", help="name of some benchmarks, part of the file's"
    )
    arguments = parser.parse_args()
    data = read(arguments.json)
    if data is None:
        parser.error(f"no results in {', '.join(map(str, arguments.json))}")
    result = condense(data)
    versions = ", ".join(f"{name} {v}" for name, v in result["machine"]["versions"].items() if v)
    print(f"{machines.name(result['machine'])}; {versions}; {result['date']}\n")
    print(table(interleaved(result)))
    if text := device_table(interleaved(result)):
        print(f"\n{text}")
    for name, info in interleaved(result):
        for variant, reason in info.get("left_out", {}).items():
            print(f"{name}: {variant} left out: {reason}")
    others = [entry for entry in result["benchmarks"] if "variants" not in entry["info"]]
    if others:
        print()
    for entry in others:
        print(f"{entry['name']}: {duration(entry['median'])}")
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
        kept = arguments.save / file_name(result, arguments.part)
        kept.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nkept as {kept}")


if __name__ == "__main__":
    main()
