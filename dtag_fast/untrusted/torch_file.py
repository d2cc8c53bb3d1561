"""What `torch.save` wrote, read without running anything of it: tensors, numbers, text and containers.

`torch.load(weights_only=True)` is not used: it takes the file's word for sizes and strides (a view of a few
bytes that claims terabytes, storages larger than what is stored), reads the zip by other rules than those it
was checked by, and knows kinds of tensors that no critic has.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtag_fast.untrusted.archive import open_content, read_entry, read_file
from dtag_fast.untrusted.containers import MOST_DEPTH, Refused, check_size, shown
from dtag_fast.untrusted.plain_pickle import read_pickle
from dtag_fast.untrusted.plain_values import PLAIN

MOST_DIMS = 8
MOST_SHARING = (
    64  # bytes of all tensors, over those stored: an encoder that an ensemble shares stands in each
)
SMALL = 1 << 20
WHAT = "a file of torch.save"

_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_REMEDY = "save state dicts of dense, unquantised, real tensors: torch.save(module.state_dict(), FILE)"


def load_plain(path: Path, content: bytes | None = None, *, omitted: Collection[str] = ()) -> Any:
    """The object of a file of `torch.save`, or of a pickle of plain values, on the CPU.

    Tensors (dense, of real numbers), NumPy arrays, numbers, text and plain containers are read; a file that
    asks for anything else is refused, and nothing of it ever runs. Reading takes little more memory than the
    file has bytes.

    Args:
        content: in place of the file's own bytes; `path` then serves for errors.
        omitted: names of classes whose objects may stand beside the weights; each becomes an `Omitted`.
    Raises:
        FileNotFoundError: there is no such file. ValueError: damaged, of another kind, or refused.
    """
    if content is None:
        content = read_file(path, WHAT)
    try:
        if content[:4] == b"PK\x03\x04":
            with open_content(path, content, WHAT) as archive:
                value = _TorchZip(archive, path).load(omitted)
        elif content.startswith(_BEFORE_1_6):
            raise Refused(
                "written in the form of PyTorch before 1.6; load it in PyTorch and torch.save it again"
            )
        elif content[:1] != b"\x80":
            raise Refused(f"expected {WHAT}, a zip file; it is none or damaged")
        else:
            value = read_pickle(content, PLAIN, omitted=omitted, remedy=_REMEDY)
        check_size(value, MOST_SHARING * len(content) + SMALL)
        return value
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None


@dataclass(frozen=True)
class _Storage:
    """Numbers of one kind, flat."""

    values: Tensor


class _TorchZip:
    """The entries of such a zip: ROOT/data.pkl, ROOT/data/KEY, ROOT/byteorder."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        self.archive, self.path = archive, path
        self.storages: dict[str, _Storage] = {}

    def load(self, omitted: Collection[str]) -> Any:
        names = self.archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise Refused(f"expected {WHAT}, a zip file with one data.pkl; it has {len(roots)}")
        self.root = roots[0]
        if f"{self.root}constants.pkl" in names:
            raise Refused(
                "refused: TorchScript, which is code; save weights: torch.save(module.state_dict(), FILE)"
            )
        packed = [entry for entry in self.archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise Refused(
                f"refused: its entry {packed[0].filename[:80]!r} is compressed, as torch.save writes none; "
                "torch.save the weights again"
            )
        order = f"{self.root}byteorder"
        if order in names and read_entry(self.archive, order, self.path) != b"little":
            raise Refused("refused: its numbers are big-endian; torch.save them on a little-endian machine")
        known = PLAIN | {
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
        }
        for name, dtype in _STORAGES.items():
            known[f"torch.{name}"] = known[str(dtype)] = dtype  # str: "torch.float32"
        content = read_entry(self.archive, f"{self.root}data.pkl", self.path)
        return read_pickle(content, known, self.storage, omitted, remedy=_REMEDY)

    def storage(self, reference: Any) -> _Storage:
        """Of a persistent id ("storage", kind, key, location, count)."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise Refused("refused: its pickle refers to something that is no storage of numbers")
        _, dtype, key, _, count = reference
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(count) is not int:
            raise Refused(f"refused: a storage of a kind that no weights have; {_REMEDY}")
        if key not in self.storages:
            name = f"{self.root}data/{key}"
            if name not in self.archive.NameToInfo:
                raise Refused(
                    f"damaged: it has no entry {name[:80]!r}, to which a tensor refers; get the file anew"
                )
            content = read_entry(self.archive, name, self.path)
            self.storages[key] = _Storage(_numbers(content, dtype))
        storage = self.storages[key]
        if storage.values.dtype != dtype or storage.values.numel() != count:
            raise Refused(
                f"refused: it promises {count:,} numbers of {dtype} in its entry {key[:40]!r}, there are "
                f"{storage.values.numel():,} of {storage.values.dtype}"
            )
        return storage

    def tensor(self, *args: Any) -> Tensor:
        """Of (storage, offset, sizes, strides, requires_grad, hooks[, metadata])."""
        if len(args) not in (6, 7) or not isinstance(args[0], _Storage) or (len(args) == 7 and args[6]):
            raise Refused(f"refused: a tensor of a kind that no weights have; {_REMEDY}")
        values, (offset, sizes, strides) = args[0].values, args[1:4]
        for numbers in (sizes, strides):
            if not isinstance(numbers, tuple) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
                raise Refused(f"refused: a tensor of shape {shown(sizes)} and strides {shown(strides)}")
        if type(offset) is not int or offset < 0 or len(sizes) != len(strides) or len(sizes) > MOST_DIMS:
            raise Refused(f"refused: a tensor of shape {shown(sizes)} and strides {shown(strides)}")
        count = math.prod(sizes)
        last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
        if count and (count > values.numel() or last >= values.numel()):
            raise Refused(
                f"refused: a tensor of shape {sizes} and strides {strides} at {offset} in a storage of "
                f"{values.numel():,} numbers; {_REMEDY}"
            )
        return values.as_strided(sizes, strides, offset) if count else values.new_empty(sizes)


def _numbers(content: bytes, dtype: torch.dtype) -> Tensor:
    if len(content) % dtype.itemsize:
        raise Refused(f"refused: {len(content):,} bytes of {dtype}, no whole number of them")
    if not content:
        return torch.empty(0, dtype=dtype)
    if dtype == torch.bool:  # any byte but 0 is True; a bool tensor may hold 0 and 1 alone
        return torch.frombuffer(bytearray(content), dtype=torch.uint8) != 0
    return torch.frombuffer(bytearray(content), dtype=dtype)


def _parameter(*args: Any) -> Tensor:
    if not args or not isinstance(args[0], Tensor):
        raise Refused(f"refused: a parameter that is no tensor; {_REMEDY}")
    return args[0]


def is_state_dict(part: Any) -> bool:
    """A dict of tensors alone, at least one."""
    return isinstance(part, Mapping) and bool(part) and all(isinstance(x, Tensor) for x in part.values())


def flat_tensors(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """All tensors in nested dicts, lists and tuples by dotted names; what is no tensor is left out.

    Raises:
        ValueError: nested deeper than `MOST_DEPTH`, or two tensors of one dotted name.
    """
    found: dict[str, Tensor] = {}
    _collect(value, prefix, found, 0)
    return found


def _collect(value: Any, prefix: str, found: dict[str, Tensor], depth: int) -> None:
    if depth > MOST_DEPTH:
        raise ValueError(f"{prefix[:80]}: nested more than {MOST_DEPTH} deep; no state dict is")
    if isinstance(value, Tensor):
        if prefix in found:
            raise ValueError(f"{prefix[:80]}: two tensors have this name")
        found[prefix] = value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            _collect(entry, f"{prefix}.{key}" if prefix else str(key), found, depth + 1)
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            _collect(entry, f"{prefix}.{i}" if prefix else str(i), found, depth + 1)
