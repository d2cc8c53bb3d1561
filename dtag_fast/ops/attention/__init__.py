"""Causal attention over short, padded sequences of (return, state, action) tokens."""

from .api import Backend, attention, choose_backend
from .padding import Mask, Padding

__all__ = ["Backend", "Mask", "Padding", "attention", "choose_backend"]
