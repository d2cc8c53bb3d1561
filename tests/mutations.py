"""Seeded damage to files: of bytes, of zip archives, and of the values a file is packed from."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Rng = np.random.Generator


def flip_bits(content: bytes, rng: Rng) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncate(content: bytes, rng: Rng) -> bytes:
    return content[: rng.integers(len(content))]


def remove_span(content: bytes, rng: Rng) -> bytes:
    start = int(rng.integers(len(content)))
    return content[:start] + content[start + int(rng.integers(1, 64)) :]


def repeat_span(content: bytes, rng: Rng) -> bytes:
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 256))
    return content[: start + length] + content[start:]


def extreme_number(content: bytes, rng: Rng) -> bytes:
    packed = [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8, struct.pack("<Q", 1 << 40)]
    chosen, start = packed[rng.integers(len(packed))], int(rng.integers(len(content)))
    return content[:start] + chosen + content[start + len(chosen) :]


def swap_halves(content: bytes, rng: Rng) -> bytes:
    start = int(rng.integers(len(content)))
    return content[start:] + content[:start]


BYTES = [flip_bits, truncate, remove_span, repeat_span, extreme_number, swap_halves]


def zip_fields(content: bytes, rng: Rng) -> bytes:
    """A number in the head of an entry, of the list at the end, or of the end's record."""
    marks = [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"]
    starts = [i for mark in marks for i in _all(content, mark)]
    if not starts:
        return flip_bits(content, rng)
    at = starts[rng.integers(len(starts))] + int(rng.integers(4, 46))
    code, value = [("<H", 0xFFFF), ("<I", 0xFFFFFFFF), ("<I", 0), ("<H", 1), ("<I", 1 << 30)][rng.integers(5)]
    packed = struct.pack(code, value)
    return content[:at] + packed + content[at + len(packed) :]


def _all(content: bytes, mark: bytes) -> list[int]:
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


def zip_entries(content: bytes, rng: Rng) -> bytes:
    """Entries renamed, dropped, exchanged, damaged under a right checksum, or compressed."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return flip_bits(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [[entry.filename, archive.read(entry)] for entry in archive.infolist()]
    i, j = (int(n) for n in rng.integers(len(entries), size=2))
    kind = int(rng.integers(6))
    if kind == 0:
        entries[i][0] = ["../" + entries[i][0], "/x", entries[j][0], " ", "a\nb", "é"][rng.integers(6)]
    elif kind == 1:
        del entries[i]
    elif kind == 2:
        entries[i][1], entries[j][1] = entries[j][1], entries[i][1]
    elif kind == 3 and entries[i][1]:
        entries[i][1] = BYTES[rng.integers(len(BYTES))](entries[i][1], rng)
    elif kind == 4:
        entries[i][1] += bytes(3 << 20)
    else:
        entries[i][1] = b""
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, entry in entries:
            archive.writestr(name, entry)
    return stream.getvalue()


def splice(content: bytes, other: bytes, rng: Rng) -> bytes:
    return content[: rng.integers(len(content))] + other[rng.integers(len(other)) :]


def change_value(value: Any, rng: Rng) -> Any:
    """A copy of nested dicts, lists and tuples with one thing in it changed."""
    if isinstance(value, dict) and value:
        if rng.random() < 0.1:
            return _changed_names(value, rng)
        key = list(value)[rng.integers(len(value))]
        return {name: change_value(part, rng) if name == key else part for name, part in value.items()}
    if isinstance(value, list | tuple) and len(value) and rng.random() < 0.8:
        i = int(rng.integers(len(value)))
        changed = [change_value(part, rng) if i == j else part for j, part in enumerate(value)]
        return type(value)(changed) if type(value) in (list, tuple) else value
    if isinstance(value, torch.Tensor | np.ndarray) and rng.random() < 0.9:
        return _changed_tensor(value, rng)
    odd = [None, True, "", "relu", "../x", -1, 0, 1, 3, 2**40, 10**30, 1e300, float("nan"), [], {}, [[1], []]]
    return odd[rng.integers(len(odd))]


def _changed_names(value: dict, rng: Rng) -> dict:
    names = list(value)
    i, j = (int(n) for n in rng.integers(len(names), size=2))
    kind = int(rng.integers(4))
    if kind == 0:
        return {name: part for name, part in value.items() if name != names[i]}
    if kind == 1:  # exchanged
        return value | {names[i]: value[names[j]], names[j]: value[names[i]]}
    if kind == 2:  # renumbered
        renamed = str(names[i]).translate(str.maketrans("0123456789", "1234567890"))
        return {renamed if name == names[i] else name: part for name, part in value.items()}
    renamed = ["", "x", "weight", ".", f"{names[i]}.", "0.0.0.weight", "é", "9" * 400][rng.integers(8)]
    return {renamed if name == names[i] else name: part for name, part in value.items()}


def _changed_tensor(value: torch.Tensor | np.ndarray, rng: Rng) -> Any:
    tensor = torch.as_tensor(value).clone()
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: tensor.flatten(),
        lambda: tensor.unsqueeze(0),
        lambda: tensor.transpose(0, -1) if tensor.ndim else tensor,
        lambda: tensor[:0] if tensor.ndim else tensor,
        lambda: tensor[:1] if tensor.ndim else tensor,
        lambda: tensor[..., :-1] if tensor.ndim else tensor,
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor,
        lambda: tensor.sum(),
        lambda: tensor.reshape(*[1] * 6, *tensor.shape),
        lambda: tensor.to(torch.int64),
        lambda: tensor.half(),
        lambda: tensor.double(),
        lambda: tensor != 0,
        lambda: torch.full_like(tensor, float("nan")),
        lambda: torch.full_like(tensor, 1e38),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to_sparse(),
        lambda: tensor[:1].expand(1 << 20, *tensor.shape[1:]) if tensor.ndim else tensor,
    ]
    kept = changes if isinstance(value, torch.Tensor) else changes[:-4]
    changed = kept[rng.integers(len(kept))]()
    return changed if isinstance(value, torch.Tensor) else changed.numpy()
