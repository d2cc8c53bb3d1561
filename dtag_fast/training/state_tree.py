"""Nested training state (dicts, lists, tensors, numbers) as named tensors and one JSON tree. No pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SCALARS = (bool, int, float, str, type(None))


def pack(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a state into tensors, named by their path, and a JSON tree that mentions them.

    Raises:
        TypeError: a leaf that is neither a tensor nor a JSON scalar.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(state, (), tensors)


def _pack(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = ".".join(path)
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs, for keys may be integers
        return {"dict": [[key, _pack(item, (*path, str(key)), tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(item, (*path, str(i)), tensors) for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, _SCALARS):
        return value
    raise TypeError(f"state {'.'.join(path)}: expected tensors, numbers, strings, got {type(value).__name__}")


def unpack(tensors: dict[str, Tensor], tree: Any) -> Any:
    """Inverse of `pack`.

    Raises:
        ValueError: a tensor the tree names is missing, or one it does not name is there.
    """
    used: set[str] = set()
    state = _unpack(tree, tensors, used)
    foreign = sorted(set(tensors) - used)
    if foreign:
        raise ValueError(f"foreign tensor {foreign[0]!r}")
    return state


def _unpack(node: Any, tensors: dict[str, Tensor], used: set[str]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        if content not in tensors:
            raise ValueError(f"missing tensor {content!r}")
        used.add(content)
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors, used) for key, item in content}
    items = [_unpack(item, tensors, used) for item in content]
    return tuple(items) if kind == "tuple" else items


def load_named(module: torch.nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a module, all of them and no others.

    Raises:
        ValueError: a key is missing or foreign, or has another shape; names the first of each.
    """
    own = module.state_dict()
    missing, foreign = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    complaints = [f"missing key {missing[0]!r} ({len(missing)} in all)"] if missing else []
    complaints += [f"foreign key {foreign[0]!r} ({len(foreign)} in all)"] if foreign else []
    complaints += [
        f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(tensors[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ][:1]
    if complaints:
        raise ValueError(f"{where}: {'; '.join(complaints)}; the weights do not belong to this config")
    module.load_state_dict(tensors)
