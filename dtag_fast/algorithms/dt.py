"""Decision Transformer: actions learned from returns-to-go (Chen et al. 2021, arXiv 2106.01345).

loss = mean over real steps of |a_t - pi(R_{<=t}, s_{<=t}, a_{<t})|^2 / A     + a term of Q, see q_term.py
       discrete actions: mean over real steps of -log pi(a_t | R_{<=t}, s_{<=t}, a_{<t}), pi a softmax
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dtag_fast.algorithms import q_term
from dtag_fast.algorithms.losses import masked_agreement, masked_cross_entropy, masked_mse
from dtag_fast.algorithms.policies import SequenceAlgorithm
from dtag_fast.data import Windows
from dtag_fast.models import DecisionTransformer, DecisionTransformerConfig
from dtag_fast.models.transformer import BlockBackend


@dataclass(frozen=True)
class Config:
    """Defaults: min-decision-transformer. `Config.original()` has the choices of the original code."""

    context_len: int = 20  # K, steps the policy looks back
    d_model: int = 128  # width of a token
    n_layer: int = 3
    n_head: int = 1
    dropout: float = 0.1
    max_timestep: int = 4096  # rows of the timestep embedding
    timestep_std: float = 1.0  # of that embedding at the start; 0.02 helps short trainings
    norm: Literal["post", "pre"] = "post"  # LayerNorm after or before attention and MLP
    activation: Literal["gelu", "relu"] = "gelu"
    padding: Literal["left", "right"] = "right"  # side on which short windows are filled up
    weighting: Literal["uniform", "length"] = "uniform"  # probability of an episode
    start: Literal["inside", "anywhere"] = "inside"  # first step of a window, see WindowSampler
    reward_scale: float = 1.0  # rewards become reward_scale * r + reward_shift before they are summed
    reward_shift: float = 0.0
    return_scale: float | None = (
        None  # divides returns-to-go; None: largest |return| of an episode in the data
    )
    target_returns: tuple[float, ...] = ()  # to ask for in evaluation; empty: best return in the data
    batch_size: int = 64  # windows
    lr: float = 1e-4
    weight_decay: float = 1e-4  # AdamW
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 10_000  # updates of linear warm-up
    attention: BlockBackend | None = None  # None: kernels on a GPU, PyTorch's operators elsewhere
    max_grad_norm: float = 0.25
    q_weight: float = 0.0  # of the term of Q in the loss, see q_term.py; above 0 it needs a trained critic
    q_start: int = 0  # updates without that term
    q_ramp: int = 0  # updates over which its weight then rises to q_weight

    def __post_init__(self) -> None:
        q_term.check_settings(self)

    @classmethod
    def original(cls, **overrides) -> Config:
        """kzl/decision-transformer: GPT-2 block with ReLU, left padding, episodes drawn by length."""
        choices = {
            "norm": "pre",
            "activation": "relu",
            "padding": "left",
            "weighting": "length",
            "start": "anywhere",
            "max_timestep": 1000,
        }
        return cls(**{**choices, **overrides})


class DT(SequenceAlgorithm):
    """See the head of this file."""

    name = "dt"
    takes_discrete = True

    def reason_for_critic(self) -> str | None:
        return q_term.reason_for_critic(self.config, self.data)

    def _build(self) -> None:
        model = self._sequence_model(DecisionTransformer, DecisionTransformerConfig)
        self._train(model, torch.optim.AdamW, fused=True)

    def update(self, batch: Windows) -> dict[str, Tensor]:
        self.model.train()
        loss, metrics = self.each(self._training_loss)(batch)
        grad_norm = self._descend(loss)
        self.count_update()
        return {"loss": loss.detach(), "grad_norm": grad_norm, **metrics}

    def _training_loss(self, batch: Windows) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with its term of Q, and that term's metrics or the accuracy of discrete actions."""
        loss, predicted = self._loss(batch)
        if self.trained is None:
            return loss, self._accuracy(predicted, batch)
        weight = q_term.weight_at(self.config, self.schedule_step)
        term, metrics = q_term.q_term(self.trained, self.model, batch, predicted, weight)
        return loss + term, metrics

    def _loss(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """The error of the actions, and the predicted ones (B, K, A)."""
        out = self.model(*batch, generator=self.generator)
        if out.action_logits is not None:
            return masked_cross_entropy(out.action_logits, batch.actions, batch.mask), out.actions
        return masked_mse(out.actions, batch.actions, batch.mask), out.actions

    def _accuracy(self, predicted: Tensor, batch: Windows) -> dict[str, Tensor]:
        """Of discrete actions, to log."""
        if self.data.discrete is None:
            return {}
        return {"accuracy": masked_agreement(predicted, batch.actions, batch.mask)}

    @torch.no_grad()
    def validate(self, batch: Windows) -> dict[str, Tensor]:
        self.model.eval()
        loss, predicted = self._loss(batch)
        return {"loss": loss, **self._accuracy(predicted, batch)}
