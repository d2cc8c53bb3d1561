"""Pickles from strangers, read opcode by opcode: plain values come out, nothing in the file is ever called.

`pickle.Unpickler` with an allow list still trusts the file in ways that cost memory or hang: a memo index
of 2**24 costs 256 MiB and 2**31 is as good an index, a tuple of tuples of tuples is hashed 2**n times. Here
every opcode that plain values need (`pickle_opcodes`) costs no more than its bytes in the file, and names of
classes lead to functions of this package alone (`plain_values`).
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any, BinaryIO

from dtag_fast.untrusted.containers import NoValue, Refused, key_of
from dtag_fast.untrusted.pickle_opcodes import ACTS, STOP

MOST_OPCODES = 500_000  # a checkpoint has about 40 per tensor
MOST_INTEGER = 8  # bytes
MOST_GIVEN = 16  # bytes of what all calls are given, over those of the file
SMALL = 1 << 20
ENTRY = 8  # bytes of a reference in a container
ANEW = "get the file anew"


class Known(NoValue):
    """What a name in a pickle stands for here: `make(*args)` gives the value, and refuses other arguments."""

    def __init__(self, make: Callable[..., Any]):
        self.make = make


class Omitted:
    """In the place of an object of a class that is known and not wanted; keeps nothing of it."""

    def __init__(self, *_: Any):
        pass


class Unfinished(NoValue):
    """A value whose contents come after it: `finish(state)` makes it of them."""

    def __init__(self, finish: Callable[[Any], Any]):
        self.finish, self.values = finish, []

    def build(self, state: Any) -> Any:
        if self.values:
            raise Refused(f"a damaged pickle: a value in it has contents twice; {ANEW}")
        self.values = [self.finish(state)]
        return self.values[0]


def read_pickle(
    content: bytes | BinaryIO,
    known: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    omitted: Collection[str] = (),
    *,
    remedy: str = "save arrays, numbers and text in plain lists, tuples and dicts",
    most_opcodes: int | None = MOST_OPCODES,
    most_integer: int = MOST_INTEGER,
) -> Any:
    """The value of a pickle of protocol 0 to 5. What Python 2 wrote as str is text, decoded as latin1.

    Containers may hold themselves or nest without end: `check_size` comes before a walk through them.

    Args:
        content: its bytes, or a file open for reading; arrays are views of the bytes that are read from it.
        known: functions, or values that need no call, by the names "module.class" that it may ask for.
        persistent: of a persistent id, what it stands for; None: there are none.
        omitted: names of classes, whatever their module, whose objects become `Omitted`.
        remedy: what to do where a file asks for more, for the sentence of an error.
        most_opcodes: None: as many as it has bytes. most_integer: bytes of an integer.
    Raises:
        Refused: damaged, or anything else than plain values in plain containers.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    reader = Reader(file, known, persistent, omitted, remedy, most_integer)
    try:
        return reader.run(reader.size + 1 if most_opcodes is None else most_opcodes)
    except struct.error:
        raise reader.ended() from None
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        # a stack that is too short, a reference to nothing, a number or text that is none
        raise Refused(f"a damaged pickle, at byte {file.tell()} ({type(error).__name__}); {ANEW}") from None


class Reader:
    """The machine that a pickle is a program for.

    Attributes:
        read: of so many bytes; fewer come at the end of the file.
        stack, marks, memo: as in `pickletools`; each mark keeps the stack below it.
    """

    def __init__(
        self,
        file: BinaryIO,
        known: Mapping[str, Any],
        persistent: Callable | None,
        omitted: Collection[str],
        remedy: str,
        most_integer: int,
    ):
        self.file, self.read, self.size = file, file.read, file.seek(0, io.SEEK_END)
        file.seek(0)
        self.known, self.persistent, self.omitted = known, persistent, omitted
        self.remedy, self.most_integer = remedy, most_integer
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.given = 0  # bytes, to calls

    def run(self, most_opcodes: int) -> Any:
        read, act_of = self.read, ACTS.get
        for _ in range(most_opcodes):
            opcode = read(1)
            act = act_of(opcode)
            if act is not None:
                act(self)
            elif opcode == STOP:
                return self.stack.pop()
            else:
                raise self.unknown(opcode)
        raise Refused(f"refused: its pickle has more than {most_opcodes:,} opcodes; {self.remedy}")

    def unknown(self, opcode: bytes) -> Refused:
        if not opcode:
            return self.ended()
        import pickletools

        found = pickletools.code2op.get(opcode.decode("latin-1"))
        return Refused(
            f"refused: its pickle has the opcode {found.name if found else opcode} at byte "
            f"{self.file.tell() - 1}, which plain values do not need; {self.remedy}"
        )

    def ended(self) -> Refused:
        return Refused(f"a damaged pickle: it ends at byte {self.size:,}; {ANEW}")

    def take(self, count: int) -> bytes:
        """So many bytes. A length that the file only states allocates nothing."""
        if count > SMALL and count > self.size - self.file.tell():
            raise self.ended()
        taken = self.read(count)
        if len(taken) != count:
            raise self.ended()
        return taken

    def line(self) -> bytes:
        taken = self.file.readline()
        if taken[-1:] != b"\n":
            raise self.ended()
        return taken[:-1]

    def protocol(self, number: int) -> None:
        if number > pickle.HIGHEST_PROTOCOL:
            raise Refused(f"refused: a pickle of protocol {number}; expected 0 to {pickle.HIGHEST_PROTOCOL}")

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        taken = self.stack
        self.stack = self.marks.pop()
        return taken

    def name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full in self.known and "." not in name:
            value = self.known[full]
            self.stack.append(Known(value) if callable(value) else value)
        elif name.rsplit(".", 1)[-1] in self.omitted:
            self.stack.append(Known(Omitted))
        else:
            raise Refused(
                f"refused before anything of it ran: it asks for {full[:80]!r}, which is no plain value; "
                f"{self.remedy}"
            )

    def call(self) -> None:
        args, known = self.stack.pop(), self.stack.pop()
        if not isinstance(known, Known) or not isinstance(args, tuple):
            raise Refused("refused before anything of it ran: its pickle calls something that is no class")
        self.charge(args)
        self.stack.append(known.make(*args))

    def build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, Unfinished):
            self.charge(state if isinstance(state, tuple) else (state,))
            self.stack[-1] = value.build(state)
        elif not isinstance(value, dict | Omitted):  # attributes of an OrderedDict, as _metadata: no use
            raise Refused(
                f"refused before anything of it ran: its pickle gives attributes to a value of type "
                f"{type(value).__name__}"
            )

    def charge(self, args: tuple) -> None:
        """Count what calls are given: the same again and again would take time and memory without end."""
        self.given += ENTRY * len(args)
        for arg in args:
            if isinstance(arg, str | bytes):
                self.given += len(arg)
            elif isinstance(arg, list | tuple):
                self.given += ENTRY * len(arg)
        if self.given > MOST_GIVEN * self.size + SMALL:
            raise Refused(
                f"refused: its values take over {MOST_GIVEN} times its {self.size:,} bytes; save each once"
            )

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(f"a damaged pickle: keys and values without a dict; {ANEW}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused(f"a damaged pickle: entries without a list; {ANEW}")
        self.stack[-1].extend(items)

    def add(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], set):
            raise Refused(f"a damaged pickle: entries without a set; {ANEW}")
        self.stack[-1].update(key_of(item) for item in items)

    def recall(self, index: int) -> None:
        value = self.memo[index]
        self.stack.append(value.values[0] if isinstance(value, Unfinished) and value.values else value)

    def popped(self, count: int) -> list[Any]:
        taken = self.stack[-count:]
        if len(taken) != count:
            raise Refused(f"a damaged pickle: it takes more than there is; {ANEW}")
        del self.stack[-count:]
        return taken

    def check_integer(self, length: int) -> None:
        """Of so many bytes."""
        if length > self.most_integer:
            raise Refused(f"refused: its pickle has an integer of {length:,} bytes; {self.remedy}")

    def stand_in(self) -> None:
        if self.persistent is None:
            raise Refused("refused: its pickle refers to something outside of it")
        self.stack.append(self.persistent(self.stack.pop()))
