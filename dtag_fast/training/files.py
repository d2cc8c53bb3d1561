"""Files that are either whole or absent, and errors that say which one is not."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: readers and a kill in between see the old or the new text, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        FileNotFoundError: it does not exist. ValueError: it is not whole.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, there is none")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged or truncated JSON ({error})") from error


def read_json_lines(path: Path) -> list[Any]:
    """Parse a file of one JSON value a line. What follows the last line end is left out: a process writes it
    at this moment, or was killed while it did.

    Raises:
        ValueError: a line is damaged.
    """
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:  # of JSON or of UTF-8
            raise ValueError(f"{path}: line {number} is not JSON; the file is damaged") from error
    return found


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, with the rights of any new file, and wait until it is on the disk.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    path.touch()
    mode = path.stat().st_mode  # safetensors makes files that their owner alone may read
    try:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(
            f"{path}: can not be written ({error}); make room or choose another folder, what was saved "
            "before is whole"
        ) from error
    path.chmod(mode)
    sync(path)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: it does not exist. ValueError: it is truncated or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a safetensors file, there is none")
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file ({error})") from error


def checksum(path: Path) -> str:
    """CRC-32 of a file, eight hexadecimal digits."""
    return f"{zlib.crc32(path.read_bytes()):08x}"


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point_link(link: Path, target: str) -> None:
    """Make a symbolic link point at `target` (relative to its folder), in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
