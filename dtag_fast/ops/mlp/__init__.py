"""Small networks of linear layers, LayerNorms and one activation, forwards and backwards."""

from .api import compiled, mlp, why_not
from .layer import Layer, Norm
from .reference import mlp as reference

__all__ = ["Layer", "Norm", "compiled", "mlp", "reference", "why_not"]
