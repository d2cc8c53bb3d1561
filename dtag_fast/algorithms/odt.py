"""Online Decision Transformer, its offline part (Zheng et al. 2022, arXiv 2202.05607).

    pi(a_t | R_{<=t}, s_{<=t}, a_{<t}) = tanh of N(mu, diag sigma^2), mu and sigma of the state token
    L = mean -log pi(a_t | .)  -  lambda H,      H = mean -log pi(a~ | .),  a~ ~ pi, reparameterised
    lambda follows d/d(log lambda) of lambda (H - H_target),  H_target = -A

Means are over real steps. Densities are those of actions mapped onto [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dtag_fast.algorithms.losses import masked_mean, masked_mse, squashed_gaussian_nll
from dtag_fast.algorithms.policies import EntropyConstrained
from dtag_fast.algorithms.settings import positive
from dtag_fast.data import Windows
from dtag_fast.models import (
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
    SquashedGaussian,
)
from dtag_fast.models.policies import inverse_tanh, normal_like
from dtag_fast.models.transformer import BlockBackend


@dataclass(frozen=True)
class Config:
    """Defaults: the published code. Some 13 million parameters; d_model 128 with 3 layers trains on a CPU."""

    context_len: int = 20  # K, steps of a training window
    eval_context_len: int = 5  # steps the policy looks back when it acts, at most context_len
    d_model: int = 512  # width of a token
    n_layer: int = 4
    n_head: int = 4
    dropout: float = 0.1
    max_timestep: int = 4096  # longest episode; no table has so many rows unless timestep_embedding
    timestep_embedding: bool = False  # add a learned embedding of the timestep to every token
    norm: Literal["post", "pre"] = "pre"  # LayerNorm after or before attention and MLP
    activation: Literal["gelu", "relu"] = "relu"
    padding: Literal["left", "right"] = "left"  # side on which short windows are filled up
    weighting: Literal["uniform", "length"] = "length"  # probability of an episode
    start: Literal["inside", "anywhere"] = "anywhere"  # first step of a window, see WindowSampler
    reward_scale: float = 1.0  # rewards become reward_scale * r + reward_shift before they are summed
    reward_shift: float = 0.0
    return_scale: float | None = (
        None  # divides returns-to-go; None: largest |return| of an episode in the data
    )
    target_returns: tuple[float, ...] = ()  # to ask for in evaluation; empty: best return in the data
    initial_temperature: float = 0.1  # lambda before the first update
    temperature_lr: float = 1e-4  # Adam on log lambda
    batch_size: int = 256  # windows
    lr: float = 1e-4  # LAMB
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: int = 10_000  # updates of linear warm-up
    attention: BlockBackend | None = None  # None: kernels on a GPU, PyTorch's operators elsewhere
    max_grad_norm: float = 0.25  # clip of the trainer; LAMB clips at 1.0 by itself

    def __post_init__(self) -> None:
        if not 1 <= self.eval_context_len <= self.context_len:
            raise ValueError(
                f"eval_context_len: expected 1 to context_len = {self.context_len}, windows as long as some "
                f"in training, got {self.eval_context_len}"
            )
        positive(self, "initial_temperature")


class ODT(EntropyConstrained):
    """See the head of this file."""

    name = "odt"

    def _build(self) -> None:
        model = self._sequence_model(
            OnlineDecisionTransformer,
            OnlineDecisionTransformerConfig,
            context_len=self.config.eval_context_len,  # no weight depends on it: it is what acting looks at
        )
        self._train_entropy_constrained(model)

    def update(self, batch: Windows) -> dict[str, Tensor]:
        self.model.train()
        nll, entropy = self.each(self._nll_and_entropy)(batch)
        temperature = self.log_temperature.exp()
        loss = nll - temperature.detach() * entropy
        grad_norm = self._descend(loss)
        self._move_temperature(temperature, entropy.detach())
        self.count_update()
        return {
            "loss": loss.detach(),
            "nll": nll.detach(),
            "entropy": entropy.detach(),
            "temperature": temperature.detach(),
            "grad_norm": grad_norm,
        }

    def _nll_and_entropy(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """Both are estimates: of the recorded actions and of one that is drawn for each step."""
        nll, (mean, log_std) = self._nll(batch)
        sample = mean + log_std.exp() * normal_like(mean, self.generator)
        return nll, masked_mean(squashed_gaussian_nll(sample, mean, log_std), batch.mask)

    def _nll(self, batch: Windows) -> tuple[Tensor, SquashedGaussian]:
        """Of the recorded actions, and the distribution (B, K, A)."""
        found = self.model.distribution(*batch, generator=self.generator)
        recorded = inverse_tanh(self.model.action_bounds.inverse(batch.actions))
        return masked_mean(squashed_gaussian_nll(recorded, *found), batch.mask), found

    @torch.no_grad()
    def validate(self, batch: Windows) -> dict[str, Tensor]:
        self.model.eval()
        nll, found = self._nll(batch)
        error = masked_mse(self.model.bounded(found.mean), batch.actions, batch.mask)
        return {"nll": nll, "action_error": error}
