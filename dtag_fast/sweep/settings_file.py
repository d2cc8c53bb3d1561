"""A list of Action Gradient settings in a JSON file, for sweeps that are no grid."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from dtag_fast.ops.refine.options import SGD, Adam, ClipNorm, Radius, RMSprop
from dtag_fast.rollout.settings import AGSetting, Behaviour

_KINDS = {kind.__name__: kind for kind in (SGD, Adam, RMSprop, ClipNorm, Radius, Behaviour)}


def read_settings(path: str | os.PathLike) -> list[AGSetting]:
    """Settings of a JSON file: a list of objects with fields of AGSetting, as `AGSetting.to_dict` gives them.

    An option that is an object is {"name": "Adam", "betas": [0.9, 0.99]}; "clip:1" stands for ClipNorm(1).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such list; names the entry and the field.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"settings: {path}: expected a JSON file, there is none")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"settings: {path}: expected JSON, got something else ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f'settings: {path}: expected a list such as [{{"steps": 5, "lr": 0.03}}], '
            f"got {'an empty one' if entries == [] else type(entries).__name__}"
        )
    return [_setting(entry, f"settings: {path}: entry {number}") for number, entry in enumerate(entries)]


def _setting(entry: Any, where: str) -> AGSetting:
    known = [field.name for field in fields(AGSetting)]
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object with fields of {', '.join(known)}, got {entry!r}")
    foreign = sorted(set(entry) - set(known))
    if foreign:
        raise ValueError(f"{where}: unknown field {foreign[0]!r}; the fields are {', '.join(known)}")
    try:
        return AGSetting(**{name: _option(value) for name, value in entry.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _option(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("clip:"):
        return ClipNorm(float(value.removeprefix("clip:")))
    if not isinstance(value, dict):
        return value
    options = dict(value)
    name = options.pop("name", None)
    if name not in _KINDS:
        raise ValueError(f'expected "name" to be one of {", ".join(_KINDS)}, got {name!r}')
    return _KINDS[name](**options)
