"""Zip archives that no honest library writes are refused, in one line that names the file."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from dtag_fast.untrusted import archive
from dtag_fast.untrusted.archive import open_archive, read_entries

WHAT = "a model"


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as written:
        for name, content in entries.items():
            written.writestr(name, content)
    return stream.getvalue()


def with_central(content: bytes, offset: int, code: str, value: int, entry: int = 0) -> bytes:
    """A field of an entry of the list at the end of a zip, changed."""
    at = -1
    for _ in range(entry + 1):
        at = content.index(b"PK\x01\x02", at + 1)
    packed = struct.pack(code, value)
    return content[: at + offset] + packed + content[at + offset + len(packed) :]


def duplicated() -> bytes:
    content = zipped({"a.json": b"1", "b.json": b"2"})
    return content.replace(b"b.json", b"a.json")


def bomb() -> bytes:
    return zipped({"a": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)


def many_small_bombs() -> bytes:
    return zipped({str(i): bytes(1 << 20) for i in range(4)}, zipfile.ZIP_DEFLATED)


TWO = zipped({"a": b"x" * 100, "b": b"y" * 100})

REFUSED = {
    "no zip": (b"text", "a zip file"),
    "nothing": (b"", "a zip file"),
    "cut": (TWO[:-30], "a zip file"),
    "leaves by dots": (zipped({"../a": b"1"}), "outside"),
    "leaves inside": (zipped({"a/../../b": b"1"}), "outside"),
    "absolute": (zipped({"/etc/a": b"1"}), "outside"),
    "a drive": (zipped({"C:/a": b"1"}), "outside"),
    "backslashes": (zipped({"..\\a": b"1"}), "outside"),
    "two lines in a name": (zipped({"a\nb": b"1"}), "no file has"),
    "one name twice": (duplicated(), "one name"),
    "encrypted": (with_central(TWO, 8, "<H", 1), "encrypted"),
    "unknown compression": (with_central(TWO, 10, "<H", 97), "method 97"),
    "bzip2, which this never needs": (zipped({"a": b"1"}, zipfile.ZIP_BZIP2), "method 12"),
    "swells": (bomb(), "unpacks to"),
    "swell together": (many_small_bombs(), "unpacks to"),
    "promises terabytes": (with_central(TWO, 24, "<I", 0xFFFFFFF0), "another number of bytes"),
    "overlaps": (with_central(TWO, 42, "<I", 0, entry=1), "overlaps"),
    "reaches into the list": (
        with_central(with_central(TWO, 20, "<I", 5000, entry=1), 24, "<I", 5000, entry=1),
        "overlaps",
    ),
    "after something else": (b"\x80\x04N." + TWO, "begins with something else"),
    "too many": (zipped({str(i): b"" for i in range(archive.MOST_ENTRIES + 1)}), "10,001 entries"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_honest_archive_has_is_refused_in_one_line(name, tmp_path):
    content, said = REFUSED[name]
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        open_archive(path, WHAT)
    message = str(raised.value)
    assert message.startswith(str(path)) and "\n" not in message and ";" in message  # the remedy


def test_entries_are_read_and_absent_ones_left_out(tmp_path):
    path = tmp_path / "model.zip"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(zipped({"a": b"x" * 100, "folder/b": b""}, method))
        assert read_entries(path, ["a", "folder/b", "c"], WHAT) == {"a": b"x" * 100, "folder/b": b""}


def test_nothing_is_written_next_to_the_file(tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(zipped({"a": b"1"}))
    read_entries(path, ["a"], WHAT)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_changed_bytes_of_an_entry_are_found_by_its_checksum(method, tmp_path):
    content = bytearray(zipped({"a": bytes(range(256)) * 4}, method))
    content[60] ^= 0x10
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="'a' is damaged"):
        read_entries(path, ["a"], WHAT)


def test_an_entry_whose_own_head_has_another_name_is_refused(tmp_path):
    content = bytearray(TWO)
    content[30:31] = b"z"  # of the local head of the first entry
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_entries(path, ["a"], WHAT)


def test_a_file_larger_than_any_critic_is_not_read(tmp_path):
    path = tmp_path / "model.zip"
    with path.open("wb") as file:
        file.truncate(archive.MOST_BYTES + 1)  # sparse: takes no room
    with pytest.raises(ValueError, match="more than"):
        open_archive(path, WHAT)


@pytest.mark.parametrize("there", ["nothing", "folder"])
def test_no_file(there, tmp_path):
    path = tmp_path / "model.zip"
    if there == "folder":
        path.mkdir()
    with pytest.raises(FileNotFoundError, match="expected a model"):
        open_archive(Path(path), WHAT)
