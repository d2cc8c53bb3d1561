"""What goes through a policy in one batch."""

from typing import NamedTuple

import numpy as np

# Matrix products treat the rows left over after their last full tile differently. Measured on one thread of
# an AMD EPYC (Zen 3, AVX2): batches of odd size may round differently, multiples of 8 all round alike.
ROW_MULTIPLE = 8


class Step(NamedTuple):
    """What R rollouts act on.

    rows (R,) their numbers; timesteps (R,) t of the present step; previous_actions (R, A) executed at t - 1,
    zeros at the start; states (R, S) raw; returns_to_go (R, 1) scaled, without meaning where they are
    predicted by the transformer.
    """

    rows: np.ndarray
    timesteps: np.ndarray
    previous_actions: np.ndarray
    states: np.ndarray
    returns_to_go: np.ndarray


def fill_up(rows: np.ndarray) -> np.ndarray:
    """`rows` (R,), its first entry repeated at the end until there is a multiple of ROW_MULTIPLE."""
    return np.concatenate([rows, np.repeat(rows[:1], -len(rows) % ROW_MULTIPLE)])
