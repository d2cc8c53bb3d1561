"""Starting and resuming a run folder without ever overwriting another run."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dtag_fast.data import TrajectoryStore
from dtag_fast.training.checkpoint import (
    FORMAT_VERSION,
    check_version,
    library_versions,
    remove_leftovers,
)
from dtag_fast.training.files import read_json, write_json


def describe_run(
    algorithm: str,
    config: Any,
    store: TrajectoryStore,
    seed: int,
    device: str,
    critic: dict[str, Any] | None = None,
    holdout: float | None = None,
) -> dict[str, Any]:
    """config.json of a run: all that decides its numbers.

    `critic`: identity of the trained critic that it learns from.
    """
    run = {
        "format_version": FORMAT_VERSION,
        "algorithm": algorithm,
        "seed": seed,
        "holdout": holdout,
        "config": dataclasses.asdict(config),
        "dataset": {
            "dataset_id": store.metadata.get("dataset_id"),
            "env_id": store.metadata.get("env_id"),
            "episodes": store.num_episodes,
            "steps": store.num_steps,
            "state_dim": store.state_dim,
            "action_dim": store.action_dim,
            "crc32": content_checksum(store),
        },
        "device": device,
        "versions": library_versions(),
    }
    if critic is not None:
        run["critic"] = critic
    return as_json(run)


def record_execution(out: Path, execution: str) -> None:
    """Note in config.json how updates are made, as the last bits of the numbers depend on it."""
    path = out / "config.json"
    run = read_json(path)
    if run.get("execution") != execution:
        write_json(path, run | {"execution": execution})


def default_config(config: Any) -> dict[str, Any]:
    """The defaults of a config's class, as a config.json holds them."""
    return as_json(dataclasses.asdict(type(config)()))


def as_json(value: Any) -> Any:
    """`value` as it will be when read back: tuples become lists."""
    return json.loads(json.dumps(value))


def content_checksum(store: TrajectoryStore) -> str:
    """CRC-32 of what training reads."""
    checksum = 0
    for array in (store.observations, store.actions, store.rewards, store.terminations, store.offsets):
        checksum = zlib.crc32(array, checksum)
    return f"{checksum:08x}"


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Keep other processes from training into this folder; the lock ends with the process at the latest.

    Creates the folder.

    Raises:
        BlockingIOError: another process trains into it.
        FileExistsError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: {out} is a file; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)  # the folder itself is locked, so that no lock file is left behind
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"out: another process is training into {out}; wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(folder)


def open_run(out: Path, run: dict[str, Any], resume: bool, defaults: dict[str, Any]) -> None:
    """Begin a run in a folder held by `sole_writer`, or check that the one there is the run to go on with.

    `defaults`: of the algorithm's config. A field that the recorded config lacks is younger than the run and
    had its default then: a new field's default must do what was done before there was the field.

    Raises:
        FileExistsError: the folder is not empty and resume is False.
        ValueError: the run there differs; names the first field that does.
    """
    path = out / "config.json"
    if resume and path.exists():
        recorded = read_json(path)
        check_version(recorded, path)
        if isinstance(config := recorded.get("config"), dict):
            recorded["config"] = defaults | config
        compare(recorded, run, path)
        remove_leftovers(out)
        return
    if resume:
        remove_leftovers(out)  # a run killed before its config was written has nothing else
    if not resume:
        refuse_used(out)
    elif any(out.iterdir()):
        raise FileExistsError(f"out: {out} holds other files and no run to resume; choose another folder")
    write_json(path, run)


def refuse_used(out: Path) -> None:
    """Refuse to begin a run in a folder that is not empty, with a FileExistsError."""
    if any(out.iterdir()):
        raise FileExistsError(f"out: {out} is not empty; resume it, or choose another folder")


def compare(recorded: dict[str, Any], run: dict[str, Any], path: Path) -> None:
    """Refuse to go on with settings or data that differ from the recorded ones."""
    for section in ("algorithm", "seed", "holdout", "config", "dataset", "critic", "start", "online"):
        ours, theirs = run.get(section), recorded.get(section)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            pairs = {
                f"{section}.{k}": (theirs.get(k), ours.get(k))
                for k in [*ours, *(theirs.keys() - ours.keys())]
            }
        else:
            pairs = {section: (theirs, ours)}
        for name, (was, now) in pairs.items():
            if was != now:
                raise ValueError(
                    f"resume: {name} was {was!r} in {path}, got {now!r}; go on with what the run was started "
                    "with, or choose another folder"
                )
