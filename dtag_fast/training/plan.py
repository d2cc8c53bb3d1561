"""How long to train, and what is due after which update."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many updates, and after how many of them something is due; None: never. Fields as `train` has them.

    Raises:
        ValueError: one is not a positive integer.
    """

    updates: int
    log_every: int
    checkpoint_every: int
    keep_last: int | None
    eval_every: int | None
    validate_every: int | None
    steps_per_replay: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            optional = name in ("keep_last", "eval_every", "validate_every") and value is None
            if not optional and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")

    def evaluation_due(self, step: int) -> bool:
        return self.eval_every is not None and (step % self.eval_every == 0 or step == self.updates)

    def validation_due(self, step: int) -> bool:
        return self.validate_every is not None and (step % self.validate_every == 0 or step == self.updates)

    def checkpoint_due(self, step: int) -> bool:
        return self.evaluation_due(step) or step % self.checkpoint_every == 0 or step == self.updates

    def most(self, step: int) -> int:
        """Updates from `step` on that may be made before something is due."""
        periods = (self.log_every, self.checkpoint_every, self.eval_every, self.validate_every)
        return until_due(step, self.updates, [p for p in periods if p is not None])


def until_due(step: int, updates: int, periods: list[int]) -> int:
    """Updates from `step` to the next multiple of a period, or to the end at `updates`."""
    return min(updates - step, *(period - step % period for period in periods))


def both_or_neither(**pair: object) -> None:
    """Two settings of which neither means anything alone: both are None, or none of them is.

    Raises:
        ValueError: only one is None; the first is named as the one in need of the second.
    """
    (name, value), (other, its_value) = pair.items()
    if (value is None) != (its_value is None):
        raise ValueError(f"{name}: expected together with {other}, got only one of them")
