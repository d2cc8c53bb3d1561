"""Reinformer: max-return sequence modelling (Zhuang et al. 2024, arXiv 2405.08740).

u    = (R - R^) / mean |R|                      error of the return predicted from the state, rescaled
L    = mean |tau - 1[u < 0]| u^2                expectile of the return: tau -> 1 approaches the maximum
     + mean -log N(a; mu, sigma)                likelihood of the action given the return
     - lambda H,     H = entropy of N(mu, sigma)
     + a term of Q(s, mu), see q_term.py        none unless asked for
lambda follows d/d(log lambda) of lambda (H - H_target), H_target = -A

Discrete actions: the likelihood is that of a softmax, and there is no term of H and no lambda.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dtag_fast.algorithms import q_term
from dtag_fast.algorithms.losses import (
    expectile_loss,
    gaussian_entropy,
    gaussian_nll,
    masked_agreement,
    masked_cross_entropy,
    masked_mean,
    masked_mse,
    mean_size,
)
from dtag_fast.algorithms.policies import EntropyConstrained
from dtag_fast.algorithms.settings import between_0_and_1, positive
from dtag_fast.data import Windows
from dtag_fast.models import Reinformer as ReinformerModel
from dtag_fast.models import ReinformerConfig
from dtag_fast.models.sequence import SequenceOutput
from dtag_fast.models.transformer import BlockBackend


@dataclass(frozen=True)
class Config:
    """Defaults: the published code. Smaller networks (d_model 128, 3 layers, 1 head) lose little."""

    context_len: int = 5  # K, steps the policy looks back
    d_model: int = 256  # width of a token
    n_layer: int = 4
    n_head: int = 8
    dropout: float = 0.1
    max_timestep: int = 4096  # rows of the timestep embedding
    timestep_std: float = 1.0  # of that embedding at the start; 0.02 helps short trainings
    padding: Literal["left", "right"] = "right"  # side on which short windows are filled up
    weighting: Literal["uniform", "length"] = "uniform"  # probability of an episode
    start: Literal["inside", "anywhere"] = "inside"  # first step of a window, see WindowSampler
    reward_scale: float = 1.0  # rewards become reward_scale * r + reward_shift before they are summed
    reward_shift: float = 0.0
    return_scale: float | None = (
        None  # divides returns-to-go; None: largest |return| of an episode in the data
    )
    expectile: float = 0.99  # tau of the return head
    initial_temperature: float = 0.1  # lambda before the first update
    temperature_lr: float = 1e-4  # Adam on log lambda
    batch_size: int = 128  # windows
    lr: float = 1e-4  # LAMB
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: int = 5_000  # updates of linear warm-up
    attention: BlockBackend | None = None  # None: kernels on a GPU, PyTorch's operators elsewhere
    max_grad_norm: float = 0.25  # clip of the trainer; LAMB clips at 1.0 by itself
    q_weight: float = 0.0  # of the term of Q in the loss, see q_term.py; above 0 it needs a trained critic
    q_start: int = 0  # updates without that term
    q_ramp: int = 0  # updates over which its weight then rises to q_weight

    def __post_init__(self) -> None:
        q_term.check_settings(self)
        between_0_and_1(self, "expectile")
        positive(self, "initial_temperature")


class Reinformer(EntropyConstrained):
    """See the head of this file."""

    name = "reinformer"
    takes_discrete = True

    def reason_for_critic(self) -> str | None:
        return q_term.reason_for_critic(self.config, self.data)

    def _build(self) -> None:
        self._train_entropy_constrained(self._sequence_model(ReinformerModel, ReinformerConfig))

    def update(self, batch: Windows) -> dict[str, Tensor]:
        self.model.train()
        if self.data.discrete is not None:
            return self._update_discrete(batch)
        temperature = self.log_temperature.exp()
        loss, parts, metrics = self.each(self._training_loss)(batch, temperature.detach())
        parts = {name: value.detach() for name, value in parts.items()}
        grad_norm = self._descend(loss)
        self._move_temperature(temperature, parts["entropy"])
        self.count_update()
        return {
            "loss": loss.detach(),
            **parts,
            "temperature": temperature.detach(),
            "grad_norm": grad_norm,
            **metrics,
        }

    def _update_discrete(self, batch: Windows) -> dict[str, Tensor]:
        """`update` for discrete actions, without the constraint on the entropy."""
        loss, parts = self.each(self._discrete_loss)(batch)
        grad_norm = self._descend(loss)
        self.count_update()
        parts = {name: value.detach() for name, value in parts.items()}
        return {"loss": loss.detach(), **parts, "grad_norm": grad_norm}

    def _discrete_loss(self, batch: Windows) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts with the accuracy."""
        return_loss, nll, out = self._losses(batch)
        accuracy = masked_agreement(out.actions, batch.actions, batch.mask)
        return return_loss + nll, {"return_loss": return_loss, "nll": nll, "accuracy": accuracy}

    def _training_loss(
        self, batch: Windows, temperature: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The loss, its parts, and the metrics of its term of Q."""
        return_loss, nll, out = self._losses(batch)
        entropy = gaussian_entropy(out.log_std)
        loss, metrics = return_loss + nll - temperature * entropy, {}
        if self.trained is not None:
            weight = q_term.weight_at(self.config, self.schedule_step)
            term, metrics = q_term.q_term(self.trained, self.model, batch, out.actions, weight)
            loss = loss + term
        return loss, {"return_loss": return_loss, "nll": nll, "entropy": entropy}, metrics

    def _losses(self, batch: Windows) -> tuple[Tensor, Tensor, SequenceOutput]:
        """Of the returns and of the actions, and what the model said."""
        mask = batch.mask
        out = self.model(*batch, generator=self.generator)
        returns = batch.returns_to_go.squeeze(-1)  # (B, K)
        u = (returns - out.returns.squeeze(-1)) / mean_size(returns, mask)
        return_loss = masked_mean(expectile_loss(u, self.config.expectile), mask)
        if out.action_logits is not None:
            nll = masked_cross_entropy(out.action_logits, batch.actions, mask)
        else:
            nll = masked_mean(gaussian_nll(batch.actions, out.actions, out.log_std), mask)
        return return_loss, nll, out

    @torch.no_grad()
    def validate(self, batch: Windows) -> dict[str, Tensor]:
        self.model.eval()
        return_loss, nll, out = self._losses(batch)
        actions = out.actions, batch.actions, batch.mask
        if self.data.discrete is not None:
            return {"return_loss": return_loss, "nll": nll, "accuracy": masked_agreement(*actions)}
        return {"return_loss": return_loss, "nll": nll, "action_error": masked_mse(*actions)}
