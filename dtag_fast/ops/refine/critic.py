"""Calling a user's critic: which arguments it takes and what its output means.

Inputs: a module whose forward takes two positional arguments is called critic(states, actions); one that
takes a single argument (nn.Sequential and the like) is called critic(cat([states, actions], -1)). With *args
both are tried, two arguments first.

Outputs: Q per row as (B,), (B, 1), (E, B), (B, E), (E, B, 1), (B, E, 1), or a tuple or list of those; all
numbers beside the batch are ensemble members. The batch axis is found by calling with two batch sizes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PROBE_ROWS = (3, 5)  # batch sizes used to find the batch axis; an ensemble of 3 or 5 is still told apart


class CriticError(ValueError):
    """The critic cannot be called or its output cannot be read as Q values."""


def unwrap(critic: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel wrappers."""
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds; a compiled module has done so
    while True:
        if isinstance(critic, nn.DataParallel | nn.parallel.DistributedDataParallel):
            critic = critic.module
        elif dynamo is not None and isinstance(critic, dynamo.OptimizedModule):
            critic = critic._orig_mod
        else:
            return critic


def input_styles(module: nn.Module) -> tuple[str, ...]:
    """("two",), ("one",) or both to be tried in that order, from the signature of forward."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # scripted modules have no Python signature
        return ("two", "one")
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return ("two", "one")
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return ("two",) if len(positional) >= 2 else ("one",)


def call(module: Callable[..., Any], style: str, states: Tensor, actions: Tensor) -> Any:
    return module(states, actions) if style == "two" else module(torch.cat([states, actions], -1))


def flat_outputs(output: Any) -> list[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Sequence) and not isinstance(output, str) and len(output):
        return [tensor for part in output for tensor in flat_outputs(part)]
    raise CriticError(
        f"critic: expected Q as a tensor or a tuple or list of tensors, got {type(output).__name__}; "
        "wrap the critic in a module that returns only Q"
    )


def batch_axis(shapes: Sequence[torch.Size]) -> int:
    """The axis that follows the batch size, from the output's shape at each of PROBE_ROWS."""
    first, second = shapes
    axes = [i for i, (m, n) in enumerate(zip(first, second, strict=False)) if (m, n) == PROBE_ROWS]
    others = [n for i, n in enumerate(first) if i not in axes]
    if len(first) != len(second) or len(axes) != 1 or len(first) > 3 or sum(n != 1 for n in others) > 1:
        raise CriticError(
            f"critic: expected Q of shape (B,), (B, 1), (E, B), (B, E) or (E, B, 1), got {tuple(first)} for "
            f"B = {PROBE_ROWS[0]}; return one number per row and ensemble member"
        )
    return axes[0]


def as_members(outputs: Sequence[Tensor], axes: Sequence[int]) -> Tensor:
    """Outputs with known batch axes as one (E, N) tensor."""
    rows = [q.movedim(axis, -1).reshape(-1, q.shape[axis]) for q, axis in zip(outputs, axes, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


class CriticCall:
    """How to call one or several modules as an ensemble: input style, dtype, device and output layout.

    Holds no reference to the modules, so that a cache keyed by a critic does not keep it alive.

    Args:
        modules: E >= 1 modules. state_dim, action_dim: S, A.

    Raises:
        CriticError: the modules do not take such inputs or do not return Q values.
    """

    def __init__(self, modules: Sequence[nn.Module], state_dim: int, action_dim: int) -> None:
        tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
        floating = [t for t in tensors if t.is_floating_point()]
        self.dtype = floating[0].dtype if floating else torch.float32
        self.device = floating[0].device if floating else None
        self.loop_dtype = torch.float64 if self.dtype is torch.float64 else torch.float32
        self.styles: list[str] = []
        self.axes: list[list[int]] = []
        self.members = 0
        for module in modules:
            refuse_mixed_rows(module)
            refuse_other_keys(module)
            refuse_scaled_actions(module)
            style, outputs = self._probe(module, state_dim, action_dim)
            self.styles.append(style)
            self.axes.append([batch_axis([q.shape for q in pair]) for pair in zip(*outputs, strict=True)])
            self.members += sum(q.numel() // PROBE_ROWS[0] for q in outputs[0])

    def _probe(self, module, state_dim, action_dim):
        errors = []
        for style in input_styles(module):
            try:
                with torch.no_grad():
                    return style, [
                        flat_outputs(call(module, style, *self._zeros(rows, state_dim, action_dim)))
                        for rows in PROBE_ROWS
                    ]
            except CriticError:
                raise
            except Exception as error:  # whatever the user's forward raises is shown, not swallowed
                errors.append(error)
        given = f"states (B, {state_dim}) and actions (B, {action_dim})"
        reason = f"{type(errors[0]).__name__}: {errors[0]}".splitlines()[0]
        raise CriticError(
            f"critic: {type(module).__name__} failed on {given}: {reason}; its forward must take "
            "(states, actions) or their concatenation, and S + A must match its input width"
        ) from errors[0]

    def _zeros(self, rows: int, state_dim: int, action_dim: int) -> tuple[Tensor, Tensor]:
        return tuple(
            torch.zeros(rows, n, dtype=self.dtype, device=self.device) for n in (state_dim, action_dim)
        )

    def __call__(self, modules: Sequence[Callable[..., Any]], states: Tensor, actions: Tensor) -> Tensor:
        """Q of all members, (E, N), in the critic's own dtype."""
        states, actions = states.to(self.dtype), actions.to(self.dtype)
        rows = [
            as_members(flat_outputs(call(module, style, states, actions)), axes)
            for module, style, axes in zip(modules, self.styles, self.axes, strict=True)
        ]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


def refuse_mixed_rows(module: nn.Module) -> None:
    """BatchNorm in training mode would let rows influence each other and change its statistics."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training:
            raise CriticError(
                f"critic: {type(part).__name__} {name!r} is in training mode, where rows influence each "
                "other; call critic.eval() first"
            )


def refuse_other_keys(module: nn.Module) -> None:
    """A module of TorchRL is called by position, so that its keys must be one of states, then the action."""
    keys = getattr(module, "in_keys", None)
    if not isinstance(keys, list | tuple):
        return
    actions = [str(key[-1] if isinstance(key, tuple) else key) == "action" for key in keys]
    if len(keys) != 2 or (any(actions) and actions != [False, True]):
        raise CriticError(
            f"critic: {type(module).__name__} has the in_keys {list(keys)}; expected one of the states, then "
            "the action; dtag_fast.interop.load_critic takes two keys in any order, and losses"
        )


def refuse_scaled_actions(module: nn.Module) -> None:
    """Stable-Baselines3 trains its critics on actions scaled to [-1, 1], whatever the environment's are."""
    names = [kind.__module__.partition(".")[0] for kind in type(module).__mro__]
    space = getattr(module, "action_space", None)
    if not {"stable_baselines3", "sb3_contrib"} & set(names) or not hasattr(space, "low"):
        return
    if (space.low != -1).any() or (space.high != 1).any():
        raise CriticError(
            f"critic: {type(module).__name__} of Stable-Baselines3 takes actions scaled to [-1, 1], those of "
            f"its environment lie in {space}; give dtag_fast.interop.load_critic(critic), which scales them"
        )
