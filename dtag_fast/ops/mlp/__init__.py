"""Small networks of linear layers and one activation, forwards and backwards."""

from .api import Layer, compiled, mlp, why_not
from .reference import mlp as reference

__all__ = ["Layer", "compiled", "mlp", "reference", "why_not"]
