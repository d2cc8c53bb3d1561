"""What a step is told about the policy and its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """The network: tokens of three kinds, LayerNorm, blocks, a linear head, and tanh onto the action bounds
    where there are any.

    eps: of every LayerNorm. predicts_returns: tokens (state, return, action), the return made from the
    state's token by a head of its own; else (return, state, action).
    """

    state_dim: int
    action_dim: int
    context_len: int
    max_timestep: int
    d_model: int
    n_head: int
    n_layer: int
    norm: Literal["post", "pre"]
    activation: Literal["gelu", "relu"]
    predicts_returns: bool
    eps: float = 1e-5


class Rings(NamedTuple):
    """What is kept of N rollouts: step t has its three tokens in the slots 3 (t mod K) and following.

    tokens (N, 3K, D); projected (N, 3K, 3, H, D/H) queries, keys and values of the first block; kept: of each
    later block (N, 3K, 2, H, D/H) keys and values. Contiguous float32; a step writes into them.
    """

    tokens: Tensor
    projected: Tensor
    kept: list[Tensor]
