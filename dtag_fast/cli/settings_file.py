"""JSON files with settings of an algorithm."""

import copy
import json
from pathlib import Path
from typing import Any


def with_settings_of(path: Path, defaults: Any) -> Any:
    """An algorithm's config with the settings of a file in place of its own, not checked together.

    Options go before both, and may set right what does not go together; who builds a config of them checks.

    Raises:
        ValueError: the file is no JSON object, or has a key that the config does not have.
    """
    from dtag_fast.algorithms.registry import config_values

    found = copy.copy(defaults)
    for name, value in config_values(type(defaults), _read_settings(path)).items():
        object.__setattr__(found, name, value)
    return found


def _read_settings(path: Path) -> dict[str, Any]:
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
