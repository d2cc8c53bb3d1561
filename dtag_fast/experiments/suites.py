"""The suites of `dtag reproduce`: what is run for each seed, what must come out, tables and figures.

A suite is one entry of SUITES. Its seeds are independent pieces that are kept in a folder: what is finished
is used again, what another suite, other settings or other code made is never overwritten.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dtag_fast.experiments import (
    return_regret_figures,
    return_regret_report,
    single_state_figures,
    single_state_report,
    toy_report,
)
from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.return_regret import ReturnRegretConfig, run_return_regret
from dtag_fast.experiments.reuse import Found, Pieces, code_fingerprint
from dtag_fast.experiments.single_state import SingleStateConfig, run_single_state
from dtag_fast.experiments.tables import Table
from dtag_fast.experiments.toy import ToyConfig
from dtag_fast.training.files import read_json, write_json

RESULTS = "results.json"


@dataclass(frozen=True)
class Suite:
    """What a name stands for. All functions take results as a JSON file gives them back.

    Attributes:
        title: one line. source: paper and section.
        config: frozen dataclass of the settings. seeds: how many by default.
        seconds: about what one seed takes on one core.
        code: folders and files of the package on which the numbers depend.
        run: (seed, config) -> result of a seed, a dict of JSON values.
        tables: results of all seeds -> name -> Table.
        claims: results of all seeds -> what must hold, and whether it does.
        draw: results of all seeds -> name -> matplotlib figure.
    """

    title: str
    source: str
    config: Any
    seeds: int
    seconds: float
    code: tuple[str, ...]
    run: Callable[[int, Any], dict]
    tables: Callable[[list[dict]], dict[str, Table]]
    claims: Callable[[list[dict]], list[Claim]]
    draw: Callable[[list[dict]], dict[str, Any]]


SUITES: dict[str, Suite] = {
    "single-state": Suite(
        title="one state: DDPG, ODT and ODT + DDPG from data far from the peak",
        source="TD3+ODT, arXiv 2410.24108, section 3.1 and appendix F",
        config=SingleStateConfig(),
        seeds=10,
        seconds=9,
        code=("experiments/single_state.py",),
        run=run_single_state,
        tables=single_state_report.tables,
        claims=single_state_report.claims,
        draw=single_state_figures.draw,
    ),
    "regret": Suite(
        title="what asking for a return beyond the data costs, in MDPs where all is known",
        source="TD3+ODT, arXiv 2410.24108, section 3.3 and appendix E",
        config=ReturnRegretConfig(),
        seeds=10,
        seconds=14,
        code=("experiments/return_regret.py", "experiments/layered_mdp.py", "models", "ops"),
        run=run_return_regret,
        tables=return_regret_report.tables,
        claims=return_regret_report.claims,
        draw=return_regret_figures.draw,
    ),
    "toy": Suite(
        title="reward 1 - a^2, data only where |a| > 0.5: imitation and Action Gradient",
        source="Action Gradient, arXiv 2510.05285, toy experiment",
        config=ToyConfig(),
        seeds=5,
        seconds=5,
        code=("experiments/toy.py", "models", "ops", "data"),
        run=toy_report.run,
        tables=toy_report.tables,
        claims=toy_report.claims,
        draw=toy_report.draw,
    ),
}


@dataclass(frozen=True)
class Report:
    """What `run_suite` made.

    Attributes:
        tables: name -> Table. claims: what must hold. files: everything written.
        made, reused: seeds that were run now, and that an earlier call had finished.
    """

    tables: dict[str, Table]
    claims: list[Claim]
    files: list[Path]
    made: list[int]
    reused: list[int]


def find_suite(name: str) -> Suite:
    """The suite of a name.

    Raises:
        ValueError: there is none; the sentence lists all.
    """
    if name not in SUITES:
        raise ValueError(f"suite: expected one of {', '.join(SUITES)}, got {name!r}")
    return SUITES[name]


def missing_seeds(name: str, suite: Suite, seeds: int, out: Path) -> list[int]:
    """Which of the seeds 0 .. seeds - 1 are not finished in `out`; writes nothing.

    Raises:
        ValueError: seeds is not positive, or `out` holds something that this suite with these settings and
            this code did not make.
    """
    if seeds < 1:
        raise ValueError(f"seeds: expected a positive number, got {seeds}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, {out} is a file")
    if out.is_dir() and any(out.iterdir()) and not (out / "recipes").is_dir():
        raise ValueError(f"out: {out} holds files of something else; take another folder or move them away")
    if (out / RESULTS).is_file() and read_json(out / RESULTS).get("suite") != name:
        raise ValueError(
            f"out: {out / RESULTS} is not of the suite {name}; take another folder or move it away"
        )
    pieces, missing = Pieces(out), []
    # Seeds beyond those asked for count too: tables of other settings may be theirs.
    for seed in sorted({*range(seeds), *_kept_seeds(out)}):
        found, difference = pieces.look(_piece(seed), _recipe(name, suite, seed))
        if found is Found.OTHER:
            raise ValueError(
                f"out: {out} was made with another {difference}; take another folder or move it away"
            )
        if found is not Found.FINISHED and seed < seeds:
            missing.append(seed)
    return missing


def run_suite(
    name: str,
    suite: Suite,
    seeds: int,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Run what is missing of a suite and write results.json, tables/ and figures/ under `out`.

    Args:
        name: of the suite, noted in the results. seeds: 0 .. seeds - 1 are run.
        progress: called with (seeds finished, seeds in all).

    Raises:
        ValueError: as missing_seeds.
    """
    missing, pieces = missing_seeds(name, suite, seeds, out), Pieces(out)
    progress(seeds - len(missing), seeds)
    for done, seed in enumerate(missing, start=seeds - len(missing) + 1):
        recipe = _recipe(name, suite, seed)
        path = pieces.begin(_piece(seed), recipe)
        write_json(path, suite.run(seed, suite.config))
        pieces.finish(_piece(seed), recipe)
        progress(done, seeds)
    results = [read_json(pieces.path(_piece(seed))) for seed in range(seeds)]
    tables, claims = suite.tables(results), suite.claims(results)
    write_json(out / RESULTS, summary(name, suite, results, claims))
    files = [out / RESULTS]
    for key, table in tables.items():
        files += table.save(out / "tables" / key)
    from dtag_fast.experiments import plots

    for key, figure in suite.draw(results).items():
        files += plots.save(figure, out / "figures" / key)
    return Report(tables, claims, files, missing, [s for s in range(seeds) if s not in missing])


def summary(name: str, suite: Suite, results: list[dict], claims: list[Claim]) -> dict[str, Any]:
    """What results.json holds."""
    return {
        "suite": name,
        "source": suite.source,
        "config": asdict(suite.config),
        "versions": {"torch": torch.__version__},
        "claims": [asdict(claim) for claim in claims],
        "seeds": results,
    }


def _kept_seeds(out: Path) -> list[int]:
    """The seeds of which `out` has a recipe."""
    names = (re.fullmatch(r"seed-(\d+)\.json", file.stem) for file in (out / "recipes").glob("*.json"))
    return [int(name[1]) for name in names if name]


def _piece(seed: int) -> str:
    return f"seed-{seed}.json"


def _recipe(name: str, suite: Suite, seed: int) -> dict[str, Any]:
    return {
        "suite": name,
        "seed": seed,
        "config": asdict(suite.config),
        "code": code_fingerprint(*suite.code),
        "torch": torch.__version__,
    }
