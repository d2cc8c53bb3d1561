"""Causal attention over short, padded sequences of (return, state, action) tokens."""

from .api import attention, choose_backend

__all__ = ["attention", "choose_backend"]
