"""JSON files with settings of an algorithm."""

import json
from pathlib import Path
from typing import Any


def read_settings(path: Path) -> dict[str, Any]:
    """What the file of --config holds.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        settings = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"--config: {path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"--config: expected an object of settings in {path}, got {type(settings).__name__}")
    return settings
