"""Algorithms by name, and their settings per dataset."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch

from dtag_fast.algorithms import (
    adt,
    awac,
    awac_odt,
    bc,
    cql,
    dt,
    edt,
    iql,
    iql_odt,
    odt,
    qt,
    reinformer,
    sac_odt,
    td3_odt,
    td3bc,
)
from dtag_fast.algorithms.base import Algorithm, DataSpec
from dtag_fast.algorithms.trained_critic import TrainedCritic
from dtag_fast.data import TrajectoryStore
from dtag_fast.data.env_ids import bare_id


@dataclass(frozen=True)
class Entry:
    """An algorithm and its config class; `entry.config()` is the default config."""

    algorithm: type[Algorithm]
    config: type


ALGORITHMS: dict[str, Entry] = {
    "dt": Entry(dt.DT, dt.Config),
    "reinformer": Entry(reinformer.Reinformer, reinformer.Config),
    "odt": Entry(odt.ODT, odt.Config),
    "adt": Entry(adt.ADT, adt.Config),
    "bc": Entry(bc.BC, bc.Config),
    "edt": Entry(edt.EDT, edt.Config),
    "qt": Entry(qt.QT, qt.Config),
    "td3-odt": Entry(td3_odt.TD3ODT, td3_odt.Config),
    "ddpg-odt": Entry(td3_odt.DDPGODT, td3_odt.DDPGConfig),
    "td3": Entry(td3_odt.TD3, td3_odt.TD3Config),
    "sac-odt": Entry(sac_odt.SACODT, sac_odt.Config),
    "awac-odt": Entry(awac_odt.AWACODT, awac_odt.Config),
    "iql-odt": Entry(iql_odt.IQLODT, iql_odt.Config),
    "iql": Entry(iql.IQL, iql.Config),
    "td3bc": Entry(td3bc.TD3BC, td3bc.Config),
    "awac": Entry(awac.AWAC, awac.Config),
    "cql": Entry(cql.CQL, cql.Config),
}

# pattern in an environment id or dataset id, in lower case -> family of presets
_FAMILIES = {
    "halfcheetah": "halfcheetah",
    "hopper": "hopper",
    "walker2d": "walker2d",
    "antmaze": "antmaze",
    r"\bant\b": "ant",
    "pointmaze|maze2d": "maze2d",
    "kitchen": "kitchen",
    r"adroithand|\b(door|hammer|pen|relocate)\b": "adroit",
}
# family -> kinds of its datasets: the first that one of its ids contains has settings of its own
_MAZES = ("umaze", "medium", "large", "open")
_KINDS = {
    "maze2d": _MAZES,
    "antmaze": _MAZES,
    "adroit": ("pen", "hammer", "door", "relocate"),
}
_QUALITIES = ("medium-replay", "medium-expert", "medium")  # of the other families


def lookup(name: str) -> Entry:
    """The entry of an algorithm.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {name!r}")
    return ALGORITHMS[name]


def create(
    name: str,
    store: TrajectoryStore,
    config: Any = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    capturable: bool = False,
    critic: TrainedCritic | None = None,
) -> Algorithm:
    """An algorithm ready to train on a store.

    Args:
        name: key of ALGORITHMS. store: decides sizes, statistics and scales.
        config: the algorithm's config; None for the preset of the dataset.
        seed: of weights and dropout. device: where it trains.
        capturable: keep learning rates and counts on the device, as a CUDA graph of updates needs.
        critic: trained before; for settings that learn from one.
    """
    entry = lookup(name)
    config = preset_config(name, store.metadata) if config is None else config
    if not isinstance(config, entry.config):
        raise TypeError(f"config: expected {_full_name(entry.config)} for {name}, got {type(config)!r}")
    return entry.algorithm(
        config, DataSpec.of(store), seed=seed, device=device, capturable=capturable, critic=critic
    )


def preset_config(name: str, metadata: dict[str, Any]) -> Any:
    """Config of an algorithm for a dataset: defaults, then the family's settings, then those of its kind.

    They stand, with their sources, in presets/<algorithm>.toml. A file may name another that it `inherits`:
    its settings go before those of the same table there.

    Args:
        name: key of ALGORITHMS.
        metadata: of the store; env_id and dataset_id are looked at. Unknown environments get the defaults.
    """
    return config_from_dict(lookup(name).config, family_settings(_presets(name), metadata))


def family_settings(presets: dict[str, dict[str, Any]], metadata: dict[str, Any]) -> dict[str, Any]:
    """What presets hold for a dataset: the settings of its family, then those of its kind."""
    family = family_of(metadata)
    ids = " ".join(_ids(metadata))
    kind = next((kind for kind in _KINDS.get(family, _QUALITIES) if kind in ids), None)
    return {**presets.get(family, {}), **presets.get(f"{family}-{kind}", {})}


def family_of(metadata: dict[str, Any]) -> str | None:
    """Family of presets of a dataset, from its environment id or else its own id; None when it has none."""
    for name in _ids(metadata):
        for pattern, family in _FAMILIES.items():
            if re.search(pattern, name):
                return family
    return None


def _ids(metadata: dict[str, Any]) -> tuple[str, str]:
    """Ids of the environment, without its module, and of the dataset, in lower case; "" for none."""
    env_id, dataset_id = (str(metadata.get(key) or "").lower() for key in ("env_id", "dataset_id"))
    return bare_id(env_id), dataset_id


def config_from_dict(config_class: type, values: dict[str, Any]) -> Any:
    """A config from JSON values; absent fields keep their defaults.

    Raises:
        ValueError: a key the config does not have, or values that it refuses.
    """
    return config_class(**config_values(config_class, values))


def config_values(config_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """JSON values as a config takes them: lists become tuples.

    Raises:
        ValueError: a key the config does not have.
    """
    known = {field.name for field in dataclasses.fields(config_class)}
    foreign = ", ".join(sorted(set(values) - known))
    if foreign:
        raise ValueError(
            f"config: expected fields of {_full_name(config_class)}, got foreign {foreign}; "
            "it may come from a newer version of dtag_fast"
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _full_name(config_class: type) -> str:
    return f"{config_class.__module__}.{config_class.__qualname__}"


@cache
def _presets(name: str) -> dict[str, dict[str, Any]]:
    """Tables of settings of a file of presets and of those it inherits; none where there is no such file."""
    file = resources.files("dtag_fast.algorithms").joinpath("presets", f"{name}.toml")
    if not file.is_file():
        return {}
    own = tomllib.loads(file.read_text())
    inherited = _presets(own.pop("inherits")) if "inherits" in own else {}
    tables = dict.fromkeys((*inherited, *own))
    return {table: {**inherited.get(table, {}), **own.get(table, {})} for table in tables}
