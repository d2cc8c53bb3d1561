"""Random numbers of episodes: each draws from a generator of its own, whatever is played beside it."""

import numpy as np


class Draws:
    """Standard normal numbers for N slots, each from the seed of its episode.

    Args:
        num_envs: N. size: A, numbers of a draw.
        purpose: what they are for; draws for another purpose are other numbers.
    """

    def __init__(self, num_envs: int, size: int, purpose: str):
        self.size, self._purpose = size, purpose.encode()
        self._generators: list[np.random.Generator | None] = [None] * num_envs  # None: no episode yet

    def start(self, row: int, seed: int) -> None:
        """An episode begins in slot `row`."""
        self._generators[row] = np.random.default_rng([seed, *self._purpose])

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(R, A) float32 for one step of the slots `rows` (R,)."""
        return self.several(rows, np.ones(len(rows), np.int64))

    def several(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(sum of counts, A) float32: counts (R,) of draws for one step of the slots `rows` (R,)."""
        drawn = [
            self._generators[row].standard_normal((count, self.size))
            for row, count in zip(rows, counts, strict=True)
        ]
        return np.concatenate([np.zeros((0, self.size)), *drawn]).astype(np.float32)
