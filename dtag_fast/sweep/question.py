"""What a table answers: the folder of a sweep keeps it, and rows that answer another question are refused."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dtag_fast.sweep.jobs import HowToPlay
from dtag_fast.training.checkpoint import (
    LoadedPolicy,
    check_version,
    library_versions,
    read_checkpoint_config,
)
from dtag_fast.training.files import checksum, read_json, write_json

FORMAT_VERSION = 1
FILE = "sweep.json"
_MUST_AGREE = ("policy", "env_id", "seed", "critic", "device", "history_lengths", "candidates")


def run_name(checkpoint: Path) -> str:
    """Name of the run that a checkpoint folder belongs to; its own where it stands alone."""
    checkpoint = checkpoint.resolve()
    return checkpoint.parent.parent.name if checkpoint.parent.name == "checkpoints" else checkpoint.name


def describe(
    policy: LoadedPolicy, checkpoints: dict[int, Path], critic: Path | None, how: HowToPlay, seed: int
) -> dict[str, Any]:
    """The question as JSON: everything but cells and episodes that decides a row's numbers.

    Args:
        policy: any one of the run's. checkpoints: folder by step, those of this sweep.
        critic: its checkpoint folder.
        seed: of the first episode.
    """
    info = policy.info
    question = {
        "format_version": FORMAT_VERSION,
        "run": how.run,
        "policy": {name: getattr(info, name) for name in ("algorithm", "seed", "dataset_id")},
        "env_id": how.env_id,
        "seed": seed,
        "critic": None,
        "device": how.device,
        "history_lengths": how.history_lengths and list(how.history_lengths),
        "candidates": how.candidates and asdict(how.candidates),
        "behaviour": how.behaviour,
        "checkpoints": {
            str(step): checksum(path / "model.safetensors") for step, path in checkpoints.items()
        },
        "versions": library_versions(),
    }
    if critic is not None:
        step = read_checkpoint_config(critic)["info"]["step"]
        crc32 = checksum(critic / "critic.safetensors")
        question["critic"] = {"run": how.critic, "step": step, "crc32": crc32}
        if how.gate_limit is not None:
            question["critic"]["gate_limit"] = how.gate_limit
    return question


def agree(out: Path, question: dict[str, Any]) -> dict[str, Any]:
    """Begin a sweep's folder, or check that the one there asks the same; checkpoints may be added, and the
    model of the behaviour, which rows of before did without. A table without rows answers any question.

    Returns:
        The question as the folder keeps it.

    Raises:
        ValueError: it asks another question; names the first difference.
    """
    path = out / FILE
    table = out / "table.jsonl"
    if not table.exists() or table.stat().st_size == 0:
        write_json(path, question)
        return question
    if not path.exists():
        raise ValueError(f"out: {out} holds a table without {FILE}, which says of what; choose another")
    recorded = read_json(path)
    check_version(recorded, path)
    checkpoints = recorded["checkpoints"]
    pairs = {name: (recorded.get(name), question[name]) for name in _MUST_AGREE}
    pairs |= {
        f"checkpoint {step}": (checkpoints[step], crc)
        for step, crc in question["checkpoints"].items()
        if step in checkpoints
    }
    behaviours = recorded.get("behaviour"), question["behaviour"]
    if None not in behaviours:
        pairs["the checksum of the behaviour's model"] = behaviours
    for name, (was, now) in pairs.items():
        if was != now:
            raise ValueError(
                f"out: the table in {out} is of another sweep: {name} was {was!r}, got {now!r}; choose "
                "another folder"
            )
    added = {"checkpoints": checkpoints | question["checkpoints"]}
    if question["behaviour"] is not None:
        added["behaviour"] = question["behaviour"]
    if recorded != recorded | added:
        recorded |= added
        write_json(path, recorded)
    return recorded
