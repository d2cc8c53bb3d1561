"""Online Decision Transformer (Zheng et al. 2022, arXiv 2202.05607): a stochastic Decision Transformer.

a = tanh(u), u ~ N(mu, diag sigma^2), mu and log sigma linear maps of the state token's output. It is trained
as that distribution; in evaluation it acts with tanh(mu).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dtag_fast.models.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.models.policies import in_full
from dtag_fast.models.sequence import SequenceOutput
from dtag_fast.models.transformer import ActivationName, Norm

LOG_STD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class OnlineDecisionTransformerConfig(DecisionTransformerConfig):
    """Defaults: the published network, GPT-2's blocks over tokens that do not know their timestep."""

    d_model: int = 512
    n_layer: int = 4
    n_head: int = 4
    timestep_embedding: bool = False
    norm: Norm = "pre"
    activation: ActivationName = "relu"
    padding: Literal["left", "right"] = "left"


class SquashedGaussian(NamedTuple):
    """The distribution of tanh(u), u ~ N(mean, diag exp(log_std)^2), in [-1, 1]: before the action bounds."""

    mean: Tensor  # (..., A)
    log_std: Tensor  # (..., A)


class OnlineDecisionTransformer(DecisionTransformer):
    """Tokens (R_t, s_t, a_t) per step; mean and deviation of the action from the state token's output.

    log_std = -5 + 3.5 (tanh(x) + 1), inside [-5, 2]. Both heads start orthogonal, with zero biases. `act` and
    a `Decoder` give the mean action tanh(mu) and never look at the deviation.
    """

    TAKES_DISCRETE = False

    def __init__(self, config: OnlineDecisionTransformerConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.log_std_head = nn.Linear(config.d_model, config.action_dim)
        for head in (self.action_head, self.log_std_head):
            nn.init.orthogonal_(head.weight)
            nn.init.zeros_(head.bias)

    def distribution(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> SquashedGaussian:
        """Of the action of every step, (B, K, A) each; arguments as for `forward`."""
        hidden = self.hidden(states, actions, returns_to_go, timesteps, mask, ("state",), generator)[:, :, 0]
        return self.distribution_of(self.action_head(hidden), self.log_std_head(hidden))

    @staticmethod
    def distribution_of(mean: Tensor, log_std: Tensor) -> SquashedGaussian:
        """The distribution that the outputs (..., A) of the two heads stand for."""
        low, high = LOG_STD_RANGE
        return SquashedGaussian(in_full(mean), low + 0.5 * (high - low) * (F.tanh(in_full(log_std)) + 1))

    def drawn(self, mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Actions (..., A) inside the bounds for a distribution and standard normal noise."""
        return self.bounded(mean + log_std.exp() * noise)

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> SequenceOutput:
        """The mean action of every step and the log deviation (B, K, A) before tanh; arguments as for
        `DecisionTransformer.forward`."""
        found = self.distribution(states, actions, returns_to_go, timesteps, mask, generator)
        return SequenceOutput(self.bounded(found.mean), None, found.log_std)
