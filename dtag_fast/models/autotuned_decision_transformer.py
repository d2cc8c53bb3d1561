"""Autotuned Decision Transformer, V-ADT (Ma et al. 2023, arXiv 2311.00267): values in the place of returns.

In training the return token is Q(s_t, a_t), in evaluation V(s_t): what a good action is worth. No return is
asked for, and none is tracked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtag_fast.models.critics import ValueNet
from dtag_fast.models.decision_transformer import DecisionTransformer, DecisionTransformerConfig


@dataclass(frozen=True, kw_only=True)
class AutotunedDecisionTransformerConfig(DecisionTransformerConfig):
    """A Decision Transformer and the shape of the value function that it carries, as `ValueNet` takes it."""

    value_hidden: tuple[int, ...] = (256, 256)
    value_layer_norm: bool = False
    value_activation: str = "relu"


class AutotunedDecisionTransformer(DecisionTransformer):
    """`forward` and `act` are a Decision Transformer's; `prompts` makes the return tokens of a rollout.

    Attributes:
        value: V of raw states. It was trained before, takes no gradients and is saved with the model.
    """

    TAKES_DISCRETE = False
    takes_target_return = False

    def __init__(self, config: AutotunedDecisionTransformerConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.value = ValueNet(
            config.state_dim, config.value_hidden, config.value_layer_norm, config.value_activation
        ).requires_grad_(False)

    @torch.inference_mode()
    def prompts(self, states: Tensor) -> Tensor:
        """raw states (B, S) -> V(s) / return_scale, (B, 1)."""
        return self.value(states) / self.config.return_scale
