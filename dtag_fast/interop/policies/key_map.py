"""Key maps: what another code calls a tensor, and what it is called in our models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_PLACES = {"n": r"(?P<n>\d{1,4})", "p": r"(?P<p>weight|bias)"}
_TRANSPOSED = ".T"
_PARTS = ("q", "k", "v")  # of a block's packed projection, in this order
_SHOWN = 4
OPEN = "?"  # our name in a draft, where nothing told what a tensor is


class Mapped(NamedTuple):
    """Tensors by our names, float32, and the names of those that our models have no use for."""

    tensors: dict[str, Tensor]
    dropped: list[str]


class KeyMap:
    """Rules from one code's names to ours.

    A name may hold {n}, a number, and {p}, weight or bias, which stand for the same in our name. `*` matches
    anything, in rules that drop. Our name is that of a `SequenceModel`'s state dict, or None: the tensor is
    dropped. `.T` at its end: a matrix is transposed (GPT-2's Conv1D keeps (inputs, outputs)). Separate
    projections are called transformer.blocks.{n}.attention.q.weight, .k., .v. and are packed.

    Args:
        rules: their name -> our name or None. The first that matches holds.
        source: whose names these are, for errors.
    Raises:
        ValueError: a rule that can not be.
    """

    def __init__(self, rules: Mapping[str, str | None], source: str):
        self.source = source
        self._rules = [(_pattern(theirs, ours), ours) for theirs, ours in rules.items()]

    def apply(self, tensors: Mapping[str, Tensor]) -> Mapped:
        """All tensors under our names.

        Raises:
            ValueError: a tensor no rule knows, two for one name, or one that is no finite floating numbers.
        """
        found: dict[str, Tensor] = {}
        dropped, unknown = [], []
        for name, tensor in tensors.items():
            rule = self._rule_for(name)
            if rule is None:
                unknown.append(name)
                continue
            match, ours = rule
            if ours is None:
                dropped.append(name)
                continue
            target = _filled(ours, match)
            if target in found:
                raise ValueError(f"{name}: a second tensor for {target}, which there is one of")
            found[target] = _numbers(name, tensor, ours.endswith(_TRANSPOSED))
        if unknown:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            raise ValueError(
                f"{', '.join(unknown[:_SHOWN])}{more}: expected the tensors of {self.source} alone; a "
                "network with other layers computes something else. Where names alone differ, give a key map "
                "(keys)"
            )
        return Mapped(_packed(found), dropped)

    def matches(self, tensors: Mapping[str, Tensor]) -> int:
        """How many of the names a rule knows."""
        return sum(self._rule_for(name) is not None for name in tensors)

    def _rule_for(self, name: str) -> tuple[re.Match, str | None] | None:
        for pattern, ours in self._rules:
            if match := pattern.fullmatch(name):
                return match, ours
        return None


def _pattern(theirs: str, ours: str | None) -> re.Pattern:
    """The regular expression of a rule's left side."""
    if not isinstance(ours, str | None):
        raise ValueError(f"{theirs}: expected our name or null, got {ours!r}")
    if ours == OPEN:
        raise ValueError(f"{theirs}: the draft leaves open what it is ({OPEN}); write our name or null")
    if "*" in theirs and ours is not None:
        raise ValueError(f"{theirs}: * stands in rules that drop (null) alone, got {ours!r}")
    expression = re.escape(theirs).replace(r"\*", ".*")
    for place, what in _PLACES.items():
        held = "{" + place + "}"
        if theirs.count(held) > 1:
            raise ValueError(f"{theirs}: {held} may stand in it once")
        if ours is not None and held in ours and held not in theirs:
            raise ValueError(f"{theirs}: {ours} has {held}, which it does not have")
        expression = expression.replace(re.escape(held), what)
    return re.compile(expression)


def _filled(ours: str, match: re.Match) -> str:
    """Our name of a tensor."""
    values = match.groupdict()
    name = ours.removesuffix(_TRANSPOSED)
    if values.get("n") is not None:
        name = name.replace("{n}", str(int(values["n"])))
    return name.replace("{p}", values["p"]) if values.get("p") else name


def check_plain(name: str, tensor: Tensor) -> None:
    """Refuse a tensor whose shape says nothing of its memory: a few bytes of a file may stand for any size.

    Raises:
        ValueError: it has no numbers, repeats them, or they are not in a plain array.
    """
    plain = tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type != "meta"
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(
            f"{name}: expected a plain array of all its numbers, got shape {tuple(tensor.shape)} alone"
        )


def _numbers(name: str, tensor: Tensor, transpose: bool) -> Tensor:
    """The tensor as float32 of its own, finite."""
    check_plain(name, tensor)
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: expected floating point numbers, got {tensor.dtype}")
    if transpose and tensor.ndim != 2:
        raise ValueError(f"{name}: expected a matrix to transpose, got shape {tuple(tensor.shape)}")
    tensor = tensor.detach().to("cpu", torch.float32)
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"{name}: expected finite numbers; this training has diverged or the file is damaged"
        )
    return (tensor.t() if transpose else tensor).clone(memory_format=torch.contiguous_format)


def _packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the projections of queries, keys and values of each block under one another."""
    stems = {
        m.groups(): None for name in tensors if (m := re.fullmatch(r"(.*\.attention)\.[qkv]\.(\w+)", name))
    }
    for stem, kind in stems:
        names = [f"{stem}.{part}.{kind}" for part in _PARTS]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(
                f"{missing[0]}: expected beside {stem}'s other projections, no tensor is mapped to it"
            )
        parts = [tensors.pop(name) for name in names]
        if len({part.shape for part in parts}) != 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise ValueError(f"{stem}: expected queries, keys and values of one shape, got {shapes}")
        tensors[f"{stem}.qkv.{kind}"] = torch.cat(parts)
    return tensors
