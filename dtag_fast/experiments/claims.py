"""What an experiment says must hold, and whether it did."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A sentence, whether it held, and what was measured."""

    text: str
    holds: bool
    measured: str
