"""What a layout of foreign weights offers to `read_policy`, and what the caller may say of a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from dtag_fast.interop.policies.key_map import check_plain
from dtag_fast.interop.policies.source import PolicySource


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the caller says; None: as the source does, or as its published code has it by default."""

    context_len: int | None = None  # K
    n_head: int | None = None
    activation: str | None = None  # gelu or relu
    max_action: float | None = None  # actions are max_action * tanh
    keys: Path | None = None  # a key map of the caller's own


class Weights(NamedTuple):
    """A policy as a layout reads it: arguments of `assemble`."""

    algorithm: str
    source: str  # in words
    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    notes: list[str]  # what was assumed or left out, a sentence each
    max_action: float = 1.0


class Layout(Protocol):
    """A module that knows one code's state dicts. It imports that code nowhere."""

    NAME: str  # whose it is

    def matches(self, tensors: Mapping[str, Tensor]) -> bool: ...

    def read(self, tensors: Mapping[str, Tensor], source: PolicySource, said: Said) -> Weights: ...


@dataclass
class Settings:
    """Collects settings from what the source tells, what the caller says and what is usual, with notes."""

    said: Said
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def choose(self, name: str, found: Any, usual: Any) -> Any:
        """The source's value where it tells one, else the caller's, else the usual one with a note.

        Raises:
            ValueError: source and caller contradict each other.
        """
        told = getattr(self.said, name)
        if None not in (found, told) and found != told:
            raise ValueError(f"{name}: the source has {found!r}, got {told!r}; leave it out")
        value = found if found is not None else told
        if value is None:
            value = usual
            self.notes.append(
                f"{name} is taken to be {usual!r}, as in the published code: the source does not tell it"
            )
        return value

    def take(self, name: str, found: Any, usual: Any) -> None:
        """`choose`, into the network's config."""
        self.values[name] = self.choose(name, found, usual)

    def take_attention(self, heads: Any, mask_steps: int | None) -> None:
        """`n_head` and `context_len` of a code that has one head and K = 20 by default."""
        self.take("n_head", heads, 1)
        self.take("context_len", mask_steps, 20)

    def expect_gelu(self, name: str) -> None:
        """ValueError where the caller says another activation than the only one of a code."""
        if self.said.activation not in (None, "gelu"):
            raise ValueError(f"activation: {name} has gelu, got {self.said.activation!r}; leave it out")

    def dropped(self, names: list[str], heads: tuple[str, ...]) -> None:
        """Notes which of the source's heads were left out."""
        left = [head for head in heads if any(name.startswith(head) for name in names)]
        if left:
            self.notes.append(f"left out, as no action depends on them: {', '.join(left)}")


def steps_of_mask(tensors: Mapping[str, Tensor], name: str) -> int | None:
    """K of a causal mask (..., 3K, 3K) over three tokens a step; None where it is not among the tensors."""
    if name not in tensors:
        return None
    check_plain(name, tensors[name])
    shape = tuple(tensors[name].shape)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] % 3 or not shape[-1]:
        raise ValueError(f"{name}: expected a square mask over three tokens a step, got shape {shape}")
    return shape[-1] // 3


def attribute(module: Any, path: str) -> Any:
    """`a.b.0.c` of an object in memory, or None where it has no such thing."""
    for name in path.split("."):
        try:
            module = module[int(name)] if name.isdecimal() else getattr(module, name)
        except (AttributeError, IndexError, TypeError, KeyError):
            return None
    return module
