"""A whole transformer block over short, padded sequences: attention, MLP, residuals and LayerNorms."""

from .api import choose_backend, transformer_block
from .weights import BlockWeights

__all__ = ["BlockWeights", "choose_backend", "transformer_block"]
