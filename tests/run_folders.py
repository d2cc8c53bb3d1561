"""Run folders compared: tensors to the last bit, logs without what was timed, names of files."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

TIMED = ("time/", "speed/")


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """All of a run's newest checkpoint, the training state's included, by file and name."""
    folder = (run / "checkpoints" / "last").resolve()
    return {
        f"{path.relative_to(folder)}: {name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def records(run: Path) -> list[dict]:
    """metrics.jsonl without times and speeds."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def assert_same_bits(run: Path, other: Path) -> None:
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys() and ours
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def assert_same_run(run: Path, other: Path) -> None:
    """The same bits and the same log."""
    assert_same_bits(run, other)
    assert records(run) == records(other)


def assert_as_if_never_killed(whole: Path, run: Path) -> None:
    """The same bits, log and files: nothing half-written was left behind."""
    assert_same_run(whole, run)
    assert sorted(p.name for p in run.rglob("*")) == sorted(p.name for p in whole.rglob("*"))


def weight_sum(step: int, run: Path) -> dict[str, float]:
    """An evaluation without episodes: a score of the weights in the checkpoint that was just written."""
    weights = load_file(run / "checkpoints" / str(step) / "model.safetensors")
    return {"return_mean": float(sum(w.double().sum() for w in weights.values()))}
