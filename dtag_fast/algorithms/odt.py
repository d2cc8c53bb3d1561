"""Online Decision Transformer, its offline part (Zheng et al. 2022, arXiv 2202.05607).

    pi(a_t | R_{<=t}, s_{<=t}, a_{<t}) = tanh of N(mu, diag sigma^2), mu and sigma of the state token
    L = mean -log pi(a_t | .)  -  lambda H,      H = mean -log pi(a~ | .),  a~ ~ pi, reparameterised
    lambda follows d/d(log lambda) of lambda (H - H_target),  H_target = -A

Means are over real steps. Densities are those of actions mapped onto [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dtag_fast.algorithms.losses import masked_mean, masked_mse, squashed_gaussian_nll
from dtag_fast.algorithms.online import OnlineSequenceAlgorithm, OnlineSettings
from dtag_fast.algorithms.policies import EntropyConstrained
from dtag_fast.algorithms.settings import positive
from dtag_fast.data import Windows
from dtag_fast.models import SquashedGaussian
from dtag_fast.models.policies import inverse_tanh, normal_like


class PolicyDraw(NamedTuple):
    """What the loss is made of; all of it carries gradients to the weights.

    Attributes:
        nll: (B, K), -log pi of the recorded action of each step.
        entropy: 0-dim, H by the actions drawn.
        unsquashed: (B, K, A), u of one action tanh(u) drawn for each step, reparameterised.
    """

    nll: Tensor
    entropy: Tensor
    unsquashed: Tensor


@dataclass(frozen=True)
class Config(OnlineSettings):
    """Defaults: the published code. Some 13 million parameters; d_model 128 with 3 layers trains on a CPU."""

    initial_temperature: float = 0.1  # lambda before the first update
    temperature_lr: float = 1e-4  # Adam on log lambda

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "initial_temperature")


class ODT(OnlineSequenceAlgorithm, EntropyConstrained):
    """See the head of this file."""

    name = "odt"
    exploration = "sample"

    def _build(self) -> None:
        self._train_entropy_constrained(self._online_model())

    def update(self, batch: Windows) -> dict[str, Tensor]:
        metrics = self._update_policy(batch)
        self.count_update()
        return metrics

    def _update_policy(self, batch) -> dict[str, Tensor]:
        """One step of the policy and one of the temperature, from what `_policy_parts` takes."""
        self.model.train()
        parts = self.each(self._policy_parts)(batch)
        temperature = self.log_temperature.exp()
        loss = self._policy_loss(parts, temperature.detach())
        grad_norm = self._descend(loss)
        self._move_temperature(temperature, parts["entropy"].detach())
        metrics = {"loss": loss, **parts, "temperature": temperature, "grad_norm": grad_norm}
        return {name: value.detach() for name, value in metrics.items()}

    def _policy_parts(self, batch: Windows) -> dict[str, Tensor]:
        """0-dim estimates, of the recorded actions and of one that is drawn for each step."""
        draw = self._draw(batch)
        return {"nll": masked_mean(draw.nll, batch.mask), "entropy": draw.entropy}

    def _policy_loss(self, parts: dict[str, Tensor], temperature: Tensor) -> Tensor:
        return parts["nll"] - temperature * parts["entropy"]

    def _draw(self, batch: Windows) -> PolicyDraw:
        nll, found = self._nll(batch)
        unsquashed = found.mean + found.log_std.exp() * normal_like(found.mean, self.generator)
        entropy = masked_mean(squashed_gaussian_nll(unsquashed, *found), batch.mask)
        return PolicyDraw(nll, entropy, unsquashed)

    def _nll(self, batch: Windows) -> tuple[Tensor, SquashedGaussian]:
        """Of the recorded action of every step, (B, K), and the distribution (B, K, A)."""
        found = self.model.distribution(*batch, generator=self.generator)
        recorded = inverse_tanh(self.model.action_bounds.inverse(batch.actions))
        return squashed_gaussian_nll(recorded, *found), found

    @torch.no_grad()
    def validate(self, batch: Windows) -> dict[str, Tensor]:
        self.model.eval()
        nll, found = self._nll(batch)
        error = masked_mse(self.model.bounded(found.mean), batch.actions, batch.mask)
        return {"nll": masked_mean(nll, batch.mask), "action_error": error}
