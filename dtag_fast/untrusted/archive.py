"""Zip archives from strangers: what is in them is checked before anything is unpacked, in memory alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

MOST_ENTRIES = 10_000
MOST_BYTES = 4 << 30  # of a file, and unpacked of all its entries together
MOST_EXPANSION = 200  # times the packed size, of what unpacks to more than SMALL
SMALL = 1 << 20
LOCAL_HEADER = 30  # bytes before the name of an entry

_ANEW = "get the file anew"
_STORE = "store its entries uncompressed"


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file of at most MOST_BYTES.

    Args:
        what: the file should be, for the sentence of an error: "a model of Stable-Baselines3".
    Raises:
        FileNotFoundError: there is no such file. ValueError: it is too large, or cannot be read.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: expected {what}, there is {kind}")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"{path}: refused: {size:,} bytes, more than {MOST_BYTES:,}; save the critic's weights alone"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); see to its permissions") from None


def read_entries(path: Path, names: Iterable[str], what: str) -> dict[str, bytes]:
    """The bytes of the entries `names` that are in a zip file; those that are not are left out.

    Args:
        what: as `read_file`.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no zip file, a damaged one, or one whose names or sizes no honest archive has.
    """
    with open_archive(path, what) as archive:
        return {name: read_entry(archive, name, path) for name in names if name in archive.NameToInfo}


def names_in(content: bytes) -> frozenset[str]:
    """Names of the entries of a zip file; none of any other file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return frozenset(archive.namelist())
    except Exception:  # zipfile lets through what comes up: of struct, of numbers, of encodings
        return frozenset()


def open_archive(path: Path, what: str) -> zipfile.ZipFile:
    """A zip file whose list of entries is acceptable; errors as `read_entries`."""
    return open_content(path, read_file(path, what), what)


def open_content(path: Path, content: bytes, what: str) -> zipfile.ZipFile:
    """A zip file in memory whose list of entries is acceptable; `path` and `what` serve for errors."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except Exception as error:  # zipfile lets through what comes up: of struct, of numbers, of encodings
        raise ValueError(
            f"{path}: expected {what}, a zip file; it is none or damaged ({_said(error)}); {_ANEW}"
        ) from None
    try:
        check_entries(archive, path)
        _check_layout(archive, path)
    except ValueError:
        archive.close()
        raise
    return archive


def check_entries(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse paths that leave the archive, names that come twice, and entries that swell."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"{path}: refused: {len(entries):,} entries, more than {MOST_ENTRIES:,}; {_ANEW}")
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError(f"{path}: refused: two of its entries have one name; {_ANEW}")
    for entry in entries:
        _check_entry(entry, path)
    total, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if total > MOST_BYTES or _swells(total, packed):
        raise ValueError(
            f"{path}: refused: it unpacks to {total:,} bytes from {packed:,}, as no weights do; {_STORE}"
        )


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    shown = f"{path}: refused: its entry {entry.filename[:80]!r}"
    parts = PurePosixPath(entry.filename.replace("\\", "/"))
    outside = parts.is_absolute() or ".." in parts.parts or (parts.parts and ":" in parts.parts[0])
    if outside or not parts.parts:
        raise ValueError(f"{shown} names a path outside of it; {_ANEW}")
    if not entry.filename.isprintable():
        raise ValueError(f"{shown} has a name that no file has; {_ANEW}")
    if entry.flag_bits & 0x1 or entry.flag_bits & 0x40:
        raise ValueError(f"{shown} is encrypted; unpack it with its password and zip it without one")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{shown} is compressed by method {entry.compress_type}; {_STORE}")
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise ValueError(f"{shown} is stored uncompressed in another number of bytes than it has; {_ANEW}")
    if _swells(entry.file_size, entry.compress_size):
        raise ValueError(
            f"{shown} unpacks to {entry.file_size:,} bytes from {entry.compress_size:,}; {_STORE}"
        )


def _swells(size: int, packed: int) -> bool:
    return size > SMALL and size > MOST_EXPANSION * max(packed, 1)


def _check_layout(archive: zipfile.ZipFile, path: Path) -> None:
    """Entries follow one another from the first byte on: none shares bytes with another or with the list."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    starts = [entry.header_offset for entry in entries] + [archive.start_dir]
    if starts[0] != 0:
        raise ValueError(f"{path}: refused: a zip file that begins with something else; {_ANEW}")
    for entry, start, following in zip(entries, starts, starts[1:], strict=False):
        if start + LOCAL_HEADER + entry.compress_size > following:
            raise ValueError(f"{path}: refused: its entry {entry.filename[:80]!r} overlaps another; {_ANEW}")


def read_entry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """The bytes of an entry, as many as the list of entries promises, with the checksum it promises."""
    promised = archive.getinfo(name).file_size
    try:
        with archive.open(name) as entry:
            content = entry.read(promised + 1)
    except Exception as error:  # zipfile's, zlib's, struct's: of the entry's own head and packing
        raise ValueError(f"{path}: its entry {name[:80]!r} is damaged ({_said(error)}); {_ANEW}") from None
    if len(content) != promised:
        raise ValueError(
            f"{path}: its entry {name[:80]!r} holds other than the {promised:,} bytes it promises; {_ANEW}"
        )
    return content


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
