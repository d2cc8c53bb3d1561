"""What a pickle of plain values may ask for besides tensors: ordered dicts, sizes, NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtag_fast.interop.plain_pickle import Refused, Unfinished, key_of

MOST_DIMS = 8


def _ordered_dict(*args: Any) -> dict:
    if args:
        raise Refused("refused: an OrderedDict with arguments; save it as a dict")
    return {}


def _set(*args: Any) -> set:
    """As protocol 2 writes it."""
    if len(args) > 1 or not all(isinstance(arg, list | tuple) for arg in args):
        raise Refused("refused: a set that is not written as pickle writes it")
    return {key_of(item) for arg in args for item in arg}


def _sizes(*args: Any) -> tuple:
    if len(args) != 1 or not isinstance(args[0], list | tuple):
        raise Refused("refused: a torch.Size that is none")
    return tuple(args[0])


def _text(*args: Any) -> str:
    """A device: "cuda:0"."""
    return ":".join(str(arg)[:20] for arg in args[:2])


def _encoded(*args: Any) -> bytes:
    """Bytes as protocol 2 writes them."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
        raise Refused("refused: bytes that are not written as pickle writes them")
    return args[0].encode("latin-1")


def _dtype(*args: Any) -> Unfinished:
    code = args[0] if args else None
    if not isinstance(code, str) or code not in {
        "f2",
        "f4",
        "f8",
        "b1",
        *(f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)),
    }:
        raise Refused(f"refused: a NumPy array of type {str(code)[:20]!r}; expected numbers")

    def finish(state: Any) -> np.dtype:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise Refused("a damaged pickle: a NumPy type without byte order; get the file anew")
        return np.dtype(order + code)

    return Unfinished(finish)


def _array(*args: Any) -> Unfinished:
    def finish(state: Any) -> np.ndarray:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("a damaged pickle: a NumPy array without contents; get the file anew")
        _, shape, dtype, by_columns, content = state
        return _filled(content, dtype, shape, "F" if by_columns else "C")

    return Unfinished(finish)


def _array_of_buffer(*args: Any) -> np.ndarray:
    if len(args) != 4:
        raise Refused("a damaged pickle: a NumPy array without contents; get the file anew")
    content, dtype, shape, order = args
    return _filled(content, dtype, shape, order)


def _filled(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or not isinstance(content, bytes) or order not in ("C", "F"):
        raise Refused("refused: a NumPy array of something other than numbers")
    if (
        not isinstance(shape, tuple)
        or len(shape) > MOST_DIMS
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise Refused(f"refused: a NumPy array of shape {str(shape)[:60]}")
    count = 1
    for n in shape:
        count *= n
    if count * dtype.itemsize != len(content):
        raise Refused(f"refused: a NumPy array of shape {shape} with {len(content):,} bytes")
    array = np.frombuffer(content, dtype).reshape(shape, order=order)
    return array.astype(dtype.newbyteorder("="))


def _number(*args: Any) -> float | int | bool:
    if len(args) != 2:
        raise Refused("a damaged pickle: a NumPy number without contents; get the file anew")
    return _filled(args[1], args[0], (), "C").item()


PLAIN: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "torch.Size": _sizes,
    "torch.device": _text,
    "_codecs.encode": _encoded,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _array,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "numpy._core.numeric._frombuffer": _array_of_buffer,
}
