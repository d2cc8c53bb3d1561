"""Returns-to-go of all episodes at once."""

import numpy as np


def returns_to_go(rewards: np.ndarray, offsets: np.ndarray, discount: float = 1.0) -> np.ndarray:
    """R_t = sum over j >= 0 of discount^j r_{t+j}, up to the end of the episode of step t.

    Doubling: once x_t sums the next s rewards, x_t + discount^s x_{t+s} sums the next 2s. That is
    log2(longest episode) vectorised passes, needs no cancellation of running sums across episodes, and adds
    pairwise.

    Args:
        rewards: (N,) rewards of all episodes, one after the other.
        offsets: (E + 1,) first step of each episode, and N.
        discount: in [0, 1].

    Returns:
        (N,) float64.
    """
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount: expected a number in [0, 1], got {discount}")
    lengths = np.diff(offsets)
    steps_left = np.repeat(offsets[1:], lengths) - np.arange(
        len(rewards)
    )  # (N,) rewards from t on, at least 1
    total = np.asarray(rewards, dtype=np.float64).copy()
    span = 1
    while span < lengths.max(initial=0):
        inside = steps_left[:-span] > span
        total[:-span] += np.where(inside, discount**span * total[span:], 0.0)
        span *= 2
    return total
