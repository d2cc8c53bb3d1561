"""Networks to and from plain JSON values, for checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from dtag_fast.models.autotuned_decision_transformer import (
    AutotunedDecisionTransformer,
    AutotunedDecisionTransformerConfig,
)
from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.models.critics import TwinCritic, ValueNet
from dtag_fast.models.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.models.elastic_decision_transformer import (
    ElasticDecisionTransformer,
    ElasticDecisionTransformerConfig,
)
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.models.online_decision_transformer import (
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
)
from dtag_fast.models.policies import DeterministicPolicy, GaussianPolicy, TanhGaussianPolicy
from dtag_fast.models.reinformer import Reinformer, ReinformerConfig

_SEQUENCE = {
    "AutotunedDecisionTransformer": (AutotunedDecisionTransformer, AutotunedDecisionTransformerConfig),
    "DecisionTransformer": (DecisionTransformer, DecisionTransformerConfig),
    "ElasticDecisionTransformer": (ElasticDecisionTransformer, ElasticDecisionTransformerConfig),
    "OnlineDecisionTransformer": (OnlineDecisionTransformer, OnlineDecisionTransformerConfig),
    "Reinformer": (Reinformer, ReinformerConfig),
}
_PLAIN = {
    network.__name__: network
    for network in (
        BehaviourModel,
        TwinCritic,
        ValueNet,
        GaussianPolicy,
        DeterministicPolicy,
        TanhGaussianPolicy,
    )
} | {"ForeignCritic": ForeignCritic.from_config}


def describe(network: nn.Module) -> dict[str, Any]:
    """{"type", "config"}: what `build` needs to make a network of the same shape."""
    config = network.config
    config = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)
    return {"type": type(network).__name__, "config": config}


def build(description: dict[str, Any]) -> nn.Module:
    """A network with the described shape; its weights and statistics are still to be loaded.

    Raises:
        ValueError: unknown type, or a config with a missing or foreign key.
    """
    kind, config = description["type"], description["config"]
    if kind not in _SEQUENCE and kind not in _PLAIN:
        raise ValueError(
            f"network type: expected one of {', '.join([*_SEQUENCE, *_PLAIN])}, got {kind!r}; "
            "it may come from a newer version of dtag_fast"
        )
    try:
        if kind in _PLAIN:
            return _PLAIN[kind](**config)
        network, config_class = _SEQUENCE[kind]
        return network(config_class(**config))
    except TypeError as error:  # Python's own sentence names the missing or foreign argument
        raise ValueError(f"config of {kind}: {error}") from error
