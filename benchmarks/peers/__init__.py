"""Other ways to run the same refinement, each at its best: one `prepare(problem)` per file."""

from .problem import Problem

__all__ = ["Problem"]
