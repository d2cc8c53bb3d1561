"""Where the episodes of a flat sequence of steps end."""

import numpy as np

JUMP = 1e-5  # Euclidean distance above which two observations are not the same (as in IQL's code)


def jumps(next_observations: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Steps after which the record goes on somewhere else.

    Args:
        next_observations: (B, S) observations after B steps.
        following: (B, S) observations before the steps that come next in the record.

    Returns:
        (B,) bool.
    """
    with np.errstate(invalid="ignore"):  # infinite observations are refused when the episode is checked
        difference = np.subtract(next_observations, following, dtype=np.float64)
    return np.einsum("ij,ij->i", difference, difference) > JUMP**2


class LimitCuts:
    """Cuts a record block by block after every `limit` steps that no other end interrupts.

    Args:
        limit: steps, at least 1.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._open = 0  # steps of the episode that the next block goes on with

    def of(self, ends: np.ndarray) -> np.ndarray:
        """Cuts of the next block.

        Args:
            ends: (B,) bool, steps that end an episode anyway.

        Returns:
            (B,) bool, steps that the limit ends; never one of `ends`.
        """
        rows = np.arange(len(ends))
        first = np.full(len(ends), -self._open)  # row in which the episode of each row begins
        first[1:][ends[:-1]] = rows[1:][ends[:-1]]
        age = rows - np.maximum.accumulate(first) + 1
        if len(ends):
            self._open = 0 if ends[-1] else int(age[-1] % self.limit)
        return (age % self.limit == 0) & ~ends
