"""JSON from strangers: a bounded text that gives plain values."""

from __future__ import annotations

import json
from typing import Any

from dtag_fast.untrusted.containers import Refused, check_size

MOST_CHARACTERS = 16 << 20


def read_json(text: str | bytes, where: str, most_characters: int = MOST_CHARACTERS) -> Any:
    """The value of a JSON text.

    Args:
        where: it stands, for the sentence of an error: "model.d3: its entry 'config'".
    Raises:
        ValueError: no JSON, or longer or nested deeper than a configuration is.
    """
    if len(text) > most_characters:
        raise ValueError(f"{where}: refused: {len(text):,} characters of JSON, more than {most_characters:,}")
    try:
        value = json.loads(text)
        check_size(value, most_values=len(text))
    except RecursionError:
        raise ValueError(f"{where}: refused: JSON nested deeper than a configuration is") from None
    except Refused as error:
        raise ValueError(f"{where}: {error}") from None
    except ValueError as error:  # also of text that is no UTF-8, and of numbers of thousands of digits
        raise ValueError(
            f"{where}: expected JSON, it is damaged ({str(error).splitlines()[0][:120]}); get the file anew"
        ) from None
    return value
