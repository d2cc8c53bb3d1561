"""Trees of arrays, from memory by the array protocol and from .npz, .safetensors and msgpack files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from dtag_fast.interop.source import CriticFile
from dtag_fast.untrusted.archive import read_entries
from dtag_fast.untrusted.containers import MOST_DEPTH
from dtag_fast.untrusted.plain_json import read_json

MOST_ENTRIES = 10_000
_KINDS = "fiub"
_NPZ = "a .npz of arrays (np.savez)"
_MAP_BYTES = frozenset(range(0x81, 0x90)) | {0xDE, 0xDF}  # a msgpack map that is not empty begins with one
_NDARRAY, _SCALAR = 1, 3  # Flax's msgpack extension types


def plain_tree(source: Any, depth: int = 0) -> Any:
    """Nested dicts of tensors with text as names; None in the place of what is no array.

    Raises:
        ValueError: nested too deep, or two entries of one name.
    """
    if depth > MOST_DEPTH:
        raise ValueError(f"a parameter tree: nested more than {MOST_DEPTH} deep; no critic is")
    if isinstance(source, Mapping):
        found = {str(name): plain_tree(part, depth + 1) for name, part in source.items()}
        if len(found) != len(source):
            raise ValueError("a parameter tree: two entries have one name")
        return found
    return _tensor(source)


def is_tree_file(file: CriticFile) -> bool:
    """Whether it is one of the three kinds and has a kernel in it, by its names alone."""
    if file.entries:
        return all(name.endswith(".npy") for name in file.entries) and _has_kernel(
            name.removesuffix(".npy") for name in file.entries
        )
    header = _safetensors_header(file.content)
    if header is not None:
        return _has_kernel(header)
    return file.content[:1] != b"" and file.content[0] in _MAP_BYTES and b"kernel" in file.content


def read_tree(file: CriticFile) -> dict[str, Any]:
    """The tree of a file.

    Raises:
        ValueError: damaged, of another kind, or with arrays of other than numbers.
    """
    if file.entries:
        flat = {
            name.removesuffix(".npy"): _npy(content, name, file.path)
            for name, content in read_entries(file.path, sorted(file.entries), _NPZ).items()
        }
        return _nested(flat, file.path)
    if _safetensors_header(file.content) is not None:
        return _nested(_safetensors(file), file.path)
    return _msgpack(file)


def _tensor(source: Any) -> Tensor | None:
    """An array of any library as float32 on the CPU; None if it is none."""
    if isinstance(source, Tensor):
        return source.detach().cpu().float()
    if not hasattr(source, "__array__"):
        return None
    try:
        array = np.asarray(source)
        return torch.from_numpy(np.array(array, dtype=np.float32))
    except (TypeError, ValueError):  # random keys, objects, structures
        return None


def _has_kernel(names: Iterable[str]) -> bool:
    return any(name.replace("/", ".").rsplit(".", 1)[-1] == "kernel" for name in names)


def _nested(flat: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Names "a/b/kernel" or "a.b.kernel" as nested dicts."""
    separator = "/" if any("/" in name for name in flat) else "."
    tree: dict[str, Any] = {}
    for name, tensor in flat.items():
        *parents, last = name.split(separator)
        if len(parents) > MOST_DEPTH:
            raise ValueError(f"{path}: {name[:80]}: nested more than {MOST_DEPTH} deep; no critic is")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path}: {name[:80]}: {parent!r} is an array and holds others too")
        if last in node:
            raise ValueError(f"{path}: {name[:80]}: two arrays have this name")
        node[last] = tensor
    return tree


def _npy(content: bytes, name: str, path: Path) -> Tensor:
    """An array of NumPy's own format; its data must be as long as its head says."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read[version](stream)
    except Exception as error:  # whatever a mutated head makes numpy raise
        raise ValueError(f"{path}: its entry {name!r} is no array of NumPy ({error})") from None
    return _numbers(content[stream.tell() :], shape, dtype, fortran, f"{path}: {name}")


def _numbers(data: bytes, shape: tuple[int, ...], dtype: np.dtype, fortran: bool, where: str) -> Tensor:
    if dtype.hasobject or dtype.kind not in _KINDS:
        raise ValueError(f"{where}: expected an array of numbers, got {dtype}; save it as float32")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{where}: expected {tuple(shape)} of {dtype}, its data are {len(data):,} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(np.float32, order="C"))


def _safetensors_header(content: bytes) -> list[str] | None:
    """Names of the tensors; None where it is not such a file."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 10 or not 2 <= size <= len(content) - 8 or content[8:9] != b"{":
        return None
    try:
        header = read_json(content[8 : 8 + size], "its header")
    except ValueError:
        return None
    return [str(name) for name in header] if isinstance(header, dict) else None


def _safetensors(file: CriticFile) -> dict[str, Tensor]:
    try:
        return {name: tensor.float() for name, tensor in load_safetensors(file.content).items()}
    except Exception as error:  # safetensors raises its own and others
        raise ValueError(f"{file.path}: not a readable .safetensors file ({error})") from None


def _msgpack(file: CriticFile) -> dict[str, Any]:
    """What `flax.serialization.to_bytes` wrote."""
    try:
        import msgpack
    except ImportError:
        raise ValueError(
            f"{file.path}: a msgpack file needs the package msgpack: pip install msgpack; or save the "
            "parameters with np.savez"
        ) from None

    def extension(code: int, data: bytes) -> Any:
        if code not in (_NDARRAY, _SCALAR):
            raise ValueError(f"an extension of type {code}, which Flax does not use for arrays")
        shape, name, numbers = msgpack.unpackb(
            data, max_map_len=0, max_array_len=64, max_ext_len=0, raw=False
        )
        return _array(shape, name, numbers)

    try:
        tree = msgpack.unpackb(
            file.content,
            ext_hook=extension,
            max_map_len=MOST_ENTRIES,
            max_array_len=MOST_ENTRIES,
            max_str_len=1 << 16,
            max_bin_len=1 << 16,
            raw=False,
        )
        return _checked(plain_tree(tree))
    except Exception as error:  # msgpack raises its own, and what a mutated file leads to
        reason = str(error) or type(error).__name__
        raise ValueError(f"{file.path}: not a readable msgpack file of Flax ({reason[:160]})") from None


def _array(shape: Any, name: Any, numbers: Any) -> Tensor:
    if not isinstance(numbers, bytes) or not isinstance(name, str) or not isinstance(shape, list):
        raise ValueError("an array is stored as other than shape, dtype and bytes")
    shape = tuple(int(n) for n in shape)
    if name == "bfloat16":
        if any(n < 0 for n in shape) or math.prod(shape) * 2 != len(numbers):
            raise ValueError(f"an array {shape} of bfloat16 has {len(numbers):,} bytes")
        halves = torch.from_numpy(np.frombuffer(numbers, np.int16).copy())
        return halves.view(torch.bfloat16).reshape(shape).float()
    try:
        dtype = np.dtype(name)
    except TypeError:
        raise ValueError(f"an array of unknown dtype {name[:40]!r}") from None
    return _numbers(numbers, shape, dtype, False, "an array")


def _checked(tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ValueError("expected a dict of parameters")
    if "__msgpack_chunked_array__" in str(_names(tree)):
        raise ValueError("it holds arrays above 1 GB in pieces; no critic does")
    return tree


def _names(tree: Any) -> list[str]:
    if not isinstance(tree, dict):
        return []
    return [*tree, *(name for part in tree.values() for name in _names(part))]
