"""Does pieces of work on an executor, those that are missing, in an order in which all they need is there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from dtag_fast.executors.choice import Executor
from dtag_fast.experiments.reproduction.work import Shelf, Work, in_order, plain
from dtag_fast.experiments.reuse import Found, Pieces, code_fingerprint
from dtag_fast.experiments.threads import one_thread


@dataclass(frozen=True)
class Plan:
    """What a suite needs and what of it is there.

    Attributes:
        waves: all pieces; what a wave needs is in those before it. missing: to be made. older: kept though
            other code or another PyTorch made them.
    """

    waves: list[list[Work]]
    missing: frozenset[Work]
    older: frozenset[Work]

    @property
    def seconds(self) -> float:
        """About what the missing pieces take on one core."""
        return sum(work.seconds for work in self.missing)

    def kinds(self) -> dict[str, tuple[int, int, float]]:
        """Folder of each kind -> pieces in all, missing ones, seconds of these."""
        found: dict[str, tuple[int, int, float]] = {}
        for work in (work for wave in self.waves for work in wave):
            pieces, missing, seconds = found.get(work.folder, (0, 0, 0.0))
            if work in self.missing:
                missing, seconds = missing + 1, seconds + work.seconds
            found[work.folder] = (pieces + 1, missing, seconds)
        return found


def make_plan(goals: Sequence[Work], root: Path, keep_older: bool) -> Plan:
    """Look what of `goals` and of all they need is not there; writes nothing.

    A piece whose need is made anew is made anew as well.

    Args:
        keep_older: finished pieces of other code or another PyTorch count as they are.

    Raises:
        ValueError: there are such pieces and they are not to be kept, or something else stands in a place.
    """
    pieces, waves = Pieces(root), in_order(list(goals))
    missing, older = set(), set()
    for work in (work for wave in waves for work in wave):
        found, difference = pieces.look(work.name, recipe(work))
        if found is Found.OTHER and pieces.is_finished(work.name):
            if not keep_older:
                raise ValueError(
                    f"resume: {root / work.name} was made with another {difference}; --resume keeps it and "
                    "what else is there, --runs takes another folder"
                )
            older.add(work)
        elif found is not Found.FINISHED:
            missing.add(work)
        if any(need in missing for need in work.needs):
            missing.add(work)
            older.discard(work)
    return Plan(waves, frozenset(missing), frozenset(older))


def recipe(work: Work) -> dict:
    """What a piece is made from, as its record says."""
    return {"work": plain(work), "code": _code(work.code), "torch": torch.__version__}


@cache
def _code(packages: tuple[str, ...]) -> str:
    return code_fingerprint(*packages)


@dataclass(frozen=True)
class WorkJob:
    """A piece of work as an executor runs it. `keep`: an interrupted call of the same recipe began it."""

    work: Work
    root: Path
    recipe: dict
    keep: bool

    @property
    def units(self) -> int:
        """Estimated seconds."""
        return max(1, round(self.work.seconds))

    def run(self, progress: Callable[[int], None]) -> float:
        """Make it; the seconds that this took."""
        reported, began, pieces = 0, time.perf_counter(), Pieces(self.root)

        def report(share: float) -> None:
            nonlocal reported
            if (now := int(share * self.units)) > reported:
                progress(now - reported)
                reported = now

        path = pieces.begin(self.work.name, self.recipe, keep=self.keep)
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_thread():
            self.work.do(path, Shelf(self.root), report)
        seconds = time.perf_counter() - began
        pieces.finish(self.work.name, self.recipe, seconds=round(seconds, 2))
        return seconds


def run(
    plan: Plan, root: Path, crew: Executor, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Make what is missing.

    Args:
        crew: an executor that was entered. progress: called with estimated seconds, done and in all.

    Returns:
        A sentence for every piece that could not be made; what needs it was not tried.
    """
    pieces, failed, sentences = Pieces(root), set(), []
    total = sum(max(1, round(work.seconds)) for work in plan.missing)
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done = min(done + more, total)  # a piece that is made twice counts twice
        progress(done, total)

    progress(0, max(total, 1))
    _forget_outdated(plan, pieces)
    for wave in plan.waves:
        jobs = []
        for work in (work for work in wave if work in plan.missing):
            if any(need in failed for need in work.needs):
                failed.add(work)
                continue
            wanted = recipe(work)
            begun = pieces.look(work.name, wanted)[0] is Found.BEGUN
            jobs.append(WorkJob(work, root, wanted, keep=begun))
        jobs.sort(key=lambda job: -job.units)  # the longest first, so that all workers end together
        for outcome in crew.run(jobs, report):
            if outcome.error is not None:
                failed.add(outcome.job.work)
                sentences.append(f"{outcome.job.work.name}: {outcome.error}")
    return sentences


def _forget_outdated(plan: Plan, pieces: Pieces) -> None:
    """Remove what was made from pieces that are made anew: were this process killed after them, the next one
    would take it for theirs."""
    for work in plan.missing:
        outdated = any(need in plan.missing for need in work.needs)
        if outdated and pieces.look(work.name, wanted := recipe(work))[0] is not Found.NOTHING:
            pieces.begin(work.name, wanted)
