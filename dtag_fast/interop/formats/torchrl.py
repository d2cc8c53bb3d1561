"""TorchRL in memory: a `ValueOperator` of observation and action, and losses with stacked Q parameters.

`refine` takes a ValueOperator of (observation, action) as it is. What this adds: other orders of the keys,
the members that a loss keeps as stacked parameters, its target critic, and a scaling of the states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dtag_fast.interop.formats.ensembles import unstack_functional
from dtag_fast.interop.source import CriticFile, Options, class_names
from dtag_fast.interop.traced import critic_of_modules
from dtag_fast.models.foreign_critic import ForeignCritic

NAME = "torchrl"
WHAT = "a ValueOperator of observation and action in memory, or a loss that holds one (SAC, TD3, IQL, ...)"
TAKES: frozenset[str] = frozenset()

_MODULE = "tensordict.nn.common.TensorDictModule"
_LOSS = "torchrl.objectives.common.LossModule"
_PARAMETERS = "tensordict.base.TensorDictBase"
_NETWORKS = ("qvalue_network", "value_network")  # DDPG calls its Q the value network


class ByPosition(nn.Module):
    """A module that takes (action, observation), called with (states, actions)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.module(actions, states)


def takes_object(source: Any) -> bool:
    return bool({_MODULE, _LOSS, _PARAMETERS} & class_names(source)) or _is_pair(source)


def from_object(source: Any, options: Options) -> ForeignCritic:
    if _PARAMETERS in class_names(source):
        raise ValueError(
            f"{type(source).__name__}: parameters do not say what is done with them: give (parameters, "
            "value operator), or the loss"
        )
    if _LOSS in class_names(source):
        network, parameters = _of_loss(source, options.target)
    elif options.target:
        raise ValueError("target: a ValueOperator has none; give the loss, or its target parameters")
    else:
        parameters, network = source if _is_pair(source) else (None, source)
    last = _action_last(network)
    modules = [network.module] if parameters is None else _members(network, parameters)
    name = f"TorchRL {type(source).__name__ if not _is_pair(source) else type(network).__name__}"
    return critic_of_modules(modules if last else [ByPosition(m) for m in modules], name, options)


def takes_file(file: CriticFile) -> bool:
    return False


def from_file(file: CriticFile, options: Options) -> ForeignCritic:
    raise ValueError(
        f"{file.path}: TorchRL's critics are taken in memory: load its state dict into the ValueOperator, "
        "then load_critic(value_operator)"
    )


def _is_pair(source: Any) -> bool:
    """(stacked parameters, ValueOperator)."""
    return (
        isinstance(source, Sequence)
        and not isinstance(source, str | bytes)
        and len(source) == 2
        and _MODULE in class_names(source[1])
        and hasattr(source[0], "items")
    )


def _of_loss(loss: Any, target: bool) -> tuple[nn.Module, Any]:
    """A loss's Q network and its parameters or those of the target."""
    kind = type(loss).__name__
    for name in _NETWORKS:
        network = getattr(loss, name, None)
        if network is not None and any(_is_action(key) for key in getattr(network, "in_keys", ())):
            held = f"target_{name}_params" if target else f"{name}_params"
            parameters = getattr(loss, held, None)
            if parameters is None:
                raise ValueError(f"TorchRL {kind}: expected its parameters under {held}, found none")
            return network, parameters
    raise ValueError(f"TorchRL {kind}: holds no Q of observation and action (qvalue_network)")


def _action_last(network: nn.Module) -> bool:
    """Whether the keys are (observation, action) and not the other way about.

    Raises:
        ValueError: other keys than one observation and one action, or several outputs.
    """
    keys = list(network.in_keys)
    actions = [_is_action(key) for key in keys]
    if len(keys) != 2 or sum(actions) != 1:
        raise ValueError(
            f"TorchRL {type(network).__name__}: expected two in_keys, one observation vector and one action, "
            f"got {keys}; join several observations in a module of your own and give that to refine"
        )
    return actions[1]


def _is_action(key: Any) -> bool:
    """Whether a key, nested or not, is that of the action."""
    return str(key[-1] if isinstance(key, tuple) else key) == "action"


def _members(network: nn.Module, parameters: Any) -> list[nn.Module]:
    """A copy of what is in the network for each entry of the stacked parameters, or one if they are not."""
    flat = _flat(parameters)
    own = network.state_dict()
    if flat.keys() == own.keys() and all(flat[name].shape == own[name].shape for name in own):
        flat = {name: tensor[None] for name, tensor in flat.items()}
    return [member.module for member in unstack_functional(flat, {}, network)]


def _flat(parameters: Any, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of a TensorDict by dotted names."""
    found: dict[str, Tensor] = {}
    for key, value in parameters.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping) or hasattr(value, "items"):
            found |= _flat(value, f"{prefix}{key}.")
    return found
