"""A key map of the user's own, for codes whose names nothing here knows: Reinformer's and Online DT's say.

    {
      "algorithm": "reinformer",                     dt, reinformer or odt
      "settings": {"n_head": 8, "context_len": 5},   of its network; what is left out is as in that algorithm
      "keys": {                                      their name -> ours; null: not needed
        "encoder.{n}.query.{p}": "transformer.blocks.{n}.attention.q.{p}",
        "next_state.*": null
      }
    }

Rules are those of `KeyMap`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dtag_fast.interop.policies.assembly import MODELS
from dtag_fast.interop.policies.key_map import KeyMap
from dtag_fast.interop.policies.layouts import Said, Settings, Weights
from dtag_fast.interop.policies.source import PolicySource
from dtag_fast.training.files import read_json

_FIELDS = {"algorithm": str, "settings": dict, "keys": dict}
# What shapes tell, and what does not go by this file.
_NOT_SETTINGS = {"state_dim", "action_dim", "d_model", "n_layer", "max_timestep", "return_scale", "discrete"}
_SAID = ("context_len", "n_head", "activation")


def read_with_key_file(path: Path, source: PolicySource, said: Said) -> Weights:
    """The candidate of the source that the map's rules fit best, under our names.

    Raises:
        FileNotFoundError, ValueError: of the map; or its rules do not fit the source.
    """
    described = _read(path)
    keys = KeyMap(described["keys"], f"the key map {path}")
    tensors = max(source.candidates, key=keys.matches)
    settings = Settings(said)
    fields = {field.name: field for field in dataclasses.fields(MODELS[described["algorithm"]][1])}
    values = described.get("settings", {})
    foreign = sorted(set(values) - (set(fields) - _NOT_SETTINGS))
    if foreign:
        known = ", ".join(sorted(set(fields) - _NOT_SETTINGS))
        raise ValueError(f"{path}: settings: expected some of {known}, got {foreign[0]!r}")
    settings.values |= values
    for name in _SAID:
        settings.take(name, values.get(name), fields[name].default)
    mapped, dropped = keys.apply(tensors)
    if dropped:
        settings.notes.append(f"left out, as the key map says: {', '.join(dropped)}")
    max_action = settings.choose("max_action", None, 1.0)
    words = f"weights mapped by {path.name}"
    return Weights(described["algorithm"], words, mapped, settings.values, settings.notes, max_action)


def _read(path: Path) -> Mapping[str, Any]:
    described = read_json(path)
    if not isinstance(described, dict) or not {"algorithm", "keys"} <= set(described) <= set(_FIELDS):
        raise ValueError(f"{path}: expected a JSON object with algorithm, keys and, where needed, settings")
    for name, value in described.items():
        if not isinstance(value, _FIELDS[name]):
            raise ValueError(f"{path}: {name}: expected a {_FIELDS[name].__name__}, got {value!r}")
    if described["algorithm"] not in MODELS:
        known = ", ".join(MODELS)
        raise ValueError(f"{path}: algorithm: expected one of {known}, got {described['algorithm']!r}")
    return described


def names_of(tensors: Mapping[str, Tensor]) -> str:
    """The first names of a state dict, for who writes a map."""
    names = list(tensors)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
