"""Critics of Stable-Baselines3 (SAC, TD3, DDPG) and of sb3-contrib's TQC.

In both libraries an off-policy critic has members qf0, qf1, ... over the flattened observation and the action
scaled to [-1, 1] by the bounds of the action space. A file of theirs is a zip: "policy.pth" is a state dict
with the names critic.qf0.0.weight, critic_target.qf0.0.weight, ...; "data" is JSON, in which objects stand as
a pickle, which is never decoded here, beside a text for each of their attributes, which is what is read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast.interop.chains import chain
from dtag_fast.interop.formats.stable_baselines3_critic import FoundCritic, build_critic
from dtag_fast.interop.formats.stable_baselines3_data import DATA, TrainingData
from dtag_fast.interop.source import CriticFile, Options, class_names
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.untrusted.archive import read_entries
from dtag_fast.untrusted.torch_file import flat_tensors, load_plain

NAME = "stable-baselines3"
WHAT = "a .zip of SAC, TD3, DDPG or TQC, or such a model, its policy or its critic"
TAKES = frozenset({"activation", "quantiles"})

_WEIGHTS = "policy.pth"
_LIBRARIES = ("stable_baselines3.", "sb3_contrib.")
_CRITICS = {  # what their forward is, whatever class it is inherited by
    ("stable_baselines3.common.policies", "ContinuousCritic.forward"),
    ("sb3_contrib.tqc.policies", "Critic.forward"),
}
_FLATTEN = "stable_baselines3.common.torch_layers.FlattenExtractor"
_ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Softplus,
    nn.Identity,
)
_NORMALISATION = ("running_mean", "running_var", "ra_mean", "ra_var")  # of batches, among a layer's tensors


def takes_object(source: Any) -> bool:
    return any(name.startswith(_LIBRARIES) for name in class_names(source))


def from_object(source: Any, options: Options) -> ForeignCritic:
    """The critic of a model, of its policy, or a critic itself; weights and statistics as they are now."""
    shown = type(source).__name__
    if options.activation is not None:
        raise ValueError(f"activation: a {shown} in memory says it itself; leave activation out")
    policy = getattr(source, "policy", source)
    critic = source if hasattr(source, "q_networks") else _critic_of(policy, options.target, shown)
    if options.target and critic is source:
        raise ValueError(f"target: a {shown} alone has no target beside it; give the model or its policy")
    _expect_known(critic, shown)
    mean, std = _normalisation(source, shown)
    members = [_copied(f"qf{i}", network) for i, network in enumerate(critic.q_networks)]
    observations, actions = critic.observation_space, critic.action_space
    return build_critic(
        FoundCritic(
            source=f"{shown} of {type(source).__module__.partition('.')[0]}",
            members=members,
            observation_shape=_shape_of(observations, "observations", shown),
            action_shape=_shape_of(actions, "actions", shown),
            low=np.asarray(actions.low, np.float64).reshape(-1),
            high=np.asarray(actions.high, np.float64).reshape(-1),
            dropped=getattr(source, "top_quantiles_to_drop_per_net", None),
            state_mean=mean,
            state_std=std,
        ),
        options,
    )


def takes_file(file: CriticFile) -> bool:
    return {DATA, _WEIGHTS} <= file.entries


def from_file(file: CriticFile, options: Options) -> ForeignCritic:
    """The critic in a .zip of `model.save`; nothing of it but tensors and plain JSON is decoded."""
    entries = read_entries(file.path, (DATA, _WEIGHTS), "a model of Stable-Baselines3")
    data = TrainingData(entries[DATA], str(file.path))
    weights = load_plain(file.path, entries[_WEIGHTS])
    if not isinstance(weights, Mapping):
        kind = type(weights).__name__
        raise ValueError(f"{file.path}: {_WEIGHTS}: expected a state dict, got an object of class {kind}")
    tensors = _floating(flat_tensors(weights), str(file.path))
    shown = f"{file.path} ({data.algorithm})"
    members = _members(tensors, "critic_target." if options.target else "critic.", data, options, shown)
    space = data.action_space
    return build_critic(
        FoundCritic(
            source=f"{data.algorithm} of Stable-Baselines3",
            members=members,
            observation_shape=data.observation_shape,
            action_shape=None if space is None else space.shape,
            low=None if space is None else space.low,
            high=None if space is None else space.high,
            dropped=data.dropped,
        ),
        options,
    )


def _floating(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Those of real numbers, in float32.

    Raises:
        ValueError: a tensor that the file does not hold the numbers of.
    """
    found = {}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_nested or not tensor.is_floating_point():
            continue
        held = 0 if tensor.is_meta else tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > held:
            raise ValueError(
                f"{where}: refused: {name[:80]} has the shape {tuple(tensor.shape)} and {held:,} bytes"
            )
        found[name] = tensor.float()
    return found


def _members(
    tensors: Mapping[str, Tensor], prefix: str, data: TrainingData, options: Options, shown: str
) -> list[nn.Sequential]:
    """The Q functions under `prefix` in a state dict.

    Raises:
        ValueError: there are none, or something else stands beside them.
    """
    if not any(name.startswith("critic.") for name in tensors):
        raise ValueError(
            f"{shown}: expected the critic of an off-policy algorithm (SAC, TD3, DDPG, TQC); what is in the "
            "file has no Q of continuous actions"
        )
    own = [name for name in tensors if name.startswith(prefix)]
    if not own:
        raise ValueError(f"target: {shown} holds no {prefix[:-1]}; leave target out")
    numbers = set()
    for name in own:
        if name.endswith(_NORMALISATION):
            raise ValueError(
                f"{shown}: {name}: batch normalisation, as in CrossQ, is not read; load the model and give "
                "`refine` a module of raw states and actions"
            )
        member = re.match(r"qf(\d+)\.", name[len(prefix) :])
        if member is None:
            raise ValueError(
                f"{shown}: {name}: expected members qf0, qf1, ... alone; a critic with a features extractor "
                "(images, Dict observations, one of your own) is not read"
            )
        numbers.add(int(member[1]))
    if numbers != set(range(len(numbers))):
        raise ValueError(f"{shown}: expected members qf0, qf1, ... without a gap, got qf{sorted(numbers)}")
    data.expect_vectors()
    activation = data.activation(options.activation)
    members = [chain(tensors, f"{prefix}qf{i}.", activation) for i in range(len(numbers))]
    for i, member in enumerate(members):
        if not isinstance(member[-1], nn.Linear) or member[-1].out_features < 1:
            raise ValueError(f"{shown}: {prefix}qf{i}: expected a network that ends in a Linear layer")
    return members


def _critic_of(policy: Any, target: bool, shown: str) -> Any:
    critic = getattr(policy, "critic_target" if target else "critic", None)
    if hasattr(critic, "q_networks"):
        return critic
    if target and hasattr(policy, "critic"):
        raise ValueError(f"target: a {shown} has no target critic; leave target out")
    raise ValueError(
        f"{shown}: expected the critic of an off-policy algorithm (SAC, TD3, DDPG, TQC); it has no Q of "
        "continuous actions"
    )


def _expect_known(critic: Any, shown: str) -> None:
    """Refuse a critic that computes something else than its members."""
    forward = type(critic).forward
    if (forward.__module__, forward.__qualname__) not in _CRITICS:
        raise ValueError(
            f"{shown}: its critic of class {type(critic).__module__}.{type(critic).__qualname__} is not that "
            "of SAC, TD3, DDPG or TQC; give `refine` a module of raw states and actions"
        )
    extractor = type(critic.features_extractor)
    if f"{extractor.__module__}.{extractor.__qualname__}" != _FLATTEN:
        raise ValueError(
            f"{shown}: its critic has a {extractor.__qualname__}; one with a features extractor other than "
            "FlattenExtractor (images, Dict observations, one of your own) is not read"
        )


def _copied(name: str, network: nn.Module) -> nn.Sequential:
    """A copy on the CPU in float32 of Linear and LayerNorm layers and activations."""
    if not isinstance(network, nn.Sequential):
        raise ValueError(f"{name}: expected a Sequential, got {type(network).__name__}")
    for layer in network:
        if type(layer) not in (nn.Linear, nn.LayerNorm, *_ACTIVATIONS):
            raise ValueError(
                f"{name}: a layer of class {type(layer).__name__} is not read; Linear, LayerNorm and "
                "activations are. Give `refine` a module of raw states and actions"
            )
    if not len(network) or not isinstance(network[-1], nn.Linear):
        raise ValueError(f"{name}: expected a network that ends in a Linear layer")
    return nn.Sequential(*(copy.deepcopy(layer).cpu().float() for layer in network))


def _shape_of(space: Any, what: str, shown: str) -> tuple[int, ...]:
    """Of a Box; ValueError for other spaces and for images."""
    if not (hasattr(space, "low") and hasattr(space, "high")):
        raise ValueError(f"{shown}: expected {what} of a Box space, got {type(space).__name__}")
    if what == "observations" and len(space.shape) == 3 and np.dtype(space.dtype) == np.uint8:
        raise ValueError(f"{shown}: expected observations that are vectors, got images {space.shape}")
    return tuple(space.shape)


def _normalisation(source: Any, shown: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(S,) mean and deviation of the model's VecNormalize; None without one."""
    wrapper = source.get_vec_normalize_env() if hasattr(source, "get_vec_normalize_env") else None
    if wrapper is None or not wrapper.norm_obs:
        return None, None
    statistics = wrapper.obs_rms
    if not hasattr(statistics, "mean"):
        raise ValueError(f"{shown}: expected a VecNormalize of observations that are vectors")
    return statistics.mean.reshape(-1), np.sqrt(statistics.var.reshape(-1) + wrapper.epsilon)
