"""What dicts, lists and tuples of a stranger may hold: keys, how deep, how much."""

from __future__ import annotations

from typing import Any, NamedTuple

MOST_VALUES = 1_000_000
MOST_DEPTH = 32
MOST_TEXT = 500  # characters of a key
MOST_PARTS = 32  # of a key that is a tuple
LARGEST_KEY = 1 << 63  # beyond it integers can be chosen to have one hash
_SCALARS = frozenset((bool, int, float, type(None)))


class Refused(Exception):
    """What a file asks for or is, in words that continue "FILE: ..."."""


class NoValue:
    """Base of what a file may mention and no container may hold at the end."""


def shown(value: Any) -> str:
    """A value for a message: short, on one line, and at no more cost than that, however it is nested."""
    if isinstance(value, str):
        return repr(value[:60])
    if value is None or isinstance(value, int | float):
        return str(value)[:60]
    if isinstance(value, tuple) and all(part is None or isinstance(part, int | float) for part in value[:20]):
        return str(value[:20])[:60]
    return f"a {type(value).__name__}"


def key_of(value: Any) -> Any:
    """A key of a dict, or a member of a set: text, a number, a tuple of texts.

    A key is short and on one line, and its hash costs no more than its length.

    Raises:
        Refused: anything else.
    """
    if type(value) is str and len(value) <= MOST_TEXT and value.isprintable():
        return value
    parts = value if isinstance(value, tuple) and all(isinstance(part, str) for part in value) else (value,)
    if len(parts) > MOST_PARTS:
        raise Refused(f"refused: a dict in it has a key of {len(parts):,} texts; expected text or numbers")
    for part in parts:
        if isinstance(part, str) and not (len(part) <= MOST_TEXT and part.isprintable()):
            raise Refused(f"refused: a dict in it has a key that is no name: {part[:40]!r}; rename it")
        if isinstance(part, int) and not -LARGEST_KEY <= part < LARGEST_KEY:
            raise Refused("refused: a dict in it has a key of more than 8 bytes; expected text or numbers")
        if not (part is None or isinstance(part, str | int | float)):
            raise Refused(
                f"refused: a dict in it has a key of type {type(part).__name__}; expected text or numbers"
            )
    return value


def check_size(value: Any, most_bytes: int | None = None, most_values: int = MOST_VALUES) -> None:
    """Refuse containers that hold themselves, are nested deep, or unfold to very much.

    What passes can be walked by recursion.

    Args:
        most_bytes: of all arrays and texts, a shared one counted wherever it stands.
        most_values: in containers, shared ones counted so too.
    Raises:
        Refused: see above.
    """
    size = _measure(value, 0, {}, most_values)
    if most_bytes is not None and size.in_bytes > most_bytes:
        raise Refused(f"refused: its tensors unfold to {size.in_bytes:,} bytes; save every tensor once")


class _Size(NamedTuple):
    values: int  # itself and all in it
    in_bytes: int  # of all arrays and texts in it
    height: int  # how deep containers lie in it


def _measure(value: Any, depth: int, measured: dict[int, _Size], most_values: int) -> _Size:
    if isinstance(value, NoValue):
        raise Refused("a damaged pickle: a value in it has no contents; get the file anew")
    if not isinstance(value, dict | list | tuple):
        return _Size(1, len(value) if isinstance(value, str | bytes) else getattr(value, "nbytes", 0), 0)
    size = measured.get(id(value))
    if depth + (size.height if size else 0) > MOST_DEPTH:
        raise Refused(f"refused: containers nested more than {MOST_DEPTH} deep; no state dict is")
    if size is not None:
        return size
    measured[id(value)] = _Size(most_values, 0, 0)  # until it is measured: one that holds itself is refused
    values, in_bytes, height = 1, 0, 1 if value else 0
    for entry in value.values() if isinstance(value, dict) else value:
        if type(entry) in _SCALARS:
            values += 1
            continue
        part = _measure(entry, depth + 1, measured, most_values)
        values, in_bytes = values + part.values, in_bytes + part.in_bytes
        height = max(height, part.height + 1)
    if values > most_values:
        raise Refused(f"refused: its containers hold each other, or unfold to over {most_values:,} values")
    measured[id(value)] = _Size(values, in_bytes, height)
    return measured[id(value)]
