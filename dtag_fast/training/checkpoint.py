"""Checkpoints: a folder of safetensors and JSON, complete from the moment it is visible. No pickle.

    RUN/checkpoints/STEP/
        config.json                  format version, networks, everything needed to act: see RunInfo
        model.safetensors            the policy        } whichever the algorithm trains
        critic.safetensors           the critic        }
        value.safetensors            its V(s)          }
        training_state/              what only a resumed training needs
            state.json  tensors.safetensors
    RUN/checkpoints/last -> STEP     the newest
    RUN/checkpoints/best -> STEP     the one of the best evaluation, where there was one

A checkpoint is written under another name and renamed when it is whole.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import torch
from torch import nn

import dtag_fast
from dtag_fast.models.registry import build, describe
from dtag_fast.training.devices import find_device
from dtag_fast.training.files import point_link, read_json, read_tensors, sync, write_json, write_tensors
from dtag_fast.training.state_tree import load_named, pack, unpack

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a checkpoint says about itself; all values are plain JSON."""

    algorithm: str
    kind: str  # "policy" or "critic"
    step: int  # updates made
    seed: int
    state_dim: int
    action_dim: int
    state_mean: list[float]  # (S,) of the training states
    state_std: list[float]  # (S,) deviation + 1e-6
    action_low: list[float]  # (A,); empty for discrete actions
    action_high: list[float]  # (A,); empty for discrete actions
    best_return: float  # best undiscounted return of an episode in the training data
    context_len: int | None = None  # K of a sequence policy
    return_scale: float = 1.0  # divides returns-to-go
    reward_scale: float = 1.0  # rewards were used as reward_scale * r + reward_shift
    reward_shift: float = 0.0
    discount: float = 1.0  # gamma of a critic
    target_returns: list[float] = field(default_factory=list)  # to ask of a return-conditioned policy, raw
    env_id: str | None = None
    env_spec: dict | None = None
    max_episode_steps: int | None = None
    dataset_id: str | None = None
    dataset_fingerprint: str | None = None
    observation_keys: list[str] | None = None
    ref_min_score: float | None = None
    ref_max_score: float | None = None
    ref_source: str | None = None
    discrete_actions: dict[str, int] | None = None  # n, start of `DiscreteActions`; None for continuous ones
    config: dict[str, Any] = field(default_factory=dict)  # the algorithm's settings
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each (A,), as `refine` takes them."""
        return np.asarray(self.action_low), np.asarray(self.action_high)


class LoadedPolicy(NamedTuple):
    """A policy in eval mode and what its checkpoint says."""

    model: nn.Module
    info: RunInfo


class LoadedCritic(NamedTuple):
    """A critic in eval mode and what its checkpoint says."""

    critic: nn.Module
    info: RunInfo


def load_policy(path: str | os.PathLike, device: str | torch.device = "cpu") -> LoadedPolicy:
    """Load the policy of a run (its last checkpoint) or of one checkpoint folder.

    Outputs are bit-identical to those of the policy that was saved.

    Raises:
        FileNotFoundError: there is no run or checkpoint, or it holds no policy.
        ValueError: a file is damaged, of a newer format, or has missing or foreign keys; or there is no such
            device.
    """
    return LoadedPolicy(*_load_network(Path(path), "model", "policy", device))


def load_critic(path: str | os.PathLike, device: str | torch.device = "cpu") -> LoadedCritic:
    """Load the critic of a run (its last checkpoint) or of one checkpoint folder; errors as `load_policy`.

    reward_scale and reward_shift in its info are those of the critic's rewards, which may be a multiple of
    those in the returns of the policy beside it.
    """
    critic, info = _load_network(Path(path), "critic", "critic", device)
    multiple = info.config.get("critic_reward_scale", 1.0)
    scales = {"reward_scale": info.reward_scale * multiple, "reward_shift": info.reward_shift * multiple}
    return LoadedCritic(critic, dataclasses.replace(info, **scales))


def load_info(path: str | os.PathLike) -> RunInfo:
    """What `load_policy` says about the policy of a run or of one checkpoint folder, its weights unread.

    Errors as `load_policy`, except those of the file with the weights and of the network's description.
    """
    return _find_network(Path(path), "model", "policy").info


def load_value(path: str | os.PathLike, device: str | torch.device = "cpu") -> nn.Module | None:
    """Load the value network beside the critic of a run or checkpoint folder; errors as `load_policy`.

    None where the checkpoint holds none for others: critics that have none, and IQL before it exported it.
    """
    if "value" not in read_checkpoint_config(find_checkpoint(Path(path)))["networks"]:
        return None
    return _load_network(Path(path), "value", "value network", device)[0]


def find_checkpoint(path: Path) -> Path:
    """The folder itself if it is a checkpoint, else the last checkpoint of the run it is.

    Raises:
        FileNotFoundError: it is neither.
    """
    if (path / "config.json").is_file() and "networks" in read_json(path / "config.json"):
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        found = "found no checkpoint in it" if path.is_dir() else "there is no such folder"
        if path.is_file():
            found = "it is a file (`dtag convert`, `dtag convert-critic` make a run of another library's)"
        raise FileNotFoundError(f"{path}: expected a run or a checkpoint folder, {found}")
    return newest


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    found = [p for p in (run / "checkpoints").glob("*") if p.name.isdecimal() and p.is_dir()]
    return max(found, key=lambda p: int(p.name), default=None)


def read_checkpoint_config(checkpoint: Path) -> dict[str, Any]:
    """config.json of a checkpoint, its version checked."""
    config = read_json(checkpoint / "config.json")
    check_version(config, checkpoint / "config.json")
    for key in ("networks", "info"):
        if key not in config:
            raise ValueError(f"{checkpoint / 'config.json'}: missing key {key!r}")
    return config


def check_version(config: dict[str, Any], path: Path) -> None:
    """Refuse what a later dtag_fast wrote."""
    version = config.get("format_version") if isinstance(config, dict) else None
    if not isinstance(version, int):
        raise ValueError(f"{path}: missing key 'format_version'; not written by dtag_fast")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: written in format version {version}, this dtag_fast reads up to version "
            f"{FORMAT_VERSION}; upgrade it"
        )


class _Found(NamedTuple):
    """A network of a checkpoint that was not built yet."""

    checkpoint: Path
    description: dict[str, Any]
    info: RunInfo


def _find_network(path: Path, stem: str, what: str) -> _Found:
    checkpoint = find_checkpoint(path)
    config = read_checkpoint_config(checkpoint)
    # A critic that was saved beside a policy of another run says its own.
    info = _info(config.get(f"{stem}_info", config["info"]), checkpoint / "config.json")
    if stem not in config["networks"]:
        raise FileNotFoundError(f"{path}: expected a {what}, this run of {info.algorithm} holds none")
    return _Found(checkpoint, config["networks"][stem], info)


def _load_network(path: Path, stem: str, what: str, device: str | torch.device) -> tuple[nn.Module, RunInfo]:
    device = find_device(device)
    checkpoint, description, info = _find_network(path, stem, what)
    network = load_described(description, checkpoint / "config.json", checkpoint / f"{stem}.safetensors")
    return network.to(device).eval(), info


def load_described(description: dict[str, Any], described_in: Path, weights: Path) -> nn.Module:
    """A network by its description and the file of its numbers; errors as `load_policy`."""
    try:
        network = build(description)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{described_in}: {error}") from error
    load_named(network, read_tensors(weights), str(weights))
    return network


def _info(values: dict[str, Any], path: Path) -> RunInfo:
    fields = {f.name: f for f in dataclasses.fields(RunInfo)}
    foreign = sorted(set(values) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    )
    if foreign or missing:
        complaint = f"foreign key {foreign[0]!r}" if foreign else f"missing key {missing[0]!r}"
        raise ValueError(f"{path}: info: {complaint}")
    return RunInfo(**values)


def save_checkpoint(
    run: Path, info: RunInfo, exports: dict[str, nn.Module], training_state: dict[str, Any] | None
) -> Path:
    """Write RUN/checkpoints/STEP; `publish_checkpoint` makes it the last one.

    Args:
        run: run folder. info: its step names the folder.
        exports: networks by file stem ("model", "critic").
        training_state: nested tensors and numbers for a resumed training; None for networks that were not
            trained here.
    Returns:
        The checkpoint's folder. One that exists already for this step is left as it is: it holds the same.
    """
    folder = run / "checkpoints"
    final = folder / str(info.step)
    if not final.exists():
        temporary = folder / f".{info.step}.tmp"
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        for stem, network in exports.items():
            write_tensors(temporary / f"{stem}.safetensors", network.state_dict())
        if training_state is not None:
            tensors, tree = pack(training_state)
            (temporary / "training_state").mkdir()
            write_tensors(temporary / "training_state" / "tensors.safetensors", tensors)
            write_json(temporary / "training_state" / "state.json", tree)
        write_json(
            temporary / "config.json",
            {
                "format_version": FORMAT_VERSION,
                "networks": {stem: describe(network) for stem, network in exports.items()},
                "info": dataclasses.asdict(info),
            },
        )
        sync(temporary)
        os.rename(temporary, final)
        sync(folder)
    return final


def load_training_state(checkpoint: Path, exports: dict[str, nn.Module]) -> dict[str, Any]:
    """Load the exported networks in place and return the training state; errors as `load_policy`.

    A network that was not exported yet when the checkpoint was written stands in its training state.
    """
    saved = read_checkpoint_config(checkpoint)["networks"]
    for stem, network in exports.items():
        if stem not in saved:
            continue
        path = checkpoint / f"{stem}.safetensors"
        load_named(network, read_tensors(path), str(path))
    folder = checkpoint / "training_state"
    tensors = read_tensors(folder / "tensors.safetensors")
    tree = read_json(folder / "state.json")
    try:
        state = unpack(tensors, tree)
    except ValueError as error:
        raise ValueError(f"{folder}: {error} for state.json; the files do not belong together") from error
    for stem in exports:
        if stem not in saved and stem not in state["learner"]["modules"]:
            raise ValueError(f"{checkpoint / 'config.json'}: networks: missing key {stem!r}")
    return state


def publish_checkpoint(checkpoint: Path, keep_last: int | None, best: int | None = None) -> None:
    """Point `last` at a checkpoint; delete all but the newest `keep_last` and the best, unless that is None.

    Args:
        best: step of the best evaluation so far; its checkpoint, if it is there, gets the link `best`.
    """
    folder = checkpoint.parent
    point_link(folder / "last", checkpoint.name)
    if best is not None and (folder / str(best)).is_dir():
        point_link(folder / "best", str(best))
    if keep_last is None:
        return
    steps = sorted((p for p in folder.glob("*") if p.name.isdecimal()), key=lambda p: int(p.name))
    for old in steps[:-keep_last]:
        if old.name == str(best):
            continue
        delete_checkpoint(old)


def delete_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint, so that one that is half-deleted never looks like a whole one."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.old.tmp")
    os.rename(checkpoint, doomed)
    shutil.rmtree(doomed)


def remove_leftovers(run: Path) -> None:
    """Delete what a killed process left half-written."""
    for path in (run / "checkpoints").glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in run.glob(".*.tmp"):
        path.unlink()


def library_versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    return {
        "dtag_fast": dtag_fast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
    }
