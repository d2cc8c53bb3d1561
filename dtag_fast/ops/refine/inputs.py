"""Checks and conversions of what the user passes in a call: states, actions, out, and numbers per row."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MAX_STEPS = 1_000_000  # far above any use; a larger number is a mistake, not a wish

_UNLESS_DISCRETE = {
    "actions": ", unless they are discrete: Action Gradient climbs a critic over continuous actions alone"
}


def as_tensor(name: str, value: Any) -> Tensor:
    """A floating tensor sharing memory with a torch tensor or NumPy array."""
    if isinstance(value, np.ndarray):
        if value.dtype not in (np.float32, np.float64, np.float16):
            raise TypeError(
                f"{name}: expected a floating point array, got dtype {value.dtype}; use .astype('float32')"
                f"{_UNLESS_DISCRETE.get(name, '')}"
            )
        if any(stride < 0 for stride in value.strides) or not value.flags.writeable:
            value = value.copy()  # torch takes neither negative strides nor read-only memory
        return torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected a torch tensor or a NumPy array, got {type(value).__name__}; "
            "use torch.as_tensor or np.asarray"
        )
    if value.dtype not in FLOATS:
        raise TypeError(
            f"{name}: expected dtype float32, float64, float16 or bfloat16, got {value.dtype}; use .float()"
            f"{_UNLESS_DISCRETE.get(name, '')}"
        )
    return value.detach().resolve_neg()


def check_pair(states: Tensor, actions: Tensor) -> None:
    """states (B, S) or (S,), actions (B, A), (A,) or (B, M, A) with the same B, on one device."""
    expected = {1: (1,), 2: (2, 3)}.get(states.ndim)
    if expected is None:
        raise ValueError(f"states: expected shape (B, S) or (S,), got {tuple(states.shape)}")
    if actions.ndim not in expected:
        shapes = "(A,)" if states.ndim == 1 else "(B, A), or (B, M, A) for M candidates per state,"
        raise ValueError(
            f"actions: expected shape {shapes} beside states {tuple(states.shape)}, got "
            f"{tuple(actions.shape)}"
        )
    if states.ndim == 2 and states.shape[0] != actions.shape[0]:
        raise ValueError(
            f"actions: expected the {states.shape[0]} rows of states, got {actions.shape[0]}; "
            "states and actions must have the same B"
        )
    if actions.shape[-1] == 0 or states.shape[-1] == 0 or (actions.ndim == 3 and actions.shape[1] == 0):
        name, shape = ("states", states.shape) if states.shape[-1] == 0 else ("actions", actions.shape)
        raise ValueError(f"{name}: expected at least one number per row, got shape {tuple(shape)}")
    if states.device != actions.device:
        raise ValueError(
            f"actions: expected the device of states, {states.device}, got {actions.device}; move one "
            "with .to()"
        )


def check_out(out: Any, shape: tuple[int, ...], actions: Any) -> None:
    """`out` must be of the type, dtype, device and shape of the result."""
    if type(out) is not type(actions) and not (isinstance(out, Tensor) and isinstance(actions, Tensor)):
        raise TypeError(f"out: expected {type(actions).__name__} like actions, got {type(out).__name__}")
    device = getattr(actions, "device", None)
    if tuple(out.shape) != shape or out.dtype != actions.dtype or getattr(out, "device", None) != device:
        raise ValueError(
            f"out: expected shape {shape}, {actions.dtype} on {device}, got {tuple(out.shape)}, {out.dtype} "
            f"on {getattr(out, 'device', None)}"
        )


def check_default_bounds(actions: Tensor) -> None:
    """Actions outside bounds that are only the default mean a forgotten `bounds`, not a wish to clip."""
    low, high = (float(x) for x in torch.aminmax(actions)) if actions.numel() else (0.0, 0.0)
    if math.isnan(low):  # NaN hides the rest; those rows come back as they are
        finite = actions[~actions.isnan()]
        return check_default_bounds(finite)
    if low < -1.0 or high > 1.0:
        raise_outside_default(low, high)
    return None


def raise_outside_default(low: float, high: float) -> None:
    raise ValueError(
        f"actions: the default bounds are (-1, 1), got actions from {low:g} to {high:g}; pass "
        "bounds=(low, high), "
        "bounds=env.action_space, or bounds=None for an unbounded action"
    )


def check_steps(steps: Any) -> int | Tensor:
    """An int >= 0, or an int32 host or device tensor (B,) (shape checked per call)."""
    if isinstance(steps, Integral) and not isinstance(steps, bool):
        steps = int(steps)
        if not 0 <= steps <= MAX_STEPS:
            raise ValueError(f"steps: expected an integer in 0..{MAX_STEPS}, got {steps}")
        return steps
    if isinstance(steps, Tensor | np.ndarray | list | tuple):
        steps = torch.as_tensor(steps)
        if steps.dtype in (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8):
            if steps.ndim != 1:
                raise ValueError(f"steps: expected an integer or shape (B,), got shape {tuple(steps.shape)}")
            if (
                steps.device.type == "cpu"
                and steps.numel()
                and not 0 <= int(steps.min()) <= int(steps.max()) <= MAX_STEPS
            ):
                raise ValueError(
                    f"steps: expected integers in 0..{MAX_STEPS}, got {int(steps.min())}..{int(steps.max())}"
                )
            return steps.to(torch.int32).contiguous()
        raise TypeError(f"steps: expected integers, got dtype {steps.dtype}")
    raise TypeError(f"steps: expected an integer or integers of shape (B,), got {steps!r}")


def check_lr(lr: Any) -> float | Tensor:
    """A number >= 0, or a float32 tensor of one or two axes (shape checked per call)."""
    return _check_per_dimension("lr", lr)


def check_scale(scale: Any) -> float | Tensor | None:
    """None, a number >= 0, or a float32 tensor of one or two axes (shape checked per call)."""
    return None if scale is None else _check_per_dimension("scale", scale)


def _check_per_dimension(name: str, value: Any) -> float | Tensor:
    if isinstance(value, Real) and not isinstance(value, bool):
        value = float(value)
        if not (0 <= value < math.inf):
            raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
        return value
    if isinstance(value, Tensor | np.ndarray | list | tuple):
        value = _real_tensor(name, value)
        if value.ndim > 2:
            raise ValueError(
                f"{name}: expected a number, (B,), (A,) or (B, A), got shape {tuple(value.shape)}"
            )
        if value.device.type == "cpu" and value.numel() and not (value.isfinite().all() and value.min() >= 0):
            raise ValueError(f"{name}: expected finite numbers >= 0, got {value.min():g}..{value.max():g}")
        return value
    raise TypeError(f"{name}: expected a number or numbers of shape (B,), (A,) or (B, A), got {value!r}")


def _real_tensor(name: str, value: Any) -> Tensor:
    """float32, of anything that torch makes a tensor of."""
    value = torch.as_tensor(value).detach()
    if value.dtype is torch.bool or value.is_complex():
        raise TypeError(f"{name}: expected real numbers, got dtype {value.dtype}")
    return value.to(torch.float32)


def check_row_radius(limit: Any) -> Tensor:
    """The limits of rows, float32 (B,), each >= 0 or infinite (how many, is checked per call)."""
    limit = _real_tensor("radius", limit)
    if limit.ndim not in (1, 2) or (limit.ndim == 2 and limit.shape[1] != 1):
        raise ValueError(
            f"radius: expected a number, or one for each row of shape (B,) or (B, 1), got shape "
            f"{tuple(limit.shape)}; what differs per dimension is `scale`"
        )
    if limit.device.type == "cpu" and limit.numel() and not (limit >= 0).all():
        raise ValueError(
            f"radius: expected numbers >= 0, got {limit.min():g}..{limit.max():g}; give infinity where a "
            "row has none"
        )
    return limit.reshape(-1)


def check_prior_mean(mean: Any) -> float | Tensor:
    """A finite number, or a float32 tensor (), (A,), (1, A) or (B, A) (shape checked per call)."""
    if isinstance(mean, Real) and not isinstance(mean, bool):
        mean = float(mean)
        if not abs(mean) < math.inf:
            raise ValueError(f"Prior mean: expected a finite number, got {mean}")
        return mean
    if not isinstance(mean, Tensor | np.ndarray | list | tuple):
        raise TypeError(f"Prior mean: expected a number or numbers of shape (A,) or (B, A), got {mean!r}")
    mean = _real_tensor("Prior mean", mean)
    if mean.ndim > 2:
        raise ValueError(f"Prior mean: expected a number, (A,) or (B, A), got shape {tuple(mean.shape)}")
    if _on_host(mean) and not mean.isfinite().all():
        raise ValueError(f"Prior mean: expected finite numbers, got {mean.min():g}..{mean.max():g}")
    return mean


def check_prior_weight(weight: Any) -> float | Tensor:
    """A finite number >= 0, or a float32 tensor (B,) or () (shape checked per call)."""
    if isinstance(weight, Real) and not isinstance(weight, bool):
        weight = float(weight)
        if not 0 <= weight < math.inf:
            raise ValueError(f"Prior weight: expected a finite number >= 0, got {weight}")
        return weight
    if not isinstance(weight, Tensor | np.ndarray | list | tuple):
        raise TypeError(f"Prior weight: expected a number or one for each row, (B,), got {weight!r}")
    weight = _real_tensor("Prior weight", weight)
    if weight.ndim > 2 or (weight.ndim == 2 and weight.shape[1] != 1):
        raise ValueError(
            f"Prior weight: expected a number, or one for each row of shape (B,) or (B, 1), got shape "
            f"{tuple(weight.shape)}; what differs per dimension is `scale`"
        )
    if _on_host(weight) and not (weight.isfinite().all() and weight.min() >= 0):
        raise ValueError(
            f"Prior weight: expected finite numbers >= 0, got {weight.min():g}..{weight.max():g}"
        )
    return weight.reshape(-1) if weight.ndim else weight


def _on_host(numbers: Tensor) -> bool:
    """Whether they can be looked at: they exist, no device holds them, and no graph is being traced."""
    return numbers.device.type == "cpu" and numbers.numel() > 0 and not torch.compiler.is_compiling()


def check_variant(variant: Any, count: int) -> Tensor | None:
    """None, or an int32 tensor (B,) of positions among `count` variants (how many, is checked per call)."""
    if variant is None:
        return None
    if not isinstance(variant, Tensor | np.ndarray | list | tuple):
        raise TypeError(f"variant: expected integers of shape (B,), one for each row, got {variant!r}")
    variant = torch.as_tensor(variant)
    if variant.dtype not in (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8):
        raise TypeError(f"variant: expected integers, got dtype {variant.dtype}")
    if variant.ndim != 1:
        raise ValueError(f"variant: expected shape (B,), one for each row, got {tuple(variant.shape)}")
    if variant.device.type == "cpu" and variant.numel():
        low, high = int(variant.min()), int(variant.max())
        if low < 0 or high >= count:
            raise ValueError(f"variant: expected integers in 0..{count - 1}, got {low}..{high}")
    return variant.to(torch.int32).contiguous()


def fit_variant(variant: Tensor | None, batch: int) -> Tensor | None:
    """Positions must have one entry per row."""
    if variant is not None and variant.shape[0] != batch:
        raise ValueError(f"variant: expected {batch} entries, one per row, got {variant.shape[0]}")
    return variant


def fit_steps(steps: int | Tensor, batch: int) -> int | Tensor:
    """Per-row steps must have one entry per row."""
    if isinstance(steps, Tensor) and steps.shape[0] != batch:
        raise ValueError(f"steps: expected {batch} entries, one per row, got {steps.shape[0]}")
    return steps


def fit_radius(radius: Tensor | None, batch: int) -> Tensor | None:
    """Per-row limits must have one entry per row."""
    if radius is not None and radius.shape[0] != batch:
        raise ValueError(f"radius: expected {batch} entries, one per row, got {radius.shape[0]}")
    return None if radius is None else radius.contiguous()


def fit_lr(lr: float | Tensor, batch: int, width: int) -> float | Tensor:
    """Per-row and per-dimension lr as a contiguous (B, 1), (1, A) or (B, A) tensor."""
    return _fit_per_dimension("lr", lr, batch, width)


def fit_scale(scale: float | Tensor | None, batch: int, width: int) -> float | Tensor | None:
    """The same of scale."""
    return _fit_per_dimension("scale", scale, batch, width)


def fit_prior_mean(mean: float | Tensor, batch: int, width: int) -> float | Tensor:
    """A mean of several numbers as a contiguous (1, A) or (B, A) tensor."""
    if not isinstance(mean, Tensor):
        return mean
    rows = mean.expand(1, width) if mean.ndim == 0 else mean[None] if mean.ndim == 1 else mean
    if rows.shape[0] not in (1, batch) or rows.shape[1] != width:
        raise ValueError(
            f"Prior mean: expected shape (A,), (1, A) or (B, A) = ({batch}, {width}), got {tuple(mean.shape)}"
        )
    return rows.contiguous()


def fit_prior_weight(weight: float | Tensor, batch: int) -> float | Tensor:
    """Per-row weights must have one entry per row."""
    if not isinstance(weight, Tensor):
        return weight
    if weight.ndim and weight.shape[0] != batch:
        raise ValueError(f"Prior weight: expected {batch} entries, one per row, got {weight.shape[0]}")
    return weight.expand(batch).contiguous()


def _fit_per_dimension(name: str, value: Any, batch: int, width: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        value = value.expand(1, width)
    elif value.ndim == 1:
        per_row, per_dimension = value.shape[0] == batch, value.shape[0] == width
        if per_row and per_dimension and batch > 1:
            raise ValueError(
                f"{name}: {batch} entries fit both the {batch} rows and the {width} action dimensions; "
                "give shape (B, 1) or (1, A)"
            )
        if not (per_row or per_dimension):
            raise ValueError(
                f"{name}: expected {batch} entries (one per row) or {width} (one per action dimension), "
                f"got {value.shape[0]}"
            )
        value = value[None] if per_dimension else value[:, None]
    elif value.shape[0] not in (1, batch) or value.shape[1] not in (1, width):
        raise ValueError(
            f"{name}: expected shape (B, 1), (1, A) or (B, A) = ({batch}, {width}), got {tuple(value.shape)}"
        )
    if value.shape == (1, 1):
        value = value.expand(1, width)
    return value.contiguous()


def restore(result: Tensor, original: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    """`result` (B, A) in the dtype of `original`; what the loop left at a_0 keeps the bits of a_0.

    Bounds apply once more in that dtype, so that rounding does not step over them.
    """
    start, a_0, rounded = original.to(result.dtype), original, result.to(original.dtype)
    if bounds is not None:
        low, high = bounds
        start = start.clamp(low.float(), high.float())
        a_0, rounded = (x.clamp(low.to(x.dtype), high.to(x.dtype)) for x in (a_0, rounded))
    return torch.where((result == start) | (result.isnan() & start.isnan()), a_0, rounded)
