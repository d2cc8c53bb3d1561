"""Policies and Action Gradient in the places where other libraries expect theirs."""
