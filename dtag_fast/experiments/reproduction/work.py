"""Pieces of work: what each is made from decides its name, so that suites share what they have in common."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

Progress = Callable[[float], None]  # share of the work that is done, from 0 to 1


@dataclass(frozen=True)
class Work(ABC):
    """A dataset, a training, an evaluation: a frozen dataclass whose fields decide what comes out.

    Attributes:
        folder: where pieces of this kind lie. suffix: ".json" for a single file, "" for a folder.
        code: folders and files of the package on which the result depends.
    """

    folder: ClassVar[str]
    suffix: ClassVar[str] = ".json"
    code: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def label(self) -> str:
        """Readable beginning of its name, of letters, digits, - and _."""

    @property
    def needs(self) -> tuple["Work", ...]:
        """What has to be there before."""
        return ()

    @property
    def origins(self) -> frozenset[str]:
        """What `load_dataset` takes of the data that it is made from and that no piece of work made, its own
        and those of what it needs."""
        return frozenset().union(*(need.origins for need in self.needs))

    @property
    @abstractmethod
    def seconds(self) -> float:
        """About how long it takes on one core."""

    @abstractmethod
    def do(self, path: Path, shelf: "Shelf", progress: Progress) -> None:
        """Make it at `path`, or go on with what an interrupted call left there; PyTorch has one thread.

        Args:
            shelf: says where what it needs lies.
        """

    @cached_property
    def name(self) -> str:
        """Its place below the root; the digest stands for every field and for those of what it needs, see
        `plain`."""
        digest = hashlib.sha256(json.dumps(plain(self), sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.folder}/{self.label}-{digest}{self.suffix}"


class Shelf:
    """Where pieces lie.

    Args:
        root: folder of all of them.
    """

    def __init__(self, root: Path):
        self.root = root

    def path(self, work: Work) -> Path:
        return self.root / work.name

    @property
    def cache(self) -> Path:
        """For converted copies of the datasets that are made here."""
        return self.root / "cache"


def plain(value: Any) -> Any:
    """A value as JSON takes it; a dataclass with the name of its class, as two may have the same fields.

    A field at its default is left out, so that one that a class gets later changes no name that was given
    before.
    """
    if is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        defaults = {field.name: field.default for field in fields(value)}
        told = {name: plain(part) for name, part in content.items() if part != defaults[name]}
        return {"kind": type(value).__name__, **told}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value


def in_order(goals: "list[Work]") -> list[list[Work]]:
    """All that `goals` need and they themselves, in waves: what a wave needs was made in those before it."""
    depth: dict[Work, int] = {}

    def visit(work: Work) -> int:
        if work not in depth:
            depth[work] = 1 + max((visit(need) for need in work.needs), default=-1)
        return depth[work]

    for goal in goals:
        visit(goal)
    waves: list[list[Work]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for work, level in depth.items():
        waves[level].append(work)
    return waves
