"""JSON of strangers: plain values, or one line."""

from __future__ import annotations

import pytest

from dtag_fast.untrusted import plain_json
from dtag_fast.untrusted.plain_json import read_json


def test_values_come_as_written():
    assert read_json('{"a": [1, 2.5, null, true], "b": {"c": "é"}}', "here") == {
        "a": [1, 2.5, None, True],
        "b": {"c": "é"},
    }
    assert read_json(b"[1]", "here") == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected JSON"),
        ('{"a": 1', "expected JSON"),
        (b"\xff\xfe\xfa", "expected JSON"),
        ("[" * 100_000, "nested deeper"),
        ("[" * 100 + "]" * 100, "nested more than"),
        ("9" * 100_000, "expected JSON"),
        (" " * (plain_json.MOST_CHARACTERS + 1), "more than"),
    ],
    ids=["nothing", "cut", "no text", "endless brackets", "deep", "a long number", "long"],
)
def test_what_is_no_configuration_is_refused_in_one_line(text, said):
    with pytest.raises(ValueError, match=said) as raised:
        read_json(text, "file.d3: its config")
    assert str(raised.value).startswith("file.d3: its config") and "\n" not in str(raised.value)


def test_a_longer_text_may_be_allowed():
    assert read_json(" " * plain_json.MOST_CHARACTERS + "[1]", "here", 1 << 28) == [1]
