"""The tokens of a sequence policy, made in one pass: projections, timestep embedding, order, LayerNorm."""

from .api import choose_backend, embed_tokens

__all__ = ["choose_backend", "embed_tokens"]
