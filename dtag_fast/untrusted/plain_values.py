"""What a pickle of plain values may ask for besides tensors: ordered dicts, sizes, NumPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtag_fast.untrusted.containers import NoValue, Refused, key_of, shown
from dtag_fast.untrusted.plain_pickle import Unfinished

MOST_DIMS = 32
_KINDS = frozenset(
    ("b1", "f2", "f4", "f8", "f16", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)))
)
_NDARRAY = NoValue()
_ODD_ARRAY = "refused: a NumPy array that is not written as NumPy writes it; save it with NumPy"


def _ordered_dict(*args: Any) -> dict:
    """Empty; protocol 2 of Python 2 gives its pairs."""
    pairs = args[0] if args else []
    well_formed = len(args) <= 1 and isinstance(pairs, list | tuple)
    if not well_formed or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Refused("refused: an OrderedDict that is not written as pickle writes it; save it as a dict")
    return {key_of(key): value for key, value in pairs}


def _set(*args: Any) -> set:
    """As protocol 2 writes it."""
    if len(args) > 1 or not all(isinstance(arg, list | tuple) for arg in args):
        raise Refused("refused: a set that is not written as pickle writes it; save it as a list")
    return {key_of(item) for arg in args for item in arg}


def _sizes(*args: Any) -> tuple:
    if len(args) != 1 or not isinstance(args[0], list | tuple):
        raise Refused("refused: a torch.Size that is none; save it as a tuple")
    return tuple(args[0])


def _device(*args: Any) -> str:
    """As text: "cuda:0"."""
    if not all(isinstance(arg, str | int) for arg in args):
        raise Refused("refused: a torch.device that is none; save it as text")
    return ":".join(str(arg)[:20] for arg in args[:2])


def _encoded(*args: Any) -> bytes:
    """Bytes as protocol 2 writes them. Other encodings could unpack to very much."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
        raise Refused("refused: bytes that are not written as pickle writes them")
    return args[0].encode("latin-1")


def _no_bytes(*args: Any) -> bytes:
    """As protocol 2 writes b""."""
    if args:
        raise Refused("refused: bytes that are not written as pickle writes them")
    return b""


def _dtype(*args: Any) -> Unfinished:
    code = args[0] if args else None
    if not isinstance(code, str) or code not in _KINDS:
        raise Refused(f"refused: a NumPy array of type {shown(code)}; expected numbers")

    def finish(state: Any) -> np.dtype:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise Refused(_ODD_ARRAY)
        return np.dtype(order + code)

    return Unfinished(finish)


def _array(*args: Any) -> Unfinished:
    if len(args) != 3 or args[0] is not _NDARRAY or args[1] != (0,):
        raise Refused(_ODD_ARRAY)

    def finish(state: Any) -> np.ndarray:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused(_ODD_ARRAY)
        _, shape, dtype, by_columns, content = state
        if isinstance(content, str):  # bytes that Python 2 wrote
            content = content.encode("latin-1")
        return _filled(content, dtype, shape, "F" if by_columns else "C")

    return Unfinished(finish)


def _array_of_buffer(*args: Any) -> np.ndarray:
    if len(args) not in (4, 5):
        raise Refused(_ODD_ARRAY)
    content, dtype, shape, order = args[:4]
    if order != "K" or len(args) != 5:
        return _filled(content, dtype, shape, order)
    array, axes = _filled(content, dtype, shape, "C"), args[4]
    if not isinstance(axes, tuple) or not all(type(axis) is int for axis in axes):
        raise Refused(_ODD_ARRAY)
    return array.transpose(axes)


def _filled(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """A read-only view of `content`."""
    if not isinstance(dtype, np.dtype) or not isinstance(content, bytes) or order not in ("C", "F"):
        raise Refused("refused: a NumPy array of something other than numbers")
    if (
        not isinstance(shape, tuple)
        or len(shape) > MOST_DIMS
        or not all(type(n) is int and 0 <= n < 2**62 for n in shape)
    ):
        raise Refused(f"refused: a NumPy array of shape {shown(shape)}; save it with NumPy")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise Refused(f"refused: a NumPy array of shape {shown(shape)} and {dtype} in {len(content):,} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _number(*args: Any) -> float | int | bool:
    if len(args) != 2:
        raise Refused("refused: a NumPy number that is not written as NumPy writes it; save it with NumPy")
    content = args[1].encode("latin-1") if isinstance(args[1], str) else args[1]
    return _filled(content, args[0], (), "C").item()


# NumPy 2 moved its modules; both places mean the same.
PLAIN: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    "torch.Size": _sizes,
    "torch.device": _device,
    "_codecs.encode": _encoded,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _NDARRAY,
    **{
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")
        for name, make in (
            ("multiarray._reconstruct", _array),
            ("multiarray.scalar", _number),
            ("numeric._frombuffer", _array_of_buffer),
        )
    },
}
