"""Delayed rewards: summed, and given out at every M-th step of an episode and at its last. Returns stay.

The delayed-reward experiments of TD3+ODT (Yan et al. 2024, arXiv 2410.24108, Table 10) have M = 5.
"""

from __future__ import annotations

import numpy as np

from dtag_fast.data.store import ARRAYS, TrajectoryStore


def delayed(store: TrajectoryStore, every: int) -> TrajectoryStore:
    """The same episodes, their rewards given out every `every` steps.

    Args:
        store: stays as it is; all but the rewards is shared with it.
        every: M >= 1; 1 gives `store` itself.

    Returns:
        A store whose metadata says so, among its notes and in its fingerprint: it is other data.

    Raises:
        ValueError: `every` is no whole number of at least 1.
    """
    check_every("every", every)
    if every == 1:
        return store
    rewards = delay_rewards(store.rewards, store.offsets, every)
    note = f"rewards are given out every {every} steps and at the end of an episode, summed"
    fingerprint = store.metadata.get("fingerprint")
    changed = {"notes": [*(store.metadata.get("notes") or []), note]}
    if fingerprint is not None:
        changed["fingerprint"] = f"{fingerprint} delayed {every}"
    arrays = {name: getattr(store, name) for name in ARRAYS} | {"rewards": rewards}
    return TrajectoryStore(arrays, store.metadata | changed)


def delay_rewards(rewards: np.ndarray, offsets: np.ndarray, every: int) -> np.ndarray:
    """Rewards summed over the steps since they were last given out, 0 at all other steps.

    Args:
        rewards: (N,) float32 of all episodes, one after the other.
        offsets: (E + 1,) first step of each episode, and N; no episode is empty.
        every: M >= 1.

    Returns:
        (N,) float32, sums made in float64.
    """
    lengths = np.diff(offsets)
    step = np.arange(len(rewards)) - np.repeat(offsets[:-1], lengths)  # (N,) t of each row
    first = np.flatnonzero(step % every == 0)  # rows that a sum begins with; it goes up to the next of them
    last = np.append(first[1:], len(rewards)) - 1
    given = np.zeros(len(rewards), np.float32)
    given[last] = np.add.reduceat(rewards, first, dtype=np.float64)
    return given


def check_every(name: str, every: int) -> None:
    """Refuse a delay that is no whole number of steps, with a ValueError that names the argument."""
    if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
        raise ValueError(
            f"{name}: expected a whole number of steps of at least 1 (1: every step has its own reward), got "
            f"{every!r}"
        )
