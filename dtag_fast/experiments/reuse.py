"""Reuse of finished pieces of an experiment: a piece is redone unless the same recipe already made it.

Beside each piece (a folder NAME or a file NAME.json) stands recipes/NAME.json with what it was made from and
whether it was finished. A piece is reused only if every value of the recipe is the same, and the recipe holds
a fingerprint of the source code, so that nothing older than the code that would make it is shown. Where
processes share pieces, recipes/NAME.lock is what they lock.

Older versions wrote recipes/NAME.json.json for a file NAME.json. Such a record counts as it did until the
piece is begun again, so that what they made is neither lost nor taken for somebody else's.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import dtag_fast
from dtag_fast.training.files import read_json
from dtag_fast.training.files import write_json as write_whole


class Found(Enum):
    """What stands in a piece's place."""

    NOTHING = "nothing"
    FINISHED = "finished"  # by the same recipe
    BEGUN = "begun"  # by the same recipe, then interrupted
    OTHER = "other"  # made by another recipe


class Pieces:
    """The pieces of one experiment under one folder.

    Args:
        root: folder that holds all pieces; created when the first piece is begun.
    """

    def __init__(self, root: Path):
        self.root = root

    def path(self, name: str) -> Path:
        """Where piece `name` lies."""
        return self.root / name

    def look(self, name: str, recipe: dict) -> tuple[Found, str]:
        """What is there of piece `name`, and in words how its recipe differs (empty unless OTHER).

        Raises:
            ValueError: something is in its place that no recipe describes, so that it must not be removed; or
                the recipe in that place is another piece's.
        """
        record = self.record(name)
        if record is None:
            if self.path(name).exists():
                raise ValueError(
                    f"out: {self.path(name)} was not made by this experiment; "
                    "take another folder or move it away"
                )
            return Found.NOTHING, ""
        wanted = json.loads(json.dumps(recipe))
        if record["recipe"] != wanted:
            return Found.OTHER, _difference(record["recipe"], wanted)
        if record["finished"] and self.path(name).exists():
            return Found.FINISHED, ""
        return Found.BEGUN, ""

    def begin(self, name: str, recipe: dict, *, keep: bool = False) -> Path:
        """Note that piece `name` is being made; what an earlier recipe left is removed unless `keep`."""
        path = self.path(name)
        if not keep:
            # The recipe goes last: without it what is left of the piece would count as somebody else's.
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._write(name, recipe, finished=False)
        return path

    def finish(self, name: str, recipe: dict, **about: Any) -> None:
        """Note that piece `name` is whole, and what else is to be known of it."""
        self._write(name, recipe, finished=True, **about)

    def record(self, name: str) -> dict | None:
        """What is noted of piece `name`: "recipe", "finished" and more; None where nothing is.

        Raises:
            ValueError: what is in its place is damaged, or another piece's recipe.
        """
        # Written by an older version after a newer one, which leaves none, or by an older one alone.
        files = [file for file in (self._older_recipe_file(name), self._recipe_file(name)) if file.exists()]
        if not files:
            return None
        record = read_json(files[0])
        if not isinstance(record, dict) or "recipe" not in record:
            raise ValueError(f"out: {files[0]} is no recipe; take another folder or move it away")
        owner = record.get("piece", files[0].stem)
        if owner != name:
            raise ValueError(
                f"out: {files[0]} is the recipe of {owner}, not of {name}; "
                "take another folder or move it away"
            )
        return record

    def is_finished(self, name: str) -> bool:
        """Whether piece `name` is there and whole, whatever it was made from.

        Raises:
            ValueError: as `record`.
        """
        record = self.record(name)
        return record is not None and record["finished"] and self.path(name).exists()

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Keep other processes that lock piece `name` from it; the lock ends with the process at the latest.

        Yields:
            True, or False where another process has the lock and `wait` is False.
        """
        file = self._recipe_file(name).with_suffix(".lock")
        file.parent.mkdir(parents=True, exist_ok=True)
        # It stays: were it removed, one who waits for it and one who comes later would lock two files.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held = True
            except BlockingIOError:
                held = False
            yield held
        finally:
            os.close(descriptor)

    def _recipe_file(self, name: str) -> Path:
        return self.root / "recipes" / f"{name.removesuffix('.json')}.json"

    def _older_recipe_file(self, name: str) -> Path:
        """Where older versions wrote it; the same place for a folder."""
        return self.root / "recipes" / f"{name}.json"

    def _write(self, name: str, recipe: dict, *, finished: bool, **about: Any) -> None:
        file, older = self._recipe_file(name), self._older_recipe_file(name)
        write_json(file, {"piece": name, "finished": finished, "recipe": recipe, **about})
        if older != file:
            older.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    """`training.files.write_json` into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, value)


def code_fingerprint(*packages: str) -> str:
    """Digest of subpackages, their Python sources and presets (.toml), and of single files.

    E.g. code_fingerprint("models", "data/arrow.py").

    Raises:
        ValueError: there is no such source.
    """
    root = Path(dtag_fast.__file__).parent
    digest = hashlib.sha256()
    for package in packages:
        place = root / package
        files = [place]
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.suffix in (".py", ".toml"))
        if not all(file.is_file() for file in files):
            raise ValueError(f"packages: expected folders or files of dtag_fast, got {package!r}")
        for file in files:
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _difference(old: dict, new: dict) -> str:
    """The first few keys whose values differ, in words."""
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ", ".join(changed[:4]) + (", ..." if len(changed) > 4 else "")
