"""What `read_policy` was given: a module, a state dict, a file or a folder; nothing of it is run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dtag_fast.training.files import read_tensors
from dtag_fast.untrusted.plain_json import read_json
from dtag_fast.untrusted.torch_file import load_plain

_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin", "dt_checkpoint.pt")
_STATISTICS = ("state_mean", "state_std")
_MOST_DEPTH = 4  # of dicts around a state dict


@dataclass(frozen=True)
class PolicySource:
    """A source, read.

    Attributes:
        shown: what it is, for errors.
        candidates: groups of tensors that may be the policy's state dict, by dotted names.
        config: config.json of Hugging Face, or None.
        state_mean, state_std: statistics of the states, where it holds them.
        module: the object itself where it is in memory, else None.
    """

    shown: str
    candidates: list[dict[str, Tensor]]
    config: dict[str, Any] | None = None
    state_mean: Any = None
    state_std: Any = None
    module: nn.Module | None = field(default=None, compare=False)


def read_source(source: Any) -> PolicySource:
    """Read what may be a policy.

    Raises:
        FileNotFoundError: there is no such path. TypeError: an object of another kind.
        ValueError: a file that is damaged or refused, or a folder without weights.
    """
    if isinstance(source, nn.Module):
        config = getattr(source, "config", None)
        config = config.to_dict() if hasattr(config, "to_dict") else None
        name = type(source).__name__
        return PolicySource(f"a {name}", [_unwrapped(source.state_dict())], config, module=source)
    if isinstance(source, Mapping):
        return _of_value("a state dict", source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected a path, a module or a state dict, got {type(source).__name__}")
    path = Path(source)
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a file or folder with a policy's weights, there is none; nothing is "
            "downloaded here, a model of the Hub goes into a folder first"
        )
    return _of_file(path, None)


def _of_folder(path: Path) -> PolicySource:
    if (path / "checkpoints").is_dir():
        raise ValueError(f"{path}: this is a run folder of dtag_fast already")
    files = [path / name for name in _IN_A_FOLDER if (path / name).is_file()]
    if not files:
        raise ValueError(f"{path}: expected {' or '.join(_IN_A_FOLDER)} in this folder, found none of them")
    described = path / "config.json"
    config = read_json(described.read_bytes(), str(described)) if described.is_file() else None
    if config is not None and not isinstance(config, dict):
        raise ValueError(f"{described}: expected a JSON object, got {type(config).__name__}")
    return _of_file(files[0], config)


def _of_file(path: Path, config: dict[str, Any] | None) -> PolicySource:
    if path.suffix == ".safetensors":
        return PolicySource(str(path), [_unwrapped(read_tensors(path))], config)
    return _of_value(str(path), load_plain(path), config)


def _of_value(shown: str, value: Any, config: dict[str, Any] | None = None) -> PolicySource:
    groups = [_tensors_in(group) for group in _mappings(value, 0, set())]
    candidates = [_unwrapped(group) for group in groups if group]
    if not candidates:
        raise ValueError(f"{shown}: expected a state dict, or one inside of dicts; it holds no tensors")
    known = value if isinstance(value, Mapping) else {}
    mean, std = (known.get(name) for name in _STATISTICS)
    return PolicySource(shown, candidates, config, mean, std)


def _mappings(value: Any, depth: int, seen: set[int]) -> Iterator[Mapping]:
    """A dict and the dicts in it, each once, the outer ones first."""
    if depth > _MOST_DEPTH or not isinstance(value, Mapping) or id(value) in seen:
        return
    seen.add(id(value))
    yield value
    for entry in value.values():
        yield from _mappings(entry, depth + 1, seen)


def _tensors_in(group: Mapping) -> dict[str, Tensor]:
    return {name: t for name, t in group.items() if isinstance(name, str) and isinstance(t, Tensor)}


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what DataParallel and torch.compile put before every name."""
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return dict(tensors)
