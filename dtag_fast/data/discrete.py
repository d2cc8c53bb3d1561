"""Discrete actions: numbers in files and environments, one-hot rows everywhere else.

A row of n numbers per action lets stores, samplers, histories and kernels stay as they are for continuous
actions, and makes the linear action embedding of a sequence model a table with a column per action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

KEY = "discrete_actions"  # of a store's metadata


@dataclass(frozen=True)
class DiscreteActions:
    """n actions, numbered from `start`: Gymnasium's `Discrete(n, start=start)`.

    Raises:
        ValueError: n below 1, or one of them is no whole number.
    """

    n: int
    start: int = 0

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("start", self.start)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{KEY}: {name}: expected a whole number, got {value!r}")
            object.__setattr__(self, name, int(value))  # as JSON takes it
        if self.n < 1:
            raise ValueError(f"{KEY}: n: expected at least one action, got {self.n}")

    @classmethod
    def of(cls, metadata: Mapping) -> DiscreteActions | None:
        """What a store's metadata says under "discrete_actions"; None for continuous actions."""
        found = metadata.get(KEY)
        return None if found is None else cls(**found)

    @property
    def last(self) -> int:
        """The highest number of an action."""
        return self.start + self.n - 1

    def __str__(self) -> str:
        return f"Discrete({self.n}{f', start={self.start}' if self.start else ''})"

    def to_dict(self) -> dict[str, int]:
        """As metadata holds it."""
        return asdict(self)

    def one_hot(self, actions: np.ndarray, where: str) -> np.ndarray:
        """(T, n) float32 rows with a 1 in the column of each action.

        Args:
            actions: (T,) or (T, 1) numbers start .. last, of any type; or (T, n) such rows already.
            where: names the episode in errors.

        Raises:
            ValueError: another shape, a number outside the space or not whole, or a row that is not one-hot.
        """
        actions = np.asarray(actions)
        if actions.dtype.kind not in "fiub":
            raise ValueError(f"{where}: actions: expected numbers of {self}, got type {actions.dtype}")
        if actions.ndim == 2 and actions.shape[1] == self.n:
            wrong = ((actions != 0) & (actions != 1)).any(axis=1) | (actions.sum(axis=1) != 1)
            if not wrong.any():
                return np.ascontiguousarray(actions, dtype=np.float32)
            if self.n > 1:
                row = int(np.argmax(wrong))
                raise ValueError(
                    f"{where}: actions: expected one-hot rows of {self}, row {row} is {actions[row].tolist()}"
                )
        if actions.ndim != 1 and actions.shape[1:] != (1,):
            raise ValueError(
                f"{where}: actions: expected (T,) numbers or (T, {self.n}) one-hot rows of {self}, got shape "
                f"{actions.shape}"
            )
        numbers = actions.reshape(-1)
        columns = np.arange(self.start, self.start + self.n)
        rows = numbers[:, None] == columns  # (T, n)
        outside = ~rows.any(axis=1)
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"{where}: actions: expected whole numbers {self.start} to {self.last} of {self}, row {row} "
                f"is {numbers[row]}"
            )
        return rows.astype(np.float32)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """(...,) int64 numbers, as an environment takes them, of one-hot rows (..., n)."""
        return np.argmax(rows, axis=-1).astype(np.int64) + self.start


def discrete_facts(space: DiscreteActions) -> dict:
    """What a store's metadata says of discrete actions: no bounds, and the space."""
    return {"action_low": None, "action_high": None, KEY: space.to_dict()}
