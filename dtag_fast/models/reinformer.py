"""Reinformer (Zhuang et al. 2024, arXiv 2405.08740): act on the highest return the model finds reachable.

`ReturnPredictor` is its network without a distribution of actions; Elastic Decision Transformer shares it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dtag_fast.models.past import Kept
from dtag_fast.models.sequence import SequenceConfig, SequenceModel, SequenceOutput

LOG_STD_RANGE = (-20.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class ReinformerConfig(SequenceConfig):
    """Defaults of the published network: K 5, 4 blocks of width 256 with 8 heads, padding on the right."""

    context_len: int = 5
    d_model: int = 256
    n_layer: int = 4
    n_head: int = 8


class ReturnPredictor(SequenceModel):
    """Tokens (s_t, R_t, a_t) per step: the state token predicts the return, the return token the action."""

    ORDER = ("state", "return", "action")

    def __init__(self, config: SequenceConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.return_head = nn.Linear(config.d_model, 1)
        self.action_head = nn.Linear(config.d_model, config.action_dim)

    @torch.inference_mode()
    def act(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        trim: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Predict the return of the last real step, then act on it: (B, A) action, (B, 1) scaled return.

        The action is the mean of its distribution, or the one-hot row of the most probable discrete one.

        Equal, within rounding, to two calls of `forward`, the second with the predicted return in place.
        Only the return token differs between those two and nothing before it sees it, so one pass over the
        tokens up to the last state keeps each block's keys and values, and the return token alone follows.

        Arguments as in `forward`, padded on the side `padding` names; every row has at least one real
        step; return and action of the last step are ignored. Call it in eval mode.
        `trim` saves the columns that are padding in every row; without it, a row's bits do not depend on how
        long the other rows' histories are.
        """
        window = self.window(states, actions, returns_to_go, timesteps, mask, trim)
        # Full windows end with the last state; others keep a place behind it for the return.
        tokens = self.embed(*window[:4], omit=2 if window.full else 1)  # (B, 3K-2 or 3K-1, D)
        padding = self.window_padding(window)
        rows = 3 * window.last[:, None]  # (B, 1), each window's last state token
        if window.full:
            rows = rows[0]
        kept: list[Tensor] = []
        hidden = self.transformer(tokens, padding, rows, keep=kept)
        predicted = self.return_head(hidden[:, 0])  # (B, 1)

        past = Kept(kept, rows + 1, append=window.full)
        now = window.timesteps.gather(1, window.last[:, None])[:, 0]
        hidden = self.transformer.extend(self.return_token(predicted, now), past, padding)
        return self.action_of(self.action_head(hidden[:, 0])), predicted

    def return_token(self, returns: Tensor, timesteps: Tensor) -> Tensor:
        """(B, 1) scaled returns at timesteps (B,) -> (B, 1, D) tokens."""
        return self.embed_norm(self.embed_return(returns) + self.embed_timestep(timesteps))[:, None]


class Reinformer(ReturnPredictor):
    """Actions are drawn from Normal(tanh mean, exp(log_std)), not squashed.

    log_std is one free vector, the same for every input, clamped to [-20, 2]. The published code has a
    next-state head too, which takes no part in its loss; it is left out here. Discrete actions are drawn from
    the softmax of the action head, and there is no log_std.
    """

    TAKES_DISCRETE = True

    def __init__(self, config: ReinformerConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.action_log_std = None if config.discrete else nn.Parameter(torch.zeros(config.action_dim))

    @property
    def log_std(self) -> Tensor | None:
        """(A,) in the units of actions; None of discrete ones."""
        return None if self.config.discrete else self.action_log_std.clamp(*LOG_STD_RANGE)

    def drawn(self, mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Actions (..., A) for means as `act` gives them and standard normal noise, clipped to the bounds."""
        return self.action_bounds.clip(mean + log_std.exp() * noise)

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> SequenceOutput:
        """Predict the return of every step from its state, and its action from its state and given return.

        Args:
            states: (B, K, S) standardised. actions: (B, K, A). returns_to_go: (B, K, 1) divided by
            return_scale.
            timesteps: (B, K) int64 in [0, max_timestep). mask: (B, K) bool, True at real steps.
            generator: randomness of dropout in training mode; None takes PyTorch's global one.
        """
        hidden = self.hidden(states, actions, returns_to_go, timesteps, mask, ("state", "return"), generator)
        head, discrete = self.action_head(hidden[:, :, 1]), self.config.discrete
        return SequenceOutput(
            actions=self.action_of(head),
            returns=self.return_head(hidden[:, :, 0]),
            log_std=self.log_std,
            action_logits=head if discrete else None,
        )
