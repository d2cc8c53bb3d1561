"""Decision Transformer: actions learned from returns-to-go (Chen et al. 2021, arXiv 2106.01345).

loss = mean over real steps of |a_t - pi(R_{<=t}, s_{<=t}, a_{<t})|^2 / A     + a term of Q, see q_term.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dtag_fast.algorithms import q_term
from dtag_fast.algorithms.base import Algorithm
from dtag_fast.algorithms.lamb import clip_
from dtag_fast.algorithms.losses import masked_mse
from dtag_fast.algorithms.schedules import set_lr, warmup
from dtag_fast.algorithms.sequence import (
    check_lengths,
    resolve_return_scale,
    target_returns,
    window_sampler,
)
from dtag_fast.data import TrajectoryStore, Windows
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


class DT(Algorithm):
    """See the head of this file."""

    name = "dt"
    kind = "policy"

    def reason_for_critic(self) -> str | None:
        return q_term.reason_for_critic(self.config)

    def _build(self) -> None:
        c, data = self.config, self.data
        check_lengths(c.max_timestep, data)
        self.return_scale = resolve_return_scale(c, data)
        self.model = DecisionTransformer(
            DecisionTransformerConfig(
                state_dim=data.state_dim,
                action_dim=data.action_dim,
                context_len=c.context_len,
                d_model=c.d_model,
                n_layer=c.n_layer,
                n_head=c.n_head,
                dropout=c.dropout,
                max_timestep=c.max_timestep,
                timestep_std=c.timestep_std,
                norm=c.norm,
                activation=c.activation,
                padding=c.padding,
                return_scale=self.return_scale,
            ),
            data.state_mean,
            data.state_std,
            data.action_low,
            data.action_high,
            attention=c.attention,
        ).to(self.device)
        self.exports = self.modules = {"model": self.model}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.scheduled(c.lr),
            betas=c.betas,
            weight_decay=c.weight_decay,
            fused=True,
            capturable=self.capturable,
        )
        self.optimizers = {"model": self.optimizer}

    def make_sampler(self, store: TrajectoryStore):
        return window_sampler(self, store)

    def update(self, batch: Windows) -> dict[str, Tensor]:
        self.model.train()
        loss, predicted = self._loss(batch)
        metrics: dict[str, Tensor] = {}
        if self.trained is not None:
            weight = q_term.weight_at(self.config, self.schedule_step)
            term, metrics = q_term.q_term(self.trained, self.model, batch, predicted, weight)
            loss = loss + term
        self.backward(loss)
        grads = [p.grad for p in self.model.parameters()]
        grad_norm = clip_(grads, self.config.max_grad_norm, self.capturable)
        set_lr(self.optimizer, self.config.lr * warmup(self.schedule_step, self.config.warmup))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.count_update()
        return {"loss": loss.detach(), "grad_norm": grad_norm, **metrics}

    def _loss(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """The error of the actions, and the predicted ones (B, K, A)."""
        predicted = self.model(*batch, generator=self.generator).actions
        return masked_mse(predicted, batch.actions, batch.mask), predicted

    @torch.no_grad()
    def validate(self, batch: Windows) -> dict[str, Tensor]:
        self.model.eval()
        return {"loss": self._loss(batch)[0]}

    def facts(self) -> dict[str, Any]:
        return {
            "return_scale": self.return_scale,
            "reward_scale": self.config.reward_scale,
            "reward_shift": self.config.reward_shift,
            "context_len": self.config.context_len,
            "target_returns": target_returns(self.config, self.data),
        }
