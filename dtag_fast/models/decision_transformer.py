"""Decision Transformer (Chen et al. 2021, arXiv 2106.01345): actions that follow from a wanted return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dtag_fast.models.sequence import SequenceConfig, SequenceModel, SequenceOutput


@dataclass(frozen=True, kw_only=True)
class DecisionTransformerConfig(SequenceConfig):
    """Defaults: the post-norm network of min-decision-transformer.

    The original network: norm="pre", activation="relu", padding="left".
    """


class DecisionTransformer(SequenceModel):
    """Tokens (R_t, s_t, a_t) per step; the action is tanh of a linear map of the state token's output.

    Discrete actions: softmax of that map, as in the paper's experiments on Atari; acting takes the largest.
    """

    ORDER = ("return", "state", "action")
    TAKES_DISCRETE = True

    def __init__(self, config: DecisionTransformerConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.action_head = nn.Linear(config.d_model, config.action_dim)

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> SequenceOutput:
        """Predict the action of every step.

        Args:
            states: (B, K, S) standardised. actions: (B, K, A). returns_to_go: (B, K, 1) divided by
            return_scale.
            timesteps: (B, K) int64 in [0, max_timestep). mask: (B, K) bool, True at real steps.
            generator: randomness of dropout in training mode; None takes PyTorch's global one.
        """
        hidden = self.hidden(states, actions, returns_to_go, timesteps, mask, ("state",), generator)
        head = self.action_head(hidden[:, :, 0])
        return SequenceOutput(self.action_of(head), None, None, head if self.config.discrete else None)

    @torch.inference_mode()
    def act(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        trim: bool = True,
    ) -> tuple[Tensor, None]:
        """Action (B, A) of the last real step of each window, and None for a predicted return.

        Equal to `forward` at that step within rounding; the last block computes one row per window.
        Arguments as in `forward`, padded on the side `padding` names; every row has at least one real
        step; the action of the last step is ignored. Call it in eval mode.
        `trim` saves the columns that are padding in every row; without it, a row's bits do not depend on how
        long the other rows' histories are.
        """
        window = self.window(states, actions, returns_to_go, timesteps, mask, trim)
        tokens = self.embed(*window[:4])
        rows = 3 * window.last[:, None] + self.ORDER.index("state")  # (B, 1)
        if window.full:
            rows = rows[0]
        hidden = self.transformer(tokens, self.window_padding(window), rows)
        return self.action_of(self.action_head(hidden[:, 0])), None
