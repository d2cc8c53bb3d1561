"""d3rlpy 2.x: Q functions of its algorithms with continuous actions, from memory, `.d3` and `.pt` files.

A `.d3` file (`algo.save`) is a pickle of the configuration as JSON and of a `torch.save` of state dicts; a
`.pt` file (`algo.save_model`) is the state dicts alone. Q is what `algo.predict_value` averages over the
ensemble: of observations and actions scaled as in training, in units of the scaled reward (d3rlpy does not
undo its reward scaler there) unless the caller asks for raw ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dtag_fast.interop.chains import input_width
from dtag_fast.interop.formats.d3rlpy_networks import NO_PART, Part, ensemble_tensors, member
from dtag_fast.interop.source import CriticFile, Options, class_names
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.untrusted.plain_json import read_json
from dtag_fast.untrusted.torch_file import load_plain

NAME = "d3rlpy"
WHAT = "a .d3 of algo.save, a .pt of algo.save_model, or a built d3rlpy algorithm with continuous actions"
TAKES = frozenset({"activation", "reward_units"})

ALGORITHMS = (
    *("awac", "bcq", "bear", "cal_ql", "cql", "crr", "ddpg", "iql", "plas", "plas_with_perturbation"),
    *("prdc", "rebrac", "sac", "td3", "td3_plus_bc"),
)
PARTS = ("critic_encoder_factory", "q_func_factory", "observation_scaler", "action_scaler", "reward_scaler")
DEFAULTS = {"q_func_factory": Part("mean")}  # of algorithms where it cannot be chosen: IQL
_REWARD_RANGES = {"min_max": ("minimum", "maximum"), "return": ("return_min", "return_max")}
_FIRST_LAYER = re.compile(r"0\.(module\.)?_encoder\._layers\.0\.weight")


@dataclass(frozen=True)
class _Model:
    """What a file or an algorithm holds.

    Attributes:
        where: it was found, for errors. states: state dicts by the names of modules ("q_funcs").
    """

    where: str
    algorithm: str
    states: Mapping[str, Any]
    state_dim: int
    action_dim: int
    encoder: Part
    q_func: Part
    observation_scaler: Part = NO_PART
    action_scaler: Part = NO_PART
    reward_scaler: Part | None = None  # None: not told


def takes_object(source: Any) -> bool:
    return "d3rlpy.base.LearnableBase" in class_names(source)


def from_object(source: Any, options: Options) -> ForeignCritic:
    """Of an algorithm in memory; its weights are copied."""
    where, config, impl = f"d3rlpy's {type(source).__name__}", source.config, source.impl
    _expect_untold(where, options)
    _check_algorithm(where, config.get_type())
    if impl is None:
        raise ValueError(f"{where}: not built, it has no networks; fit it or call build_with_dataset first")
    state_dim, action_dim = _widths(where, impl.observation_shape, impl.action_size)
    states = {
        name: getattr(impl.modules, name).state_dict()
        for name in ("q_funcs", "targ_q_funcs")
        if hasattr(impl.modules, name)
    }
    model = _Model(
        where,
        config.get_type(),
        states,
        state_dim,
        action_dim,
        *(_part_in_memory(config, name) for name in PARTS),
    )
    return _critic(model, options)


def _expect_untold(where: str, options: Options) -> None:
    if options.activation is not None:
        raise ValueError(f"activation: {where} says it itself; leave activation out")


def _part_in_memory(config: Any, name: str) -> Part:
    part = getattr(config, name, None)
    return DEFAULTS.get(name, NO_PART) if part is None else Part(part.get_type(), vars(part))


def takes_file(file: CriticFile) -> bool:
    if file.content[:1] == b"\x80":
        return all(mark in file.content for mark in (b"torch", b'"observation_shape"', b'"action_size"'))
    if not any(name.endswith("/data.pkl") for name in file.entries):
        return False
    try:
        plain = file.plain
    except ValueError:  # it may be for another format, with modules beside the weights
        return False
    states = plain.get("q_funcs") if isinstance(plain, dict) else None
    return isinstance(states, dict) and any(_FIRST_LAYER.fullmatch(str(name)) for name in states)


def from_file(file: CriticFile, options: Options) -> ForeignCritic:
    described = file.content[:1] == b"\x80"
    if described:
        _expect_untold(str(file.path), options)
    return _critic(_described(file) if described else _undescribed(file, options), options)


def _described(file: CriticFile) -> _Model:
    """Of a `.d3` file."""
    parts = file.plain
    if not isinstance(parts, dict) or not isinstance(parts.get("torch"), bytes):
        raise ValueError(
            f"{file.path}: expected a file of d3rlpy's algo.save: a dict with 'torch' and 'config'"
        )
    where = str(file.path)
    written = parts.get("config")
    config = read_json(written if isinstance(written, str) else "", f"{where}: its 'config'")
    algorithm = _part(config, "config", where)
    _check_algorithm(where, algorithm.type)
    state_dim, action_dim = _widths(where, config.get("observation_shape"), config.get("action_size"))
    states = load_plain(file.path, parts["torch"])
    return _Model(
        where,
        algorithm.type,
        states if isinstance(states, dict) else {},
        state_dim,
        action_dim,
        *(_part(algorithm.params, name, where) for name in PARTS),
    )


def _part(config: Any, name: str, where: str) -> Part:
    part = config.get(name) if isinstance(config, dict) else None
    if part is None and name in DEFAULTS:
        return DEFAULTS[name]
    kind, params = (part.get("type"), part.get("params")) if isinstance(part, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(params, dict):
        raise ValueError(
            f"{where}: its configuration has no {name} with a type and params, as d3rlpy 2 writes it"
        )
    return Part(kind, params)


def _undescribed(file: CriticFile, options: Options) -> _Model:
    """Of a `.pt` file: shapes tell the widths and kinds of layers; the scalers it does not hold."""
    states, where = file.plain, str(file.path)
    if not isinstance(states, dict):
        states = {}
    width = _first_inputs(where, states, "q_funcs", "0._encoder._layers.0.weight")
    if "policy" not in states:
        raise ValueError(
            f"{where}: Q functions without a policy are those of discrete actions, not read here"
        )
    told = width - _first_inputs(where, states, "policy", "_encoder._layers.0.weight")
    if told == 0 and "vae_encoder" not in states:
        raise ValueError(
            f"{where}: its Q functions take states alone; those of discrete actions are not read"
        )
    action_dim = told if options.action_dim is None else options.action_dim
    if not 0 < action_dim < width:
        raise ValueError(
            f"{where}: Q functions of {width} inputs do not tell how many are actions; pass action_dim=, "
            "or save with algo.save"
        )
    encoder = Part("vector", {"activation": options.activation or "relu"})
    heads = [str(name) for name in states["q_funcs"]]
    q_func = Part("iqn" if any("._embed." in name for name in heads) else "qr")
    return _Model(where, "weights", states, width - action_dim, action_dim, encoder, q_func)


def _first_inputs(where: str, states: Mapping[str, Any], module: str, name: str) -> int:
    state = states.get(module)
    weight = state.get(name) if isinstance(state, dict) else None
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(f"{where}: expected {module}.{name}, the first layer of an encoder of vectors")
    return weight.shape[1]


def _check_algorithm(where: str, algorithm: str) -> None:
    if algorithm in ALGORITHMS:
        return
    discrete = algorithm.startswith("discrete_") or algorithm in ("dqn", "double_dqn", "nfq")
    reason = (
        "its actions are discrete, there is no gradient to follow"
        if discrete
        else "no Q function is known of it"
    )
    raise ValueError(f"{where}: {algorithm[:40]!r}: {reason}; expected one of {', '.join(ALGORITHMS)}")


def _widths(where: str, observation_shape: Any, action_size: Any) -> tuple[int, int]:
    """S, A of the shapes d3rlpy names."""
    shape = list(observation_shape) if isinstance(observation_shape, list | tuple) else []
    if len(shape) != 1 or type(shape[0]) is not int or shape[0] < 1:
        raise ValueError(
            f"{where}: observations of shape {str(observation_shape)[:60]}; expected vectors (S,): images "
            "and tuples of observations are not read"
        )
    if type(action_size) is not int or action_size < 1:
        raise ValueError(
            f"{where}: expected action_size, a number of dimensions, got {str(action_size)[:40]}"
        )
    return shape[0], action_size


def _critic(model: _Model, options: Options) -> ForeignCritic:
    which = "targ_q_funcs" if options.target else "q_funcs"
    state = model.states.get(which)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{model.where}: expected {which}, the state dict of its Q functions, found none")
    tensors = ensemble_tensors(state, f"{model.where}: {which}")
    try:
        members = [member(part, model.encoder, model.q_func) for part in tensors]
        width = input_width(members)
        if width != model.state_dim + model.action_dim:
            raise ValueError(
                f"expected {model.state_dim} + {model.action_dim} inputs of the Q functions, got {width}"
            )
        scaling = options.scaling(
            **_state_scaling(model), **_action_scaling(model), **_reward_scaling(model, options)
        )
        return ForeignCritic(
            members,
            f"d3rlpy {model.algorithm}",
            model.state_dim,
            model.action_dim,
            scaling,
            _bounds(model),
        )
    except ValueError as error:
        raise ValueError(f"{model.where}: {error}") from None


def _state_scaling(model: _Model) -> dict[str, Any]:
    kind, params = model.observation_scaler.type, model.observation_scaler.params
    if kind == "none":
        return {}
    if kind == "standard":
        mean, std = (_vector(params, name, model.state_dim) for name in ("mean", "std"))
        return {
            "state_shift": mean,
            "state_scale": std + _real(params.get("eps", 1e-3), "observation_scaler eps"),
        }
    if kind == "min_max":
        low, high = (_vector(params, name, model.state_dim) for name in ("minimum", "maximum"))
        return {"state_shift": (low + high) / 2, "state_scale": (high - low) / 2}
    raise ValueError(f"observation_scaler {kind[:40]!r}: expected standard, min_max or none")


def _action_scaling(model: _Model) -> dict[str, Any]:
    bounds = _bounds(model)
    if bounds is None:
        return {}
    low, high = (bound.astype(np.float64) for bound in bounds)
    return {"action_shift": (low + high) / 2, "action_scale": (high - low) / 2}


def _reward_scaling(model: _Model, options: Options) -> dict[str, float]:
    """Q divided by what rewards were multiplied by. What was added to each stays: how much of it is in Q
    depends on when episodes end."""
    if options.reward_units == "trained":
        return {}
    if model.reward_scaler is None:
        raise ValueError(
            "reward_units: a .pt file does not hold the reward scaler; use the file of algo.save"
        )
    kind, params = model.reward_scaler.type, model.reward_scaler.params
    if kind not in ("none", "multiply", "shift", "clip", "standard", *_REWARD_RANGES):
        raise ValueError(f"reward_scaler {kind[:40]!r}: its factor is not known; leave reward_units out")
    unit = 1.0
    if kind == "standard":
        unit = _scalar(params, "std") + _real(params.get("eps", 1e-3), "reward_scaler eps")
    elif kind in _REWARD_RANGES:
        low, high = (_scalar(params, name) for name in _REWARD_RANGES[kind])
        unit = high - low
    factor = _real(params.get("multiplier", 1.0), "reward_scaler multiplier")
    if not (unit > 0 and factor > 0):
        raise ValueError(f"reward_scaler: expected a positive factor, got {factor} / {unit}")
    return {"q_scale": unit / factor}


def _scalar(params: Mapping[str, Any], name: str) -> float:
    if params.get(name) is None:
        raise ValueError(
            f"reward_scaler {name}: expected a number, it is not fitted; fit the algorithm first"
        )
    value = params[name]
    return _real(value.item() if isinstance(value, np.generic) else value, f"reward_scaler {name}")


def _bounds(model: _Model) -> tuple[np.ndarray, np.ndarray] | None:
    """Of an action scaler, which maps them to -1 and 1."""
    kind, params = model.action_scaler.type, model.action_scaler.params
    if kind == "none":
        return None
    if kind != "min_max":
        raise ValueError(f"action_scaler {kind[:40]!r}: expected min_max or none")
    low, high = (_vector(params, name, model.action_dim) for name in ("minimum", "maximum"))
    if not (low < high).all():
        raise ValueError("action_scaler: expected a minimum below the maximum in every dimension")
    return low.astype(np.float32), high.astype(np.float32)


def _vector(params: Mapping[str, Any], name: str, width: int) -> np.ndarray:
    """(width,) float64 of a list or an array of a scaler."""
    value = params.get(name)
    if value is None:
        raise ValueError(
            f"scaler {name}: expected {width} numbers, it is not fitted; fit the algorithm first"
        )
    entries = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(entries, list) or len(entries) not in (1, width):
        raise ValueError(f"scaler {name}: expected {width} numbers, got {str(value)[:60]!r}")
    return np.array([_real(entry, f"scaler {name}") for entry in entries] * (width // len(entries)))


def _real(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ValueError(f"{name}: expected finite numbers, got {str(value)[:40]!r}")
    return float(value)
