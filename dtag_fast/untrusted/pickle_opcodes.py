"""What each opcode of a pickle does that plain values need; the others are not here."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dtag_fast.untrusted.containers import Refused

if TYPE_CHECKING:
    from dtag_fast.untrusted.plain_pickle import Reader

Act = Callable[["Reader"], Any]
Number = Callable[["Reader"], int]

STOP = b"."


def _push(make: Act) -> Act:
    return lambda reader: reader.stack.append(make(reader))


def _number(code: str) -> Number:
    form = struct.Struct(code)
    size, unpack = form.size, form.unpack
    return lambda reader: unpack(reader.read(size))[0]


def _push_number(code: str) -> Act:
    """`_push(_number(code))` in one call: files of trajectories may hold millions of them."""
    form = struct.Struct(code)
    size, unpack = form.size, form.unpack
    return lambda reader: reader.stack.append(unpack(reader.read(size))[0])


_u1, _u2, _u4, _u8 = (_number(code) for code in ("<B", "<H", "<I", "<Q"))


def _push_bytes(length: Number) -> Act:
    return lambda reader: reader.stack.append(reader.take(length(reader)))


def _push_text(length: Number, encoding: str, errors: str = "strict") -> Act:
    return lambda reader: reader.stack.append(reader.take(length(reader)).decode(encoding, errors))


def _push_integer(length: Number) -> Act:
    def act(reader: Reader) -> None:
        count = length(reader)
        reader.check_integer(count)
        reader.stack.append(int.from_bytes(reader.take(count), "little", signed=True))

    return act


def _remember(index: Number) -> Act:
    def act(reader: Reader) -> None:
        reader.memo[index(reader)] = reader.stack[-1]

    return act


def _memoize(reader: Reader) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _mark(reader: Reader) -> None:
    reader.marks.append(reader.stack)
    reader.stack = []


def _pop(reader: Reader) -> None:
    """Of the stack; a mark where nothing lies on it, as protocol 0 undoes a tuple."""
    if reader.stack:
        reader.stack.pop()
    else:
        reader.marked()


def _list_of_marked(reader: Reader) -> None:
    items = reader.marked()
    reader.stack.append(items)


def _tuple_of_marked(reader: Reader) -> None:
    items = reader.marked()
    reader.stack.append(tuple(items))


def _dict_of_marked(reader: Reader) -> None:
    items = reader.marked()
    reader.stack.append({})
    reader.set_items(items)


def _global_of_stack(reader: Reader) -> None:
    module, name = reader.popped(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise Refused("a damaged pickle: a class without a name; get the file anew")
    reader.name(module, name)


def _decimal(reader: Reader, line: bytes) -> int:
    reader.check_integer(len(line) // 3)  # before it is read: a byte has 2.4 digits
    number = int(line)
    reader.check_integer(number.bit_length() // 8 + 1)
    return number


def _integer_or_flag_line(reader: Reader) -> int:
    line = reader.line()
    return line == b"01" if line in (b"00", b"01") else _decimal(reader, line)


def _index_line(reader: Reader) -> int:
    return _decimal(reader, reader.line())


def _quoted_line(reader: Reader) -> str:
    """A str of Python 2 as its repr."""
    line = reader.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Refused("a damaged pickle: a text without quotes; get the file anew")
    return line[1:-1].decode("unicode_escape")


ACTS: dict[bytes, Act] = {
    b"\x80": lambda r: r.protocol(_u1(r)),  # PROTO
    b"\x95": lambda r: r.take(8),  # FRAME: its length only helps reading ahead
    b"(": _mark,
    b"0": _pop,
    b"1": lambda r: r.marked(),
    b"2": _push(lambda r: r.stack[-1]),
    b"N": _push(lambda r: None),
    b"\x88": _push(lambda r: True),
    b"\x89": _push(lambda r: False),
    b"I": _push(_integer_or_flag_line),
    b"J": _push_number("<i"),
    b"K": _push_number("<B"),
    b"M": _push_number("<H"),
    b"L": _push(lambda r: _decimal(r, r.line().removesuffix(b"L"))),
    b"\x8a": _push_integer(_u1),
    b"\x8b": _push_integer(_u4),
    b"F": _push(lambda r: float(r.line())),
    b"G": _push_number(">d"),
    b"V": _push(lambda r: r.line().decode("raw_unicode_escape")),
    b"\x8c": _push_text(_u1, "utf-8", "surrogatepass"),
    b"X": _push_text(_u4, "utf-8", "surrogatepass"),
    b"\x8d": _push_text(_u8, "utf-8", "surrogatepass"),
    b"S": _push(_quoted_line),
    b"U": _push_text(_u1, "latin-1"),  # str of Python 2
    b"T": _push_text(_u4, "latin-1"),
    b"C": _push_bytes(_u1),
    b"B": _push_bytes(_u4),
    b"\x8e": _push_bytes(_u8),
    b"\x96": _push_bytes(_u8),  # BYTEARRAY8, as bytes
    b"}": _push(lambda r: {}),
    b"]": _push(lambda r: []),
    b")": _push(lambda r: ()),
    b"\x8f": _push(lambda r: set()),
    b"l": _list_of_marked,
    b"d": _dict_of_marked,
    b"t": _tuple_of_marked,
    b"\x85": _push(lambda r: tuple(r.popped(1))),
    b"\x86": _push(lambda r: tuple(r.popped(2))),
    b"\x87": _push(lambda r: tuple(r.popped(3))),
    b"a": lambda r: r.extend(r.popped(1)),
    b"e": lambda r: r.extend(r.marked()),
    b"s": lambda r: r.set_items(r.popped(2)),
    b"u": lambda r: r.set_items(r.marked()),
    b"\x90": lambda r: r.add(r.marked()),
    b"p": _remember(_index_line),
    b"q": _remember(_u1),
    b"r": _remember(_u4),
    b"\x94": _memoize,
    b"g": lambda r: r.recall(_index_line(r)),
    b"h": lambda r: r.recall(_u1(r)),
    b"j": lambda r: r.recall(_u4(r)),
    b"c": lambda r: r.name(r.line().decode("utf-8"), r.line().decode("utf-8")),
    b"\x93": _global_of_stack,
    b"R": lambda r: r.call(),
    b"\x81": lambda r: r.call(),  # NEWOBJ
    b"b": lambda r: r.build(),
    b"Q": lambda r: r.stand_in(),
}
