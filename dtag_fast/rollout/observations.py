"""The states in what a foreign loop passes to its policy, and which of them the action is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtag_fast.data.spaces import observation_entry
from dtag_fast.ops.refine import inputs


def states_of(observation: Any, keys: Sequence[str] | None) -> Tensor:
    """An observation as a floating tensor (..., S); its Dict entries one after the other."""
    if not isinstance(observation, Mapping):
        return _floating(observation)
    if isinstance(keys, str):
        raise TypeError(f"observation_keys: expected a sequence of names, got {keys!r}; give ({keys!r},)")
    if keys is None:
        raise ValueError(
            f"observation_keys: expected entries of the Dict observation ({', '.join(observation)}), got none"
        )
    return torch.cat([_floating(observation_entry(observation, key)) for key in keys], dim=-1)


def _floating(values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        if not isinstance(values, np.ndarray | list | tuple):
            raise TypeError(
                f"observation: expected an array, a tensor or a Dict of them, got {type(values).__name__}; "
                "use .refine(observation, action) in this loop"
            )
        try:
            values = np.asarray(values)
        except ValueError:
            parts = ", ".join(type(x).__name__ for x in values)
            raise TypeError(
                f"observation: expected numbers of one shape, got a {type(values).__name__} of {parts}; of "
                "env.reset() and env.step() only the first part is the observation"
            ) from None
        if values.dtype.kind not in "fiub":
            raise TypeError(f"observation: expected numbers, got an array of type {values.dtype}")
        values = inputs.as_tensor("observation", values if values.dtype.kind == "f" else values.astype("f4"))
    return values.detach() if values.is_floating_point() else values.float()


def align(states: Tensor, actions: Tensor, history: bool) -> tuple[Tensor, Any]:
    """States (S,) or (B, S) that go with actions, and the index of the actions that are to be refined.

    Args:
        states: (S,), (B, S), (B, T, S), or (T, S) when `history`. actions: (A,), (B, A) or (B, T, A).
    """
    s, a, everything = tuple(states.shape), tuple(actions.shape), ...
    match len(s), len(a):
        case (1, 1):
            return states, everything
        case (2, 1) if history or s[0] == 1:
            return states[-1], everything
        case (3, 1) if s[0] == 1:
            return states[0, -1], everything
        case (1, 2) if a[0] == 1:
            return states[None], everything
        case (2, 2) if s[0] == a[0]:
            return states, everything
        case (2, 2) if history and a[0] == 1:
            return states[-1:], everything
        case (3, 2) if s[0] == a[0]:
            return states[:, -1], everything
        case (3, 3) if s[:2] == a[:2]:
            return states[:, -1], (slice(None), -1)
    raise ValueError(
        f"observation: expected shape (S,) for an action (A,), (B, S) for (B, A), or a history (B, T, S), "
        f"got {s} for actions {a}; use .refine(observation, action) in this loop"
    )
