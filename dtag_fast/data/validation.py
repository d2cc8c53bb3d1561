"""What an episode must satisfy before it enters a store, with errors that name the episode and the key."""

import numpy as np

from dtag_fast.data.discrete import KEY, DiscreteActions

KEYS = ("observations", "actions", "rewards", "terminations", "truncations")


def check_episode(
    episode, where: str, dims: tuple[int, int] | None = None, discrete: DiscreteActions | None = None
) -> tuple[np.ndarray, ...]:
    """Check one episode and convert it.

    Args:
        episode: (observations (T + 1, S), actions (T, A), rewards (T,), terminations (T,), truncations (T,)).
        where: names the episode in errors, for example "local/hopper/medium-v0: episode 12".
        dims: (S, A) that the episode must have; None takes any.
        discrete: the action space where it is discrete; actions are then (T,) numbers, or one-hot rows.

    Returns:
        The five arrays, C-contiguous: float32, float32, float32, bool, bool. No copy where none is needed.
        Discrete actions are one-hot rows.

    Raises:
        ValueError: no steps; lengths that disagree; a wrong number of dimensions or width; NaN or infinity
            (float64 numbers beyond float32 included); flags other than true and false; numbers that are no
        action of a discrete space.
    """
    observations, actions, rewards, terminations, truncations = map(np.asarray, episode)
    if discrete is not None:
        actions = discrete.one_hot(actions, where)
    if actions.ndim == 1 and actions.dtype.kind in "iu":
        raise ValueError(
            f"{where}: actions: expected (T, A), got integers of shape {actions.shape}; where actions are "
            f"discrete, metadata says so under {KEY!r}: {{'n': number of actions, 'start': the first}}"
        )
    _expect(actions.ndim == 2, where, "actions", "(T, A)", actions)
    steps = len(actions)
    if steps == 0:
        raise ValueError(f"{where}: actions: the episode has no steps; remove it from the dataset")
    _expect(observations.ndim == 2, where, "observations", "(T + 1, S)", observations)
    if len(observations) == steps:
        raise ValueError(
            f"{where}: observations: expected {steps + 1} rows for {steps} actions, got {steps}: the "
            "observation after the last step is missing, as in some old Minari sets; take a newer version of "
            "this dataset"
        )
    _expect(len(observations) == steps + 1, where, "observations", f"{steps + 1} rows", observations)
    for key, array in zip(KEYS[2:], (rewards, terminations, truncations), strict=True):
        _expect(array.shape == (steps,), where, key, f"({steps},) to match {steps} actions", array)
    if dims is not None:
        _expect(observations.shape[1] == dims[0], where, "observations", f"{dims[0]} columns", observations)
        _expect(actions.shape[1] == dims[1], where, "actions", f"{dims[1]} columns", actions)
    return (
        _finite(observations, where, "observations"),
        _finite(actions, where, "actions"),
        _finite(rewards, where, "rewards"),
        _flags(terminations, where, "terminations"),
        _flags(truncations, where, "truncations"),
    )


def _expect(holds: bool, where: str, key: str, expected: str, array: np.ndarray) -> None:
    if not holds:
        raise ValueError(f"{where}: {key}: expected {expected}, got shape {array.shape}")


def _finite(array: np.ndarray, where: str, key: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{where}: {key}: expected numbers, got type {array.dtype}")
    with np.errstate(over="ignore"):  # an overflow becomes infinity and is refused just below
        converted = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(converted)
    if not finite.all():
        row = int(np.argwhere(~finite)[0, 0])
        raise ValueError(
            f"{where}: {key}: row {row} holds NaN, infinity or a number beyond float32 "
            f"({int((~finite).sum())} such values); remove or repair the episode"
        )
    return converted


def _flags(array: np.ndarray, where: str, key: str) -> np.ndarray:
    if array.dtype != np.bool_ and not (array.dtype.kind in "fiu" and np.isin(array, (0, 1)).all()):
        raise ValueError(f"{where}: {key}: expected true or false per step, got type {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.bool_)
