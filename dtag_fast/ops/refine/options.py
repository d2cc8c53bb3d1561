"""The options of `refine`: what the user writes, checked once and frozen for the backends.

Formulas are those of torch.optim with maximize=True; optimizer state is zero at the start of every call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .inputs import check_prior_mean, check_prior_weight, check_row_radius


def _number(name: str, value: Any, low: float, high: float, *, open_high: bool = False) -> float:
    """`value` as a float in [low, high] (or [low, high) when open_high), else one clear error."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    value = float(value)
    if not (low <= value <= high) or (open_high and value == high) or abs(value) == math.inf:
        raise ValueError(
            f"{name}: expected a number in [{low:g}, {high:g}{')' if open_high else ']'}, got {value}"
        )
    return value


@dataclass(frozen=True)
class SGD:
    """m = momentum * m + g (m = g at first); a += lr * (g + momentum * m if nesterov else m).

    Args:
        momentum: in [0, 1). 0 is the paper's plain step a += lr * g.
        nesterov: look-ahead form; needs momentum > 0.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "momentum", _number("momentum", self.momentum, 0, 1, open_high=True))
        if not isinstance(self.nesterov, bool):
            raise TypeError(f"nesterov: expected True or False, got {self.nesterov!r}")
        if self.nesterov and self.momentum == 0:
            raise ValueError(
                "nesterov: needs momentum > 0, got momentum=0; give SGD(momentum=0.9, nesterov=True)"
            )


@dataclass(frozen=True)
class Adam:
    """a += lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps), t = 1, 2, ...

    m = b1 * m + (1 - b1) * g and v = b2 * v + (1 - b2) * g^2.

    Args:
        betas: (b1, b2), each in [0, 1).
        eps: >= 0, added outside the root.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        try:
            first, second = self.betas
        except (TypeError, ValueError):
            raise TypeError(f"betas: expected two numbers (b1, b2), got {self.betas!r}") from None
        checked = tuple(
            _number(f"betas[{i}]", b, 0, 1, open_high=True) for i, b in enumerate((first, second))
        )
        object.__setattr__(self, "betas", checked)
        object.__setattr__(self, "eps", _number("eps", self.eps, 0, math.inf))


@dataclass(frozen=True)
class RMSprop:
    """v = alpha * v + (1 - alpha) * g^2; a += lr * g / (sqrt(v) + eps).

    Args:
        alpha: in [0, 1), smoothing of v.
        eps: >= 0, added outside the root.
    """

    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _number("alpha", self.alpha, 0, 1, open_high=True))
        object.__setattr__(self, "eps", _number("eps", self.eps, 0, math.inf))


@dataclass(frozen=True)
class ClipNorm:
    """`gradient=ClipNorm(c)`: g * min(1, c / ||g||_2) per row. c > 0."""

    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", _number("ClipNorm limit", self.limit, 0, math.inf))
        if self.limit == 0:
            raise ValueError(
                "ClipNorm limit: expected a number above 0, got 0; use steps=0 to leave actions alone"
            )


@dataclass(frozen=True)
class Radius:
    """`radius=Radius(limit, norm)`: every iterate keeps ||a_i - a_0|| <= limit.

    Args:
        limit: >= 0, in units of the action, or with `scale` of u = (a - a_0) / scale; also one for each row,
            (B,) or (B, 1), infinite where a row has none.
        norm: "inf" bounds each dimension on its own, "l2" the Euclidean length.
    """

    limit: float | Tensor
    norm: Literal["inf", "l2"] = "inf"

    def __post_init__(self) -> None:
        several = isinstance(self.limit, Tensor | np.ndarray | list | tuple)
        checked = check_row_radius(self.limit) if several else _number("radius", self.limit, 0, math.inf)
        object.__setattr__(self, "limit", checked)
        if self.norm not in ("inf", "l2"):
            raise ValueError(f'radius: expected norm "inf" or "l2", got {self.norm!r}')


@dataclass(frozen=True)
class Prior:
    """`prior=Prior(mean, weight)`: the ascent climbs F in place of Q.

        F(s, a) = Q(s, a) - weight * (1/A) * sum_k ((a_k - mean_k) / scale_k)^2

    Up to a constant that is Q plus 2 * weight / A times the log density of a Gaussian behaviour policy with
    this mean and the standard deviations `scale` of `refine` (1 without one): behaviour-regularised policy
    improvement (BRAC, arXiv 1911.11361; TD3+BC, arXiv 2106.06860) at evaluation time, and beside `radius` a
    trust region without an edge. A dimension of scale 0 adds nothing.

    Args:
        mean: finite, in units of the action: a number, (A,), (1, A) or (B, A). Candidates share that of
            their state.
        weight: finite and >= 0, in units of Q: what a distance of one `scale` in every dimension costs. A
            number, (B,) or (B, 1). 0 is no prior.

    On a GPU the numbers of tensors there are not looked at: rows whose mean is not finite come back as a_0, a
    weight below 0 is none.

    Raises:
        ValueError, TypeError: naming the field, what was given and what is taken.
    """

    mean: float | Tensor
    weight: float | Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", check_prior_mean(self.mean))
        object.__setattr__(self, "weight", check_prior_weight(self.weight))

    @property
    def several(self) -> bool:
        """Whether it holds tensors, whose numbers are read at every call."""
        return isinstance(self.mean, Tensor) or isinstance(self.weight, Tensor)


MAX_VARIANTS = 64  # refine/params.h holds as many

Optimizer = SGD | Adam | RMSprop
Gradient = Literal["raw", "unit"] | ClipNorm
Reduce = Literal["min", "mean"] | int


@dataclass(frozen=True)
class Variant:
    """What rows of one call may differ in beside numbers: `refine(..., variants=[...], variant=index)`.

    Args: those of `refine`, with its defaults; `radius` is one number or Radius, not one for each row.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    optimizer: Any = "sgd"
    gradient: Any = "raw"
    reduce: Any = "min"
    radius: Any = None
    select: Any = "best"

    def __post_init__(self) -> None:
        radius, limits = split_radius(self.radius)
        if limits is not None:
            raise ValueError(
                f"radius: a Variant has one number, got {len(limits)} of them; make a Variant for each"
            )
        checked = parse_choices(self.optimizer, self.reduce, self.gradient, radius, self.select)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class RefineOptions:
    """Checked options for the backends. `low`, `high`: float32 (A,) arrays (+-inf allowed) or None.

    variants: what rows choose among at every call, at least two; then the five options beside bounds are not
    read. Empty where all rows have these.
    """

    optimizer: Optimizer = SGD()
    reduce: Reduce = "min"
    gradient: Gradient = "raw"
    radius: Radius | None = None
    select: Literal["best", "last"] = "best"
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    variants: tuple[Variant, ...] = ()

    def each(self) -> tuple[RefineOptions, ...]:
        """The options that rows have: of every variant, or these alone."""
        return tuple(replace(self, variants=(), **vars(v)) for v in self.variants) or (self,)


_OPTIMIZERS = {"sgd": SGD, "adam": Adam, "rmsprop": RMSprop}


def parse_optimizer(value: Any) -> Optimizer:
    """ "sgd", "adam", "rmsprop" or one of the dataclasses."""
    if isinstance(value, SGD | Adam | RMSprop):
        return value
    if isinstance(value, str) and value in _OPTIMIZERS:
        return _OPTIMIZERS[value]()
    raise _unknown("optimizer", value, '"sgd", "adam", "rmsprop", SGD(...), Adam(...) or RMSprop(...)', str)


def parse_reduce(value: Any) -> Reduce:
    """ "min", "mean" or the number of one ensemble member."""
    if isinstance(value, str) and value in ("min", "mean"):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise _unknown("reduce", value, '"min", "mean" or the index of one member', str)


def parse_gradient(value: Any) -> Gradient:
    """ "raw", "unit" or ClipNorm(c)."""
    if isinstance(value, ClipNorm) or (isinstance(value, str) and value in ("raw", "unit")):
        return value
    raise _unknown("gradient", value, '"raw", "unit" or ClipNorm(c)', str)


def parse_radius(value: Any) -> Radius | None:
    """None, a number or one for each row (L-infinity), or Radius(limit, norm)."""
    if value is None or isinstance(value, Radius):
        return value
    return Radius(value)


_PER_ROW = {norm: Radius(0.0, norm) for norm in ("inf", "l2")}


def split_radius(value: Any) -> tuple[Any, Tensor | None]:
    """`radius` as options have it, which many calls share, and the limits of one call's rows, or None.

    Where there are such, the limit in the options is not read.
    """
    if isinstance(value, Radius) and isinstance(value.limit, Tensor):
        return _PER_ROW[value.norm], value.limit
    if not isinstance(value, Tensor | np.ndarray | list | tuple):
        return value, None
    # A graph that is being traced has no numbers to look at: the call that it makes checks them.
    return _PER_ROW["inf"], value if torch.compiler.is_compiling() else check_row_radius(value)


NO_PRIOR = Prior(0.0, 0.0)


def parse_prior(value: Any) -> Prior:
    """None or Prior(mean, weight)."""
    if value is None:
        return NO_PRIOR
    if not isinstance(value, Prior):
        raise TypeError(f"prior: expected Prior(mean, weight) or None, got {value!r}")
    return value


def parse_select(value: Any) -> Literal["best", "last"]:
    """ "best" or "last"."""
    if isinstance(value, str) and value in ("best", "last"):
        return value
    raise _unknown("select", value, '"best" or "last"', str)


def parse_choices(optimizer: Any, reduce: Any, gradient: Any, radius: Any, select: Any) -> dict[str, Any]:
    """The options by name, each as the backends know it."""
    return {
        "optimizer": parse_optimizer(optimizer),
        "reduce": parse_reduce(reduce),
        "gradient": parse_gradient(gradient),
        "radius": parse_radius(radius),
        "select": parse_select(select),
    }


def parse_options(
    *, optimizer: Any, reduce: Any, gradient: Any, radius: Any, select: Any, variants: Any = None
) -> RefineOptions:
    """Everything that does not depend on the critic's dimensions. One variant is options for all rows."""
    choices = parse_choices(optimizer, reduce, gradient, radius, select)
    if variants is None:
        return RefineOptions(**choices)
    if not isinstance(variants, list | tuple) or not all(isinstance(v, Variant) for v in variants):
        raise TypeError(f"variants: expected a list of Variant(...), got {variants!r}")
    if not 1 <= len(variants) <= MAX_VARIANTS:
        raise ValueError(
            f"variants: expected 1 to {MAX_VARIANTS} of them, got {len(variants)}; numbers that differ from "
            "row to row (steps, lr, scale) need no variant"
        )
    for name, default in vars(Variant()).items():
        if choices[name] != default:
            raise ValueError(
                f"{name}: with `variants` each row has that of its variant, got {choices[name]!r} beside "
                "them; leave it out"
            )
    first = vars(variants[0])
    return RefineOptions(**first) if len(variants) == 1 else RefineOptions(variants=tuple(variants))


def check_choice(name: str, value: Any, taken: tuple) -> None:
    """`value` must be one of `taken`."""
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in taken):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, taken))}, got {value!r}")


def _unknown(name: str, value: Any, taken: str, right_type: type) -> Exception:
    error = ValueError if isinstance(value, right_type) else TypeError
    return error(f"{name}: expected {taken}, got {value!r}")


def parse_bounds(bounds: Any, action_dim: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Bounds as two float64 (A,) arrays, or None for an unbounded action.

    Args:
        bounds: None, a Gymnasium Box, or (low, high) where each is a number or has A entries.
        action_dim: A.

    Raises:
        TypeError, ValueError: naming `bounds`, for a wrong kind, shape, NaN or low above high.
    """
    if bounds is None:
        return None
    if hasattr(bounds, "low") and hasattr(bounds, "high"):
        low, high = bounds.low, bounds.high
    else:
        try:
            low, high = bounds
        except (TypeError, ValueError):
            raise TypeError(
                f"bounds: expected a Gymnasium Box, (low, high) or None, got {bounds!r}"
            ) from None
    low, high = (_bound(name, value, action_dim) for name, value in (("low", low), ("high", high)))
    if (low > high).any():
        where = int(np.argmax(low > high))
        raise ValueError(
            f"bounds: low must not exceed high, got low={low[where]:g} above high={high[where]:g} "
            f"in action dimension {where}"
        )
    return low, high


def bounds_key(bounds: Any) -> tuple[bytes, ...]:
    """The contents of bounds that cannot be hashed themselves: a Box, arrays or lists."""
    box = hasattr(bounds, "low") and hasattr(bounds, "high")
    low, high = (bounds.low, bounds.high) if box else bounds
    if hasattr(low, "detach") or hasattr(high, "detach"):
        low, high = (torch.as_tensor(x).detach().cpu() for x in (low, high))
    return tuple(np.asarray(x, dtype=np.float64).tobytes() for x in (low, high))


def _bound(name: str, value: Any, action_dim: int) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, possibly on a GPU
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"bounds: expected numbers for {name}, got {value!r}") from None
    if array.shape not in ((), (1,), (action_dim,)):
        raise ValueError(
            f"bounds: {name} must be one number or {action_dim} of them (one per action dimension), "
            f"got shape {array.shape}"
        )
    if np.isnan(array).any():
        raise ValueError(f"bounds: {name} holds NaN; give finite numbers, or +-inf for an open side")
    return np.ascontiguousarray(np.broadcast_to(array, (action_dim,)))
