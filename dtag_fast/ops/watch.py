"""Noticing that a network's numbers changed, cheaply enough for every call.

A slot is a (dict, name) pair such as (module._parameters, "weight"); holding the dict instead of the module
keeps a cache from prolonging the network's life. In-place changes bump `Tensor._version`, replaced tensors
are another object. Writes through `.data` and CUDA graph replays do neither: `Refiner.refresh()` tells of
them.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import attrgetter, getitem, is_
from typing import NamedTuple

from torch import Tensor, nn

Slot = tuple[dict, str]
Snapshot = tuple[list[Tensor], list[int]]


class Seen(NamedTuple):
    """What a prepared call was made from, and must find again.

    stores[i][names[i]] was tensors[i] at versions[i], None where it has no version; the module behind the
    weak reference modules[i] was in the `training` mode modes[i].
    """

    stores: list[dict]
    names: list[str]
    tensors: list[Tensor]
    versions: list[int | None]
    modules: list[weakref.ref]
    modes: list[bool]


_version = attrgetter("_version")


class Watch:
    """Remembers which tensors stood in the slots at the last `accept`, and their versions."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._dicts = [d for d, _ in slots]
        self._names = [name for _, name in slots]
        self._seen: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        """The tensors now in the slots and their versions (inference tensors have none)."""
        tensors = list(map(getitem, self._dicts, self._names))
        return tensors, [0 if t.is_inference() else t._version for t in tensors]

    def accept(self, snapshot: Snapshot) -> None:
        """Take a snapshot as the numbers in use."""
        self._seen = snapshot

    def forget(self) -> None:
        """No numbers are in use: they are about to be replaced, which may fail halfway."""
        self._seen = None

    def changed(self) -> bool:
        """Whether a slot holds another tensor or another version than the accepted snapshot."""
        seen = self._seen  # once: another thread may forget it
        if seen is None:
            return True
        tensors, versions = seen
        if not all(map(is_, map(getitem, self._dicts, self._names), tensors)):
            return True
        try:
            return list(map(_version, tensors)) != versions
        except RuntimeError:  # an inference tensor among them
            return self.snapshot()[1] != versions

    def seen(self, modules: Sequence[weakref.ref], modes: Sequence[bool]) -> Seen:
        """The slots with what the accepted snapshot found there, and the modules' modes."""
        tensors, versions = self._seen
        readable = [None if t.is_inference() else v for t, v in zip(tensors, versions, strict=True)]
        return Seen(self._dicts, self._names, tensors, readable, list(modules), list(modes))


def slots_of(modules: Sequence[nn.Module]) -> dict[tuple[int, str], Slot]:
    """The slot of every parameter and buffer, by (number of module, dotted name)."""
    slots: dict[tuple[int, str], Slot] = {}
    for i, module in enumerate(modules):
        for path, part in module.named_modules():
            for store in (part._parameters, part._buffers):
                for name, tensor in store.items():
                    if tensor is not None:
                        slots[i, f"{path}.{name}" if path else name] = (store, name)
    return slots


def structure_of(modules: Sequence[nn.Module]) -> tuple:
    """What must stay for a traced graph to stay valid: the modules, their order and modes."""
    return tuple((name, id(part), part.training) for m in modules for name, part in m.named_modules())
