"""Behaviour cloning: the actions of the data, from the present state alone.

    loss = mean over transitions of |a - pi(s)|^2 / A

The baseline of the Decision Transformer paper (Chen et al. 2021, arXiv 2106.01345, section 4): an MLP of the
transformer's width and depth. With best_fraction = 0.1 it is their 10%BC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dtag_fast.algorithms.policies import PolicyAlgorithm
from dtag_fast.algorithms.settings import above_0_to_1
from dtag_fast.data import TrajectoryStore, Transitions, TransitionSampler, transitions
from dtag_fast.models import DeterministicPolicy


@dataclass(frozen=True)
class Config:
    """Defaults: the baseline of the original Decision Transformer code."""

    hidden: tuple[int, ...] = (128, 128, 128)  # widths of the ReLU layers
    dropout: float = 0.1  # after each of them
    best_fraction: float = 1.0  # imitate the episodes of highest return that hold this share of the steps
    batch_size: int = 64  # transitions
    lr: float = 1e-4
    weight_decay: float = 1e-4  # AdamW
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 10_000  # updates of linear warm-up
    max_grad_norm: float = 0.25

    def __post_init__(self) -> None:
        above_0_to_1(self, "best_fraction")


class BC(PolicyAlgorithm):
    """See the head of this file."""

    name = "bc"

    def _build(self) -> None:
        c, data = self.config, self.data
        model = DeterministicPolicy(
            data.state_dim,
            data.action_dim,
            c.hidden,
            c.dropout,
            state_mean=data.state_mean,
            state_std=data.state_std,
            action_low=data.action_low,
            action_high=data.action_high,
        )
        self._train(model, torch.optim.AdamW, fused=True)

    def make_sampler(self, store: TrajectoryStore):
        table = transitions(store, self.device)
        if self.config.best_fraction < 1:
            rows = torch.from_numpy(steps_of_best(store, self.config.best_fraction)).to(self.device)
            table = Transitions(*(column.index_select(0, rows) for column in table))
        return TransitionSampler(table, self.config.batch_size)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        self.model.train()
        loss = self.each(self._loss)(batch)
        grad_norm = self._descend(loss)
        self.count_update()
        return {"loss": loss.detach(), "grad_norm": grad_norm}

    def _loss(self, batch: Transitions) -> Tensor:
        return (self.model(batch.states, self.generator) - batch.actions).square().mean()

    @torch.no_grad()
    def validate(self, batch: Transitions) -> dict[str, Tensor]:
        self.model.eval()
        return {"loss": self._loss(batch)}


def steps_of_best(store: TrajectoryStore, fraction: float) -> np.ndarray:
    """Steps of the fewest episodes, highest returns first, that hold at least `fraction` of all steps.

    Returns:
        (M,) int64, ascending positions among the store's steps.
    """
    order = np.argsort(-store.episode_returns, kind="stable")
    held = np.cumsum(store.episode_lengths[order])
    chosen = np.zeros(store.num_episodes, bool)
    chosen[order[: 1 + np.searchsorted(held, fraction * store.num_steps)]] = True
    return np.flatnonzero(np.repeat(chosen, store.episode_lengths))
