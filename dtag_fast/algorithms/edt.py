"""The training of Elastic Decision Transformer (Wu et al. 2023, arXiv 2307.02484).

    L = mean |a_t - pi_t|^2 / A                                              the action, given the return
      + w_s mean |s_{t+1} - s^_{t+1}|^2 / S                                  the next state
      + w_R mean |tau - 1[u < 0]| u^2,      u = R_t - R^_t                   the return, towards its maximum
      + w_c mean -log p(class of R_t)                                        its class

Means are over real steps; that of the next state over those whose next state is in the window. A class is one
of C equal parts of [low, high], to which returns are clipped:

    class of R = floor((C - 1) (R - low) / (high - low))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dtag_fast.algorithms.base import DataSpec
from dtag_fast.algorithms.losses import expectile_loss, masked_mean, masked_mse, mean_or_zero
from dtag_fast.algorithms.policies import SequenceAlgorithm
from dtag_fast.algorithms.sequence import (
    transformed_returns,
)
from dtag_fast.algorithms.settings import at_least_zero, between_0_and_1
from dtag_fast.data import Windows
from dtag_fast.models import ElasticDecisionTransformer, ElasticDecisionTransformerConfig
from dtag_fast.models.transformer import BlockBackend


@dataclass(frozen=True)
class Config:
    """Defaults: the published code."""

    context_len: int = 20  # K, steps the policy looks back
    d_model: int = 512  # width of a token
    n_layer: int = 4
    n_head: int = 4
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
    return_classes: int = 60  # C
    return_range: tuple[float, ...] = ()  # (low, high) of the classes; empty: of the data's returns and 0
    state_weight: float = 1.0  # w_s
    return_weight: float = 0.5  # w_R
    class_weight: float = 0.001  # w_c
    batch_size: int = 256  # windows
    lr: float = 1e-4
    weight_decay: float = 1e-4  # AdamW
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 10_000  # updates of linear warm-up
    attention: BlockBackend | None = None  # None: kernels on a GPU, PyTorch's operators elsewhere
    max_grad_norm: float = 0.25

    def __post_init__(self) -> None:
        between_0_and_1(self, "expectile")
        if not isinstance(self.return_classes, int) or self.return_classes < 2:
            raise ValueError(f"return_classes: expected at least 2, got {self.return_classes!r}")
        if self.return_range and not (len(self.return_range) == 2 and _rises(*self.return_range)):
            raise ValueError(f"return_range: expected two rising numbers or none, got {self.return_range}")
        at_least_zero(self, "state_weight", "return_weight", "class_weight")


def _rises(low: float, high: float) -> bool:
    return low < high


class EDT(SequenceAlgorithm):
    """See the head of this file. Its history becomes elastic in evaluation, by `history_lengths`."""

    name = "edt"

    def _build(self) -> None:
        model = self._sequence_model(ElasticDecisionTransformer, ElasticDecisionTransformerConfig)
        self.return_range = resolve_return_range(self.config, self.data)
        self._train(model, torch.optim.AdamW, fused=True)

    def update(self, batch: Windows) -> dict[str, Tensor]:
        self.model.train()
        metrics = self.each(self._losses)(batch)
        grad_norm = self._descend(metrics["loss"])
        self.count_update()
        return {name: value.detach() for name, value in metrics.items()} | {"grad_norm": grad_norm}

    def _losses(self, batch: Windows) -> dict[str, Tensor]:
        """L and its four parts before their weights."""
        c, mask = self.config, batch.mask
        out = self.model(*batch, generator=self.generator)
        returns = batch.returns_to_go.squeeze(-1)  # (B, K)
        u = returns - out.returns.squeeze(-1)
        errors = (out.next_states[:, :-1] - batch.states[:, 1:]).square().mean(dim=-1)  # (B, K - 1)
        classes = F.cross_entropy(
            out.return_logits.flatten(0, 1), self._classes(returns).flatten(), reduction="none"
        )
        parts = {
            "action_loss": masked_mse(out.actions, batch.actions, mask),
            "state_loss": mean_or_zero(errors, mask[:, :-1] & mask[:, 1:]),
            "return_loss": masked_mean(expectile_loss(u, c.expectile), mask),
            "class_loss": masked_mean(classes.view_as(u), mask),
        }
        weights = (1.0, c.state_weight, c.return_weight, c.class_weight)
        return {"loss": sum(w * part for w, part in zip(weights, parts.values(), strict=True))} | parts

    def _classes(self, returns: Tensor) -> Tensor:
        """Class of each scaled return, int64."""
        low, high = (bound / self.return_scale for bound in self.return_range)
        place = (returns - low) / (high - low)
        return (place.clamp(0, 1) * (self.config.return_classes - 1)).floor().long()

    @torch.no_grad()
    def validate(self, batch: Windows) -> dict[str, Tensor]:
        self.model.eval()
        return self._losses(batch)


def resolve_return_range(config: Config, data: DataSpec) -> tuple[float, float]:
    """The configured range of the classes, or that of the episodes' returns and 0; not divided.

    0 belongs to it because returns-to-go end near it. `resolve_return_scale` sees to it that one is not 0.
    """
    if config.return_range:
        return config.return_range
    returns = transformed_returns(config, data)
    return min(float(returns.min()), 0.0), max(float(returns.max()), 0.0)
