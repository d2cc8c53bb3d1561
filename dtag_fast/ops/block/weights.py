"""The parameters of a transformer block, named and shaped as torch.nn.Linear and LayerNorm have them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NORM_EPS = 1e-5  # torch.nn.LayerNorm's default, the one of both LayerNorms


class BlockWeights(NamedTuple):
    """D is the width of a token, F the hidden width of the MLP (4 D as a rule)."""

    qkv_weight: Tensor  # (3 D, D): queries, keys, values, each head by head
    qkv_bias: Tensor  # (3 D,)
    out_weight: Tensor  # (D, D)
    out_bias: Tensor  # (D,)
    norm_1_weight: Tensor  # (D,) the LayerNorm of the attention half
    norm_1_bias: Tensor  # (D,)
    expand_weight: Tensor  # (F, D)
    expand_bias: Tensor  # (F,)
    contract_weight: Tensor  # (D, F)
    contract_bias: Tensor  # (D,)
    norm_2_weight: Tensor  # (D,) the LayerNorm of the MLP half
    norm_2_bias: Tensor  # (D,)
