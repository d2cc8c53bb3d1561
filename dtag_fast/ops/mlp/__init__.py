"""Small networks of linear layers and one activation, forwards and backwards."""

from .api import Layer, mlp, why_not
from .reference import mlp as reference

__all__ = ["Layer", "mlp", "reference", "why_not"]
