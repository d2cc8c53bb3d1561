"""Sequence policies of other codes: key maps from their weights to our models, and a run folder of them."""
