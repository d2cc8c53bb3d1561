"""Runs a suite (suites.py) in a folder: seed by seed, resumable, never over what something else made."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.result_folder import refuse_other, write_findings
from dtag_fast.experiments.reuse import Found, Pieces, code_fingerprint
from dtag_fast.experiments.suites import Suite
from dtag_fast.experiments.tables import Table
from dtag_fast.experiments.threads import one_thread
from dtag_fast.training.files import read_json, write_json


@dataclass(frozen=True)
class Plan:
    """What a folder holds of a suite, and what is missing.

    Attributes:
        finished: seeds an earlier call has run, those beyond what is asked for too. missing: seeds to run.
    """

    finished: list[int]
    missing: list[int]

    @property
    def seeds(self) -> list[int]:
        """All that the results will be of."""
        return sorted(self.finished + self.missing)


@dataclass(frozen=True)
class Report:
    """What `run_suite` made.

    Attributes:
        plan: as it was before. tables: name -> Table. claims: what must hold. files: everything written.
    """

    plan: Plan
    tables: dict[str, Table]
    claims: list[Claim]
    files: list[Path]


def plan_suite(name: str, suite: Suite, seeds: int, out: Path) -> Plan:
    """Look which of the seeds 0 .. seeds - 1 are not finished in `out`; writes nothing.

    Raises:
        ValueError: seeds is not positive, or `out` holds something that this suite with these settings and
            this code did not make.
    """
    if seeds < 1:
        raise ValueError(f"seeds: expected a positive number, got {seeds}")
    refuse_other(name, out, (out / "recipes").is_dir())
    pieces, plan = Pieces(out), Plan([], [])
    for seed in sorted({*range(seeds), *_begun_seeds(out)}):
        found, difference = pieces.look(_piece(seed), _recipe(name, suite, seed))
        if found is Found.OTHER:
            raise ValueError(
                f"out: {out} was made with another {difference}; take another folder or move it away"
            )
        if found is Found.FINISHED:
            plan.finished.append(seed)
        elif seed < seeds:
            plan.missing.append(seed)
    return plan


def run_suite(
    name: str,
    suite: Suite,
    seeds: int,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Run what is missing of a suite and write results.json, tables/ and figures/ under `out`.

    They are of every seed that is finished in `out`, so that asking for fewer seeds loses none.

    Args:
        name: of the suite, noted in the results. seeds: 0 .. seeds - 1 are run.
        progress: called with (seeds finished, seeds in all).

    Raises:
        ValueError: as plan_suite.
    """
    plan, pieces = plan_suite(name, suite, seeds, out), Pieces(out)
    recipes = {seed: _recipe(name, suite, seed) for seed in plan.missing}  # of the code that is loaded
    progress(len(plan.finished), len(plan.seeds))
    for done, (seed, recipe) in enumerate(recipes.items(), start=len(plan.finished) + 1):
        path = pieces.begin(_piece(seed), recipe)
        with one_thread():
            result = suite.run(seed, suite.config)
        write_json(path, result)
        pieces.finish(_piece(seed), recipe)
        progress(done, len(plan.seeds))
    results = [read_json(pieces.path(_piece(seed))) for seed in plan.seeds]
    tables, claims = suite.tables(results), suite.claims(results)
    summary = _summary(name, suite, results, claims)
    return Report(plan, tables, claims, write_findings(out, summary, tables, suite.draw(results)))


def _summary(name: str, suite: Suite, results: list[dict], claims: list[Claim]) -> dict[str, Any]:
    """What results.json holds beside tables and figures."""
    return {
        "suite": name,
        "source": suite.source,
        "config": asdict(suite.config),
        "versions": {"torch": torch.__version__},
        "claims": [asdict(claim) for claim in claims],
        "seeds": results,
    }


def _begun_seeds(out: Path) -> list[int]:
    """The seeds of which `out` has a recipe."""
    # Older versions wrote seed-0.json.json (see `reuse`).
    names = (re.fullmatch(r"seed-(\d+)(\.json)?", file.stem) for file in (out / "recipes").glob("*.json"))
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
