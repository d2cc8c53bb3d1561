"""Autotuned Decision Transformer with values as prompts, V-ADT (Ma et al. 2023, arXiv 2311.00267).

    loss = mean over real steps of w_t |a_t - pi(p_{<=t}, s_{<=t}, a_{<t})|^2 / A
    p_t  = Q(s_t, a_t) / return_scale in training, V(s_t) / return_scale in evaluation
    w_t  = min(exp(beta (Q(s_t, a_t) - V(s_t))), 100)

Q, the smallest member, and V are those of an IQL run; they stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dtag_fast.algorithms.losses import masked_mean
from dtag_fast.algorithms.policies import SequenceAlgorithm
from dtag_fast.algorithms.settings import at_least_zero
from dtag_fast.data import Windows
from dtag_fast.models import AutotunedDecisionTransformer, AutotunedDecisionTransformerConfig
from dtag_fast.models.transformer import BlockBackend

MAX_WEIGHT = 100.0  # of a step in the loss


@dataclass(frozen=True)
class Config:
    """Defaults: the published script; what it leaves to its Decision Transformer as in the original one."""

    context_len: int = 20  # K, steps the policy looks back
    d_model: int = 128  # width of a token
    n_layer: int = 3
    n_head: int = 1
    dropout: float = 0.1
    max_timestep: int = 4096  # rows of the timestep embedding
    timestep_std: float = 1.0  # of that embedding at the start; 0.02 helps short trainings
    norm: Literal["post", "pre"] = "pre"  # LayerNorm after or before attention and MLP
    activation: Literal["gelu", "relu"] = "relu"
    padding: Literal["left", "right"] = "left"  # side on which short windows are filled up
    weighting: Literal["uniform", "length"] = "length"  # probability of an episode
    start: Literal["inside", "anywhere"] = "anywhere"  # first step of a window, see WindowSampler
    return_scale: float = 100.0  # divides Q and V; 100 = 1 / (1 - discount) of the usual critic
    inverse_temperature: float = 3.0  # beta
    batch_size: int = 256  # windows
    lr: float = 8e-4
    weight_decay: float = 1e-4  # AdamW
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 10_000  # updates of linear warm-up
    attention: BlockBackend | None = None  # None: kernels on a GPU, PyTorch's operators elsewhere
    max_grad_norm: float = 0.25

    # of the sampler's returns, which the values of the critic replace
    reward_scale = 1.0
    reward_shift = 0.0

    def __post_init__(self) -> None:
        at_least_zero(self, "inverse_temperature")


class ADT(SequenceAlgorithm):
    """See the head of this file."""

    name = "adt"

    def reason_for_critic(self) -> str | None:
        return "its prompts"

    def _build(self) -> None:
        value = self.trained.value
        if value is None:
            raise ValueError(
                "critic: adt needs the value network of an IQL run too, this run holds none; one that an "
                "older dtag_fast wrote gets it by being resumed for one more update"
            )
        model = self._sequence_model(
            AutotunedDecisionTransformer,
            AutotunedDecisionTransformerConfig,
            value_hidden=tuple(value.config["hidden"]),
            value_layer_norm=value.config["layer_norm"],
            value_activation=value.config["activation"],
        )
        self._train(model, torch.optim.AdamW, fused=True)
        self.model.value.load_state_dict(value.state_dict())

    def update(self, batch: Windows) -> dict[str, Tensor]:
        self.model.train()
        loss, means = self.each(self._loss_and_means)(batch)
        grad_norm = self._descend(loss)
        self.count_update()
        return {"loss": loss.detach(), "grad_norm": grad_norm, **means}

    def _loss_and_means(self, batch: Windows) -> tuple[Tensor, dict[str, Tensor]]:
        loss, *steps = self._loss(batch)
        names = ("weight", "q", "value")
        return loss, {name: masked_mean(x, batch.mask) for name, x in zip(names, steps, strict=True)}

    def _loss(self, batch: Windows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The loss, and weights, Q and V of the steps, (B, K) each."""
        c = self.config
        with torch.no_grad():
            states = self.model.normalizer.inverse(batch.states)
            q, v = self.trained.q(states, batch.actions), self.trained.v(states)
            weight = torch.exp(c.inverse_temperature * (q - v)).clamp(max=MAX_WEIGHT)
        prompted = batch._replace(returns_to_go=(q / c.return_scale)[..., None])
        predicted = self.model(*prompted, generator=self.generator).actions  # (B, K, A)
        error = (predicted - batch.actions).square().mean(dim=-1)
        return masked_mean(weight * error, batch.mask), weight, q, v

    @torch.no_grad()
    def validate(self, batch: Windows) -> dict[str, Tensor]:
        self.model.eval()
        loss, weight, *_ = self._loss(batch)
        return {"loss": loss, "weight": masked_mean(weight, batch.mask)}
