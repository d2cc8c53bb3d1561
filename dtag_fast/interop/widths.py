"""Which part of a Q function's input is the state and which the action."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dtag_fast.interop.chains import input_width


def q_width(members: Sequence[nn.Sequential], source: str) -> int:
    """S + A of members that end in one number.

    Raises:
        ValueError: they do not, or do not fit one another.
    """
    for member in members:
        last = member[-1]
        if not isinstance(last, nn.Linear) or last.out_features != 1:
            shape = last.out_features if isinstance(last, nn.Linear) else type(last).__name__
            raise ValueError(f"{source}: expected Q functions whose last layer gives 1 number, got {shape}")
    return input_width(members)


def state_and_action(
    width: int, source: str, action_dim: int | None, state_dim: int | None = None
) -> tuple[int, int]:
    """S and A of a Q function of `width` inputs.

    Args:
        action_dim: A as the caller names it, or None. state_dim: S as the file's policy tells it, or None.
    Raises:
        ValueError: neither is known, both are and disagree, or one of them leaves nothing of the width.
    """
    told = None if state_dim is None else width - state_dim
    if action_dim is None and told is None:
        raise ValueError(
            f"{source}: its Q functions take {width} inputs, states and actions together; say how many of "
            "them are actions: action_dim="
        )
    if None not in (action_dim, told) and action_dim != told:
        raise ValueError(
            f"action_dim: expected {told}, since the Q functions take {width} inputs and the policy "
            f"{state_dim} states, got {action_dim}"
        )
    found = told if action_dim is None else action_dim
    if not 0 < found < width:
        raise ValueError(
            f"{source}: expected 1 to {width - 1} actions among the {width} inputs of its Q functions, got "
            f"{found}"
        )
    return width - found, found
