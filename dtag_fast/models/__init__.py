"""Networks: sequence policies over (return, state, action) tokens, critics, and what they are made of."""

from dtag_fast.models.autotuned_decision_transformer import (
    AutotunedDecisionTransformer,
    AutotunedDecisionTransformerConfig,
)
from dtag_fast.models.behaviour import BehaviourModel, LocalBehaviour
from dtag_fast.models.critics import TwinCritic, ValueNet
from dtag_fast.models.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.models.decoder import Decoder
from dtag_fast.models.elastic_decision_transformer import (
    ElasticDecisionTransformer,
    ElasticDecisionTransformerConfig,
)
from dtag_fast.models.gated_critic import GatedCritic
from dtag_fast.models.normalizer import ActionBounds, InputNormalizer
from dtag_fast.models.online_decision_transformer import (
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
    SquashedGaussian,
)
from dtag_fast.models.policies import DeterministicPolicy, GaussianPolicy, StatePolicy, TanhGaussianPolicy
from dtag_fast.models.reinformer import Reinformer, ReinformerConfig
from dtag_fast.models.sequence import SequenceConfig, SequenceModel, SequenceOutput

__all__ = [
    "ActionBounds",
    "AutotunedDecisionTransformer",
    "AutotunedDecisionTransformerConfig",
    "BehaviourModel",
    "DecisionTransformer",
    "DecisionTransformerConfig",
    "Decoder",
    "DeterministicPolicy",
    "ElasticDecisionTransformer",
    "ElasticDecisionTransformerConfig",
    "GatedCritic",
    "GaussianPolicy",
    "InputNormalizer",
    "LocalBehaviour",
    "OnlineDecisionTransformer",
    "OnlineDecisionTransformerConfig",
    "Reinformer",
    "ReinformerConfig",
    "SequenceConfig",
    "SequenceModel",
    "SequenceOutput",
    "SquashedGaussian",
    "StatePolicy",
    "TanhGaussianPolicy",
    "TwinCritic",
    "ValueNet",
]
