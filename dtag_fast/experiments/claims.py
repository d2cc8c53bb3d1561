"""What an experiment says must hold, and whether it did."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A sentence, whether it held, and what was measured."""

    text: str
    holds: bool
    measured: str


def on_most(text: str, verdicts: Sequence[bool], of: str = "") -> Claim:
    """A claim about most of several cases; it does not hold where there is none.

    Args:
        verdicts: whether it is so, case by case. of: what they are, after their number: " tasks".
    """
    return Claim(text, sum(verdicts) > len(verdicts) / 2, f"on {sum(verdicts)} of {len(verdicts)}{of}")
