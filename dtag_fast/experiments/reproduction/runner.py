"""Does pieces of work on an executor, those that are missing, in an order in which all they need is there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dtag_fast.data.cache import dataset_fingerprint
from dtag_fast.executors.choice import Executor
from dtag_fast.experiments.reproduction.work import Shelf, Work, in_order, plain
from dtag_fast.experiments.reuse import Found, Pieces, code_fingerprint
from dtag_fast.experiments.threads import one_thread


@dataclass(frozen=True)
class Plan:
    """What a suite needs and what of it is there.

    Attributes:
        waves: all pieces; what a wave needs is in those before it. missing: to be made.
        older: kept, or gone on with, though other code or another PyTorch made or began them.
        keep_older: whether there may be such pieces.
    """

    waves: list[list[Work]]
    missing: frozenset[Work]
    older: frozenset[Work]
    keep_older: bool

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
        keep_older: pieces of other code or another PyTorch count as they are, finished or begun.

    Raises:
        ValueError: there are such pieces and they are not to be kept, some are of other data, or something
            else stands in a place.
    """
    pieces, waves = Pieces(root), in_order(list(goals))
    missing, older = set(), set()
    for work in (work for wave in waves for work in wave):
        found = look(work, pieces, recipe(work), keep_older)
        if found.older:
            older.add(work)
        if not found.finished:
            missing.add(work)
        if any(need in missing for need in work.needs):
            missing.add(work)
            older.discard(work)
    return Plan(waves, frozenset(missing), frozenset(older), keep_older)


class Standing(NamedTuple):
    """How far a piece is. `older`: other code or another PyTorch made or began it."""

    finished: bool
    begun: bool
    older: bool = False


def look(work: Work, pieces: Pieces, wanted: dict[str, Any], keep_older: bool) -> Standing:
    """What is there of a piece that is worth keeping; of those of other code that were begun, folders alone
    are: nothing goes on with a file.

    Args:
        wanted: its recipe. keep_older: as for `make_plan`.

    Raises:
        ValueError: as `make_plan`.
    """
    found, difference = pieces.look(work.name, wanted)
    if found is Found.OTHER and "data" in wanted:
        was_of = pieces.record(work.name)["recipe"].get("data")
        if was_of is None:  # made by a version that did not note its data
            without = {key: value for key, value in wanted.items() if key != "data"}
            found, difference = pieces.look(work.name, without)
        else:
            _refuse_other_data(pieces.path(work.name), was_of, wanted["data"])
    if found is not Found.OTHER:
        return Standing(found is Found.FINISHED, found is Found.BEGUN)
    place, finished = pieces.path(work.name), pieces.is_finished(work.name)
    if not finished and not place.is_dir():
        return Standing(finished=False, begun=False)
    if not keep_older:
        was, keeps = ("made", "keeps it") if finished else ("begun", "goes on with it")
        raise ValueError(
            f"resume: {place} was {was} with another {difference}; --resume {keeps} and keeps what else is "
            "there, --runs takes another folder"
        )
    return Standing(finished, not finished, older=True)


def _refuse_other_data(place: Path, was_of: dict[str, str], now: dict[str, str]) -> None:
    for origin, fingerprint in now.items():
        if was_of.get(origin, fingerprint) != fingerprint:
            raise ValueError(
                f"resume: {place} is of other data than {origin} is now; --runs takes another folder"
            )


def recipe(work: Work) -> dict:
    """What a piece is made from, as its record says."""
    made_from = {"work": plain(work), "code": _code(work.code), "torch": torch.__version__}
    if work.origins:
        made_from["data"] = {origin: dataset_fingerprint(origin) for origin in sorted(work.origins)}
    return made_from


@cache
def _code(packages: tuple[str, ...]) -> str:
    return code_fingerprint(*packages)


@dataclass(frozen=True)
class WorkJob:
    """A piece of work as an executor runs it; whoever else makes the piece meanwhile is waited for.

    Attributes:
        keep_older: as for `make_plan`.
    """

    work: Work
    root: Path
    recipe: dict
    keep_older: bool

    @property
    def units(self) -> int:
        """Estimated seconds."""
        return max(1, round(self.work.seconds))

    def run(self, progress: Callable[[int], None]) -> None:
        """Make it, or go on with it, unless it is finished by now.

        Raises:
            ValueError: other code has made or begun it meanwhile and it is not to be kept.
        """
        pieces = Pieces(self.root)
        with pieces.lock(self.work.name):
            found = look(self.work, pieces, self.recipe, self.keep_older)
            if found.finished:
                progress(self.units)
                return
            made_from = self.recipe
            if found.older:
                made_from = gone_on_with(pieces.record(self.work.name)["recipe"], self.recipe)
            self._make(pieces, made_from, found.begun, progress)

    def _make(self, pieces: Pieces, made_from: dict, begun: bool, progress: Callable[[int], None]) -> None:
        reported, began = 0, time.perf_counter()

        def report(share: float) -> None:
            nonlocal reported
            if (now := int(share * self.units)) > reported:
                progress(now - reported)
                reported = now

        path = pieces.begin(self.work.name, made_from, keep=begun)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with one_thread():
                self.work.do(path, Shelf(self.root), report)
        except ValueError as error:
            if not begun:
                raise
            raise ValueError(f"{error}; it was begun before, remove {path} to have it made anew") from error
        pieces.finish(self.work.name, made_from, seconds=round(time.perf_counter() - began, 2))


def gone_on_with(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a piece that one began and another goes on with: code and PyTorch that differ are both
    named, so that the piece counts as neither's."""
    mixed = dict(now)
    for key in ("code", "torch"):
        was, ending = str(before.get(key)), f", then {now[key]}"
        mixed[key] = was if was == now[key] or was.endswith(ending) else was + ending
    return mixed


def run(
    plan: Plan, root: Path, crew: Executor, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Make what is missing.

    Args:
        crew: an executor that was entered. progress: called with estimated seconds, done and in all.

    Returns:
        A sentence for every piece that could not be made; what needs it was not tried.
    """
    failed, sentences = set(), []
    total = sum(max(1, round(work.seconds)) for work in plan.missing)
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done = min(done + more, total)  # a piece that is made twice counts twice
        progress(done, total)

    progress(0, max(total, 1))
    _forget_outdated(plan, Pieces(root))
    for wave in plan.waves:
        jobs = []
        for work in (work for work in wave if work in plan.missing):
            if any(need in failed for need in work.needs):
                failed.add(work)
                continue
            jobs.append(WorkJob(work, root, recipe(work), plan.keep_older))
        jobs.sort(key=lambda job: -job.units)  # the longest first, so that all workers end together
        for outcome in crew.run(jobs, report):
            if outcome.error is not None:
                failed.add(outcome.job.work)
                sentences.append(f"{outcome.job.work.name}: {outcome.error}")
    return sentences


def _forget_outdated(plan: Plan, pieces: Pieces) -> None:
    """Remove what was made from pieces that are made anew: were this process killed after them, the next one
    would take it for theirs. What another process makes, or has made since the plan, is from the new ones."""
    for work in (work for wave in plan.waves for work in wave if work in plan.missing):
        renewed = [need for need in work.needs if need in plan.missing]
        wanted = recipe(work)
        if not renewed or pieces.look(work.name, wanted)[0] is Found.NOTHING:
            continue
        with pieces.lock(work.name, wait=False) as held:
            if held and not all(pieces.is_finished(need.name) for need in renewed):
                pieces.begin(work.name, wanted)
