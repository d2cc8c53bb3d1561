"""Reads pickles of NumPy arrays, numbers and plain containers; nothing else is ever constructed or called.

A pickle is a program for a stack machine, and what it may import decides what it can do. Here

- the machine's instructions are an allow-list: none that makes instances of classes, looks up extension
  codes or asks for objects from outside;
- a name it asks for is looked up in `_MEANINGS` by exact module and name, and stands for an object of this
  module, never for the one of that name: no function of NumPy or Python is called with the file's arguments;
- what it makes arrays from is checked before an array is made: type, shape, and that the bytes are there;
- no length that it states is believed before so many bytes have been read.

`pickle._Unpickler`, the machine in Python, is taken over the one in C, whose instructions can not be chosen,
and which grows its table of remembered objects to any index a file names.
"""

import math
import pickle
import struct
from pathlib import Path

import numpy as np

_ALLOWED_KINDS = "biuf"
_MAX_DIMENSIONS = 32
_INSTRUCTIONS = frozenset(
    getattr(pickle, name)[0]
    for name in (
        # numbers, text, bytes
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"),
        *("SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        # containers
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        # the machine itself
        *("MARK", "POP", "POP_MARK", "DUP", "PROTO", "FRAME", "STOP"),
        *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
        # calls of what `find_class` gives, and of the objects made by that
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)


class RefusedPickle(pickle.UnpicklingError):
    """The file asks for something that trajectories do not need."""


def load_plain(path: Path):
    """The object in a pickle of plain data; arrays come as `Array`, turned into NumPy's by `as_array`.

    Text that Python 2 wrote is decoded as latin1.

    Raises:
        ValueError: not a pickle, a damaged one, or one that asks for more than arrays and plain containers.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(_Bounded(file, path.stat().st_size), encoding="latin1").load()
    except RefusedPickle as error:
        raise ValueError(
            f"{path}: refused before anything of it ran: {error}; only NumPy arrays of numbers, numbers, "
            "text, lists, tuples and dicts are read"
        ) from None
    except (
        *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError),
        *(AssertionError, OverflowError, MemoryError, RecursionError, struct.error),
    ) as error:
        raise ValueError(
            f"{path}: not a readable pickle of plain data ({type(error).__name__}: {error}); the file is "
            "damaged or of another kind"
        ) from None


def as_array(value) -> np.ndarray | None:
    """The NumPy array of an `Array`, or of a list of numbers; None for anything else."""
    if isinstance(value, Array):
        return value.array
    if isinstance(value, (list, tuple)) and all(isinstance(entry, (bool, int, float)) for entry in value):
        return np.asarray(value)
    return None


def shown(text) -> str:
    """A text of a file for a message: short, and without what would command a terminal."""
    return repr(str(text)[:60])[1:-1]


class _Plain:
    """What a pickle may hold: no attribute can be set, and state is taken only where a class says so."""

    __slots__ = ()

    def __setattr__(self, name, value):
        raise RefusedPickle(f"it sets the attribute {name!r}")

    def __setstate__(self, state):
        raise RefusedPickle("it changes an object that has no state")


class _Marker(_Plain):
    """Stands for numpy.ndarray as an argument of `_reconstruct`."""

    __slots__ = ()


class _Call(_Plain):
    """Stands for a function that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args):
        return self._function(*args)


class _Dtype(_Plain):
    """A type of numbers as a pickle describes it: code ("f4"), then byte order as its state."""

    __slots__ = ("dtype",)

    def __init__(self, code):
        kind, size = (code[:1], code[1:]) if isinstance(code, str) else ("", "")
        if kind not in _ALLOWED_KINDS or size not in ("1", "2", "4", "8", "16"):
            raise RefusedPickle(f"it has arrays of type {str(code)[:20]!r}, not of numbers")
        object.__setattr__(self, "dtype", np.dtype(code))

    def __setstate__(self, state):
        # (version, byte order, subdtype, names, fields, size, alignment, flags): only the order says anything
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise RefusedPickle("it has arrays of records")
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise RefusedPickle(f"it has arrays of byte order {str(order)[:20]!r}")
        object.__setattr__(self, "dtype", self.dtype.newbyteorder(order))


class Array(_Plain):
    """An array of a pickle.

    Attributes:
        array: read-only NumPy array over the bytes of the file; None until its content has come.
    """

    __slots__ = ("array",)

    def __init__(self, array=None):
        object.__setattr__(self, "array", array)

    def __setstate__(self, state):
        # (version, shape, dtype, is Fortran order, bytes)
        if not isinstance(state, tuple) or len(state) != 5 or self.array is not None:
            raise RefusedPickle("it changes an array in an unknown way")
        _, shape, dtype, fortran, content = state
        object.__setattr__(self, "array", _make(content, dtype, shape, "F" if fortran else "C"))


def _make(content, dtype, shape, order: str) -> np.ndarray:
    """The array over `content`, all of it checked first."""
    if isinstance(content, str):  # bytes that Python 2 wrote
        content = content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise RefusedPickle("it has arrays of objects")
    if not isinstance(dtype, _Dtype):
        raise RefusedPickle("it has an array without a type")
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MAX_DIMENSIONS
        or not all(isinstance(length, int) and 0 <= length < 2**62 for length in shape)
    ):
        raise RefusedPickle("it has an array whose shape is none")
    size = math.prod(shape) * dtype.dtype.itemsize
    if size != len(content):
        raise RefusedPickle(
            f"it has an array of shape {shape} that needs {size} bytes and comes with {len(content)}"
        )
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)


def _reconstruct(kind, shape, code):
    if not isinstance(kind, _Marker) or shape != (0,):
        raise RefusedPickle("it makes an array in an unknown way")
    return Array()


def _from_buffer(content, dtype, shape, order, axis_order=None):
    if order == "K" and axis_order is not None:
        array = _make(content, dtype, shape, "C")
        if not isinstance(axis_order, tuple) or sorted(axis_order) != list(range(array.ndim)):
            raise RefusedPickle("it has an array whose axes are no order")
        return Array(array.transpose(axis_order))
    if order not in ("C", "F"):
        raise RefusedPickle(f"it has an array in order {str(order)[:20]!r}")
    return Array(_make(content, dtype, shape, order))


def _scalar(dtype, content=None):
    return _make(content, dtype, (), "C").item()


def _encode(text, codec="latin1"):
    # Bytes as Python 3 writes them for Python 2. Other codecs could unpack a bomb.
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise RefusedPickle(f"it decodes text by {str(codec)[:20]!r}")
    return text.encode("latin1")


def _no_bytes(*args):
    if args:
        raise RefusedPickle("it makes bytes in an unknown way")
    return b""


def _ordered_dict(*args):
    pairs = args[0] if args else []
    if len(args) > 1 or not isinstance(pairs, (list, tuple)):
        raise RefusedPickle("it makes a dict in an unknown way")
    return dict(pairs)


def _text(value):
    return value.decode("latin1") if isinstance(value, bytes) else value


# NumPy 2 moved its modules; both places mean the same.
_MEANINGS = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Call(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Call(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Call(_from_buffer) for core in ("core", "_core")},
    ("numpy", "ndarray"): _Marker(),
    ("numpy", "dtype"): _Call(lambda code, *flags: _Dtype(code)),
    ("_codecs", "encode"): _Call(_encode),
    ("builtins", "bytes"): _Call(_no_bytes),
    ("__builtin__", "bytes"): _Call(_no_bytes),
    ("collections", "OrderedDict"): _Call(_ordered_dict),
}


class _Bounded:
    """A file that is never asked for more bytes than it has: a stated length alone allocates nothing."""

    def __init__(self, file, size: int):
        self._file, self._size = file, size

    def read(self, size: int) -> bytes:
        if size < 0 or size > self._size - self._file.tell():
            raise EOFError(f"it states {size} bytes where fewer are left")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline()

    def readinto(self, buffer) -> int:
        return self._file.readinto(buffer)


class _Dispatch(dict):
    def __missing__(self, code):
        name = next((name for name in _opcode_names() if getattr(pickle, name)[0] == code), f"byte {code}")
        raise RefusedPickle(f"it has the instruction {name}")


def _opcode_names() -> list[str]:
    return [
        name
        for name in dir(pickle)
        if name.isupper() and isinstance(getattr(pickle, name), bytes) and len(getattr(pickle, name)) == 1
    ]


class _PlainUnpickler(pickle._Unpickler):
    dispatch = _Dispatch(
        {code: method for code, method in pickle._Unpickler.dispatch.items() if code in _INSTRUCTIONS}
    )

    def find_class(self, module, name):
        meaning = _MEANINGS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if meaning is None:
            raise RefusedPickle(f"it asks for {shown(module)}.{shown(name)}")
        return meaning

    def persistent_load(self, pid):
        raise RefusedPickle("it asks for an object from outside")

    def load_reduce(self):
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, _Call) or not isinstance(arguments, tuple):
            raise RefusedPickle("it calls something that is no function")
        self.stack[-1] = function(*arguments)

    def load_build(self):
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Plain):
            raise RefusedPickle("it changes the attributes of an object")
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self):
        (size,) = struct.unpack("<Q", self.read(8))
        content = self.read(size)
        if len(content) != size:
            raise EOFError(f"it states {size} bytes where fewer are left")
        self.append(bytearray(content))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
