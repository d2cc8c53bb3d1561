"""Elastic Decision Transformer (Wu et al. 2023, arXiv 2307.02484): the network that its losses train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from dtag_fast.models.reinformer import ReturnPredictor
from dtag_fast.models.sequence import SequenceConfig


@dataclass(frozen=True, kw_only=True)
class ElasticDecisionTransformerConfig(SequenceConfig):
    """Defaults of the published network: K 20, 4 post-norm blocks of width 512 with 4 heads."""

    d_model: int = 512
    n_layer: int = 4
    n_head: int = 4
    return_classes: int = 60  # into which a second head sorts the return


class ElasticOutput(NamedTuple):
    """Predictions for every step of a window; those of padding steps mean nothing."""

    actions: Tensor  # (B, K, A), inside the action bounds
    returns: Tensor  # (B, K, 1) scaled return-to-go
    return_logits: Tensor  # (B, K, C)
    next_states: Tensor  # (B, K, S), standardised


class ElasticDecisionTransformer(ReturnPredictor):
    """A `ReturnPredictor` with two heads that only train the trunk: classes of the return, the next state.

    The state token predicts return and class, the return token the action, and with that the next state.
    """

    def __init__(self, config: ElasticDecisionTransformerConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.class_head = nn.Linear(config.d_model, config.return_classes)
        self.state_head = nn.Linear(config.d_model + config.action_dim, config.state_dim)

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> ElasticOutput:
        """Predict every step; arguments as Reinformer's."""
        hidden = self.hidden(states, actions, returns_to_go, timesteps, mask, ("state", "return"), generator)
        of_state, of_return = hidden.unbind(dim=2)  # (B, K, D) each
        predicted = self.bounded(self.action_head(of_return))
        unit = self.action_bounds.inverse(predicted)
        return ElasticOutput(
            actions=predicted,
            returns=self.return_head(of_state),
            return_logits=self.class_head(of_state),
            next_states=self.state_head(torch.cat((of_return, unit), dim=-1)),
        )
