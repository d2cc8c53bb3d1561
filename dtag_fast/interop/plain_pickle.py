"""Pickles from strangers, read opcode by opcode: plain values come out, nothing in the file is ever called.

`pickle.Unpickler` with an allow list still trusts the file in ways that cost memory or hang: a memo index
of 2**24 costs 256 MiB and 2**31 is as good an index, a tuple of tuples of tuples is hashed 2**n times. Here
every opcode that plain values need is a few lines of Python whose cost is bounded by the file's length, and
names of classes lead to functions of this package alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

MOST_OPCODES = 500_000  # a checkpoint has about 40 per tensor
MOST_VALUES = 1_000_000  # in containers, a shared one counted wherever it stands
MOST_DEPTH = 32
MOST_INTEGER = 8  # bytes
TENSORS = ("torch._utils._rebuild_", "torch._tensor._rebuild_")  # how torch.save writes tensors
MOST_TEXT = 500  # characters of a key


class Refused(Exception):
    """What a pickle asks for or is, in words that continue "FILE: ..."."""


class Known:
    """What a name in a pickle stands for here: `make(*args)` gives the value, and refuses other arguments."""

    def __init__(self, name: str, make: Callable[..., Any]):
        self.name, self.make = name, make


class Omitted:
    """In the place of an object of a class that is known and not wanted; keeps nothing of it."""

    def __init__(self, *_: Any):
        pass


class Unfinished:
    """A value whose contents come after it: `finish(state)` makes it of them."""

    def __init__(self, finish: Callable[[Any], Any]):
        self.finish, self.values = finish, []

    def build(self, state: Any) -> Any:
        self.values = [self.finish(state)]
        return self.values[0]


def read_pickle(
    content: bytes,
    known: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    omitted: Collection[str] = (),
) -> Any:
    """The value of a pickle of protocol 2 to 5.

    Args:
        known: functions, or values that need no call, by the names "module.class" that it may ask for.
        persistent: of a persistent id, what it stands for; None: there are none.
        omitted: names of classes, whatever their module, whose objects become `Omitted`.
    Raises:
        Refused: damaged, or anything else than plain values in plain containers.
    """
    reader = _Reader(content, known, persistent, omitted)
    try:
        value = reader.run()
    except Refused:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error, UnicodeDecodeError) as error:
        # a stack that is too short, a reference to nothing, a length beyond the end
        raise Refused(
            f"a damaged pickle, at byte {reader.at} ({type(error).__name__}); get the file anew"
        ) from None
    check_size(value)
    return value


class _Reader:
    def __init__(
        self,
        content: bytes,
        known: Mapping[str, Any],
        persistent: Callable | None,
        omitted: Collection[str],
    ):
        self.content, self.at = content, 0
        self.known, self.persistent, self.omitted = known, persistent, omitted
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                return self.stack.pop()
            act = _ACTS.get(opcode)
            if act is None:
                raise Refused(
                    f"refused: its pickle has the opcode {opcode!r} at byte {self.at - 1}, which plain "
                    "weights do not need; save state dicts: torch.save(module.state_dict(), FILE)"
                )
            act(self)
        raise Refused(
            f"refused: its pickle has more than {MOST_OPCODES:,} opcodes, as no checkpoint of weights"
        )

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.content):
            raise Refused(f"a damaged pickle: it ends at byte {len(self.content)}; get the file anew")
        taken, self.at = self.content[self.at : end], end
        return taken

    def number(self, code: str) -> int | float:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def line(self) -> str:
        end = self.content.index(b"\n", self.at)
        taken, self.at = self.content[self.at : end], end + 1
        return taken.decode("utf-8")

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        taken = self.stack
        self.stack = self.marks.pop()
        return taken

    def name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.known and name.rsplit(".", 1)[-1] in self.omitted:
            self.stack.append(Known(full, Omitted))
            return
        if full not in self.known and full.startswith(TENSORS):
            raise Refused(
                f"refused: a tensor of a kind that no weights have ({full[:80]!r}); save dense, unquantised "
                "tensors of real numbers: torch.save(module.state_dict(), FILE)"
            )
        if full not in self.known:
            raise Refused(
                f"refused before anything of it ran: it asks for {full[:80]!r}, which is no plain value; "
                "save state dicts: torch.save(module.state_dict(), FILE)"
            )
        value = self.known[full]
        self.stack.append(Known(full, value) if callable(value) else value)

    def call(self) -> None:
        args, known = self.stack.pop(), self.stack.pop()
        if not isinstance(known, Known) or not isinstance(args, tuple):
            raise Refused("refused before anything of it ran: its pickle calls something that is no class")
        self.stack.append(known.make(*args))

    def build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, Unfinished):
            self.stack[-1] = value.build(state)
        elif not isinstance(
            value, dict | Omitted
        ):  # an OrderedDict's attributes, as _metadata of a state dict: no use
            raise Refused(
                f"refused before anything of it ran: its pickle gives attributes to a value of type "
                f"{type(value).__name__}"
            )

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused("a damaged pickle: keys and values without a dict; get the file anew")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("a damaged pickle: entries without a list; get the file anew")
        self.stack[-1].extend(items)

    def add(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], set):
            raise Refused("a damaged pickle: entries without a set; get the file anew")
        self.stack[-1].update(key_of(item) for item in items)

    def recall(self, index: int) -> None:
        value = self.memo[index]
        self.stack.append(value.values[0] if isinstance(value, Unfinished) and value.values else value)

    def popped(self, count: int) -> list[Any]:
        taken = self.stack[len(self.stack) - count :]
        if len(taken) != count:
            raise Refused("a damaged pickle: it takes more than there is; get the file anew")
        del self.stack[-count:]
        return taken

    def integer(self, length: int) -> int:
        if length > MOST_INTEGER:
            raise Refused(
                f"refused: its pickle has an integer of {length} bytes, as no checkpoint of weights"
            )
        return int.from_bytes(self.take(length), "little", signed=True)

    def stand_in(self) -> None:
        if self.persistent is None:
            raise Refused("refused: its pickle refers to something outside of it")
        self.stack.append(self.persistent(self.stack.pop()))


def key_of(value: Any) -> Any:
    """Keys whose hash costs no more than their length, on one line: text, numbers, tuples of texts."""
    parts = value if isinstance(value, tuple) and all(isinstance(part, str) for part in value) else (value,)
    for part in parts:
        if not (part is None or isinstance(part, str | int | float)):
            raise Refused(
                f"refused: a dict in it has a key of type {type(part).__name__}; expected text or numbers"
            )
        if isinstance(part, str) and not (part.isprintable() and len(part) <= MOST_TEXT):
            raise Refused(f"refused: a dict in it has a key that no layer's name is: {part[:40]!r}")
    return value


def _mark(reader: _Reader) -> None:
    reader.marks.append(reader.stack)
    reader.stack = []


def _push(make: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(make(reader))


def _remember(index: Callable[[_Reader], int]) -> Callable[[_Reader], None]:
    return lambda reader: reader.memo.__setitem__(index(reader), reader.stack[-1])


def _tuple_of_marked(reader: _Reader) -> None:
    items = reader.marked()
    reader.stack.append(tuple(items))


def _global_of_stack(reader: _Reader) -> None:
    module, name = reader.popped(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise Refused("a damaged pickle: a class without a name; get the file anew")
    reader.name(module, name)


def _text(reader: _Reader, code: str) -> str:
    return reader.take(reader.number(code)).decode("utf-8", "surrogatepass")


_ACTS: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x80": lambda r: r.take(1),  # PROTO
    b"\x95": lambda r: r.take(8),  # FRAME: its length only helps reading ahead
    b"(": _mark,
    b"0": lambda r: r.stack.pop(),
    b"1": lambda r: r.marked(),
    b"N": _push(lambda r: None),
    b"\x88": _push(lambda r: True),
    b"\x89": _push(lambda r: False),
    b"J": _push(lambda r: r.number("<i")),
    b"K": _push(lambda r: r.number("<B")),
    b"M": _push(lambda r: r.number("<H")),
    b"\x8a": _push(lambda r: r.integer(r.number("<B"))),
    b"\x8b": _push(lambda r: r.integer(r.number("<I"))),
    b"G": _push(lambda r: r.number(">d")),
    b"\x8c": _push(lambda r: _text(r, "<B")),
    b"X": _push(lambda r: _text(r, "<I")),
    b"\x8d": _push(lambda r: _text(r, "<Q")),
    b"U": _push(lambda r: r.take(r.number("<B")).decode("latin-1")),  # str of Python 2
    b"T": _push(lambda r: r.take(r.number("<I")).decode("latin-1")),
    b"C": _push(lambda r: r.take(r.number("<B"))),
    b"B": _push(lambda r: r.take(r.number("<I"))),
    b"\x8e": _push(lambda r: r.take(r.number("<Q"))),
    b"\x96": _push(lambda r: r.take(r.number("<Q"))),  # BYTEARRAY8, as bytes
    b"}": _push(lambda r: {}),
    b"]": _push(lambda r: []),
    b")": _push(lambda r: ()),
    b"\x8f": _push(lambda r: set()),
    b"t": _tuple_of_marked,
    b"\x85": _push(lambda r: tuple(r.popped(1))),
    b"\x86": _push(lambda r: tuple(r.popped(2))),
    b"\x87": _push(lambda r: tuple(r.popped(3))),
    b"a": lambda r: r.extend(r.popped(1)),
    b"e": lambda r: r.extend(r.marked()),
    b"s": lambda r: r.set_items(r.popped(2)),
    b"u": lambda r: r.set_items(r.marked()),
    b"\x90": lambda r: r.add(r.marked()),
    b"q": _remember(lambda r: r.number("<B")),
    b"r": _remember(lambda r: r.number("<I")),
    b"\x94": _remember(lambda r: len(r.memo)),
    b"h": lambda r: r.recall(r.number("<B")),
    b"j": lambda r: r.recall(r.number("<I")),
    b"c": lambda r: r.name(r.line(), r.line()),
    b"\x93": _global_of_stack,
    b"R": _Reader.call,
    b"\x81": _Reader.call,  # NEWOBJ
    b"b": _Reader.build,
    b"Q": _Reader.stand_in,
}


def check_size(value: Any, most_bytes: int | None = None) -> None:
    """Refuse containers that hold themselves, are nested deep, or unfold to very much.

    What passes can be walked by recursion.

    Args:
        most_bytes: of all arrays and texts, a shared one counted wherever it stands.
    Raises:
        Refused: see above.
    """
    size = _measure(value, 0, {})
    if most_bytes is not None and size.in_bytes > most_bytes:
        raise Refused(f"refused: its tensors unfold to {size.in_bytes:,} bytes; save every tensor once")


class _Size(NamedTuple):
    values: int  # itself and all in it
    in_bytes: int  # of all arrays and texts in it
    height: int  # how deep containers lie in it


def _measure(value: Any, depth: int, measured: dict[int, _Size]) -> _Size:
    if isinstance(value, Unfinished | Known):
        raise Refused("a damaged pickle: a value in it has no contents; get the file anew")
    if not isinstance(value, dict | list | tuple):
        return _Size(1, len(value) if isinstance(value, str | bytes) else getattr(value, "nbytes", 0), 0)
    size = measured.get(id(value))
    if depth + (size.height if size else 0) > MOST_DEPTH:
        raise Refused(f"refused: containers nested more than {MOST_DEPTH} deep; no state dict is")
    if size is not None:
        return size
    measured[id(value)] = _Size(MOST_VALUES, 0, 0)  # until it is measured: one that holds itself is refused
    values, in_bytes, height = 1, 0, 0
    for entry in value.values() if isinstance(value, dict) else value:
        part = _measure(entry, depth + 1, measured)
        values, in_bytes, height = (
            values + part.values,
            in_bytes + part.in_bytes,
            max(height, part.height + 1),
        )
        if values > MOST_VALUES:
            raise Refused(
                f"refused: its containers hold each other, or unfold to over {MOST_VALUES:,} values"
            )
    measured[id(value)] = _Size(values, in_bytes, height)
    return measured[id(value)]
