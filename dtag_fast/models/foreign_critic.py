"""A critic of another library as a module that takes raw states and raw actions of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dtag_fast.models.plain_layers import build_layers, describe_layers

Numbers = Sequence[float] | np.ndarray | Tensor


class Affine(nn.Module):
    """(x - shift) / scale per dimension, as buffers; scale may be negative and is never 0.

    Args:
        width: of x. shift, scale: (width,) or one number for all; None for 0 and 1.
        names: of both, for what is refused.
    """

    def __init__(
        self,
        width: int,
        shift: Numbers | float | None,
        scale: Numbers | float | None,
        names: tuple[str, str],
    ):
        super().__init__()
        self.register_buffer("shift", finite_numbers(width, 0.0 if shift is None else shift, names[0]))
        self.register_buffer("scale", finite_numbers(width, 1.0 if scale is None else scale, names[1]))
        if (self.scale == 0).any():
            raise ValueError(f"{names[1]}: expected numbers other than 0")

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


@dataclass(frozen=True)
class Scaling:
    """How a library changes what goes in and out of its critic: ((s - state_shift) / state_scale,
    (a - action_shift) / action_scale) go in, q_scale q + q_shift comes out. None: nothing is changed.

    The vectors are (S,) and (A,), or one number for every dimension.
    """

    state_shift: Numbers | float | None = None
    state_scale: Numbers | float | None = None
    action_shift: Numbers | float | None = None
    action_scale: Numbers | float | None = None
    q_scale: float = 1.0
    q_shift: float = 0.0


class ForeignCritic(nn.Module):
    """Q functions of another library, ready for `refine`; its weights are copies and take no gradient.

    Args:
        members: E >= 1 modules of the concatenated, scaled state and action, (B, S + A) -> (B, 1) each.
        source: the library and the algorithm, in words.
        state_dim, action_dim: S, A. scaling: see `Scaling`.
        bounds: (low, high) of the actions, (A,) each, where the source tells; else None.

    Attributes:
        source, state_dim, action_dim, bounds: as given.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        source: str,
        state_dim: int,
        action_dim: int,
        scaling: Scaling | None = None,
        bounds: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        super().__init__()
        if not members:
            raise ValueError(f"{source}: expected at least one Q function, found none")
        scaling = scaling or Scaling()
        self.source, self.state_dim, self.action_dim, self.bounds = source, state_dim, action_dim, bounds
        self.scale_states = Affine(
            state_dim, scaling.state_shift, scaling.state_scale, ("state_mean", "state_std")
        )
        self.scale_actions = Affine(
            action_dim, scaling.action_shift, scaling.action_scale, ("action shift", "action scale")
        )
        self.q_scale, self.q_shift = float(scaling.q_scale), float(scaling.q_shift)
        if not self.q_scale > 0:
            raise ValueError(f"q_scale: expected a positive number, got {self.q_scale}")
        self.members = nn.ModuleList(members)
        unusable = [name for name, weight in self.members.named_parameters() if not weight.isfinite().all()]
        if unusable:
            raise ValueError(
                f"{source}: {len(unusable)} of its layers have weights that are not finite, as after "
                "a training that diverged; use an earlier checkpoint"
            )
        self.eval().requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:
        """What `from_config` makes a critic of the same shape from: plain JSON values."""
        bounds = self.bounds and [bound.tolist() for bound in self.bounds]
        return {
            "members": [describe_layers(member) for member in self.members],
            "source": self.source,
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
            "q_scale": self.q_scale,
            "q_shift": self.q_shift,
            "bounds": bounds,
        }

    @classmethod
    def from_config(
        cls, members: list[Any], *, q_scale: float, q_shift: float, bounds: list | None, **sizes: Any
    ) -> ForeignCritic:
        """A critic of the shape that a `config` says; its numbers are still to be loaded.

        Raises:
            ValueError, TypeError: no such config.
        """
        found = None if bounds is None else tuple(np.asarray(bound, np.float32) for bound in bounds)
        scaling = Scaling(q_scale=q_scale, q_shift=q_shift)
        return cls([build_layers(member) for member in members], scaling=scaling, bounds=found, **sizes)

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """Q of every member, (B, 1) each, for raw states (B, S) and raw actions (B, A)."""
        expected, got = (self.state_dim, self.action_dim), (states.shape[-1], actions.shape[-1])
        if got != expected:  # or one number would be taken for all dimensions
            raise ValueError(f"{self.source}: expected states and actions of (S, A) = {expected}, got {got}")
        x = torch.cat([self.scale_states(states), self.scale_actions(actions)], dim=-1)
        values = [member(x) for member in self.members]
        if (self.q_scale, self.q_shift) == (1.0, 0.0):
            return tuple(values)
        return tuple(self.q_scale * q + self.q_shift for q in values)

    def extra_repr(self) -> str:
        return f"{self.source}: S={self.state_dim}, A={self.action_dim}, {len(self.members)} members"


def finite_numbers(width: int, value: Numbers | float, name: str) -> Tensor:
    """(width,) float32, finite, on the CPU."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    if numbers.size == 1:
        numbers = np.repeat(numbers, width)
    if numbers.shape != (width,) or not np.isfinite(numbers).all():
        raise ValueError(
            f"{name}: expected {width} finite numbers, got {numbers.size}"
            + ("" if np.isfinite(numbers).all() else ", not all finite")
        )
    return torch.from_numpy(numbers.astype(np.float32))
