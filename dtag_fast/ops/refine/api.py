"""`refine` and `explain`: the functions users call."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import inputs
from .binding import Critic, tensors_of
from .cache import WeakCache
from .compiled import call_operator, constant, decode, encode
from .critic import CriticCall, CriticError
from .explain import Explanation, describe
from .options import NO_PRIOR, Prior, Variant, bounds_key, parse_prior, split_radius
from .program import MAX_ACTION, CriticProgram
from .refiner import DEFAULT_BOUNDS, DefaultBounds, Refiner

_MODULES, _SEQUENCES = (nn.Module, CriticProgram), (list, tuple, nn.ModuleList)
_refiners = WeakCache(limit=32)
_in_graphs = WeakCache(limit=1024)


def refine(
    critic: nn.Module | Sequence[nn.Module] | CriticProgram,
    states: Any,
    actions: Any,
    *,
    steps: int | Tensor = 10,
    lr: float | Tensor = 0.03,
    scale: float | Tensor | None = None,
    optimizer: Any = "sgd",
    bounds: Any = DEFAULT_BOUNDS,
    reduce: str | int = "min",
    gradient: Any = "raw",
    radius: Any = None,
    prior: Prior | None = None,
    select: str = "best",
    variants: Sequence[Variant] | None = None,
    variant: Any = None,
    precision: str | None = None,
    backend: str | None = None,
    return_info: bool | str = False,
) -> Any:
    """Move actions uphill on a critic and return the best ones seen: Action Gradient (arXiv 2510.05285).

        a_0 = clip(actions);  a_{i+1} = project(a_i + update(dQ/da(s, a_i)));  result: the a_i of greatest
        Q(s, a_i)

    Args:
        critic: nn.Module called as critic(states, actions) or critic(cat([states, actions], -1)), returning
        Q as
            (B,), (B, 1), (E, B), (B, E), (E, B, 1) or a tuple of those; several modules; or a CriticProgram.
        states: (B, S) or (S,), torch or NumPy, floating point. The raw states the critic expects.
        actions: (B, A), (A,), or (B, M, A) with M candidates per state, of which the best end is returned.
        steps: n >= 0, or integers (B,).
        lr: step size >= 0 in units of action per unit of gradient; also (B,), (A,), (B, 1), (1, A) or (B, A).
        scale: None, or units of action >= 0 per unit of u, the coordinate in which the ascent takes place,
            a = a_0 + scale * u; of the same shapes as lr. The gradient is dQ/du, steps and radius are in
            units of u; where it is 0 the action stays as it is.
            On a GPU, `steps`, `lr`, `scale`, `radius` and `prior` of several numbers cost least as tensors on
            the device; from the host they are copied when they are not those of an earlier call.
        optimizer: "sgd", "adam", "rmsprop", or SGD(...), Adam(...), RMSprop(...); its state starts at zero.
        bounds: Gymnasium Box, (low, high) of numbers or (A,) arrays, or None. While left at the default, host
            actions outside (-1, 1) raise; on a GPU only with DTAG_CHECK=1 in the environment.
        reduce: over ensemble members: "min", "mean" or the number of one. A critic that reduces itself is
        taken
            as it is.
        gradient: "raw", "unit" (g / ||g||) or ClipNorm(c).
        radius: None, r for ||a_i - a_0||_inf <= r, or Radius(r, "l2"); r is a number >= 0 or one for each
            row, (B,) or (B, 1). With a scale, of u: ||(a_i - a_0) / scale|| <= r.
        prior: None, or Prior(mean, weight): F(s, a) = Q(s, a) - weight / A * ||(a - mean) / scale||^2 takes
            the place of Q in gradients and in every comparison.
        select: "best" of all iterates (the earliest on ties), or "last".
        variants: None, or up to 64 Variant(...), each of an optimizer, gradient, reduce, radius and select,
            which are then left out here: rows of one call, of one kernel launch, under different ones.
        variant: with `variants`, which of them each row has, integers (B,).
        precision: "highest" (fp32), "high" (on NVIDIA GPUs bf16x3 or tf32), "medium" (bf16 weights, fp32
            sums), or None for torch.get_float32_matmul_precision().
        backend: None for the first of these that can run the call, or its name to insist; see `explain`.
            "cuda": compiled, NVIDIA GPUs. "triton": any GPU, compiled at the first call. "cpu": compiled,
            host tensors. "torch": the reference, everywhere.
        return_info: True adds a RefineInfo, "trace" one with every iterate.

    Returns:
        The refined actions, (B, A) or (A,), of the type, dtype and device of `actions`; with return_info a
        pair (actions, RefineInfo). Never worse than a_0 in Q, with a prior in F, under select="best"; rows in
        which it is not finite come back as a_0.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is taken.
    """
    shared, limits = split_radius(radius)
    prior = parse_prior(prior)
    settings = {
        "bounds": bounds,
        "optimizer": optimizer,
        "reduce": reduce,
        "gradient": gradient,
        "radius": shared,
        "select": select,
        "variants": tuple(variants) if isinstance(variants, list) else variants,
        "precision": precision,
        "backend": backend,
        "return_info": return_info,
    }
    if torch.compiler.is_compiling():
        parts = critic if isinstance(critic, _SEQUENCES) else (critic,)
        weights = [t.detach() for part in parts for t in tensors_of(part)]
        settings |= {"steps": 10 if isinstance(steps, Tensor) else steps}
        settings |= {"lr": 0.03 if isinstance(lr, Tensor) else lr}
        settings |= {"scale": None if isinstance(scale, Tensor) else scale}
        settings |= {"prior": prior}
        del settings["bounds"]
        # Dynamo takes an id() for a constant and guards its object; torch 2.11 takes no module for one.
        ids = tuple([id(part) for part in parts])
        own_bounds = () if isinstance(bounds, DefaultBounds) else (constant(bounds),)
        handle = _handle(tuple((name, encode(x)) for name, x in settings.items()), own_bounds, ids)
        numbers = (steps, lr, scale, limits, variant, prior)
        return call_operator(handle, weights, return_info, states, actions, *numbers)
    settings["precision"] = precision or torch.get_float32_matmul_precision()
    numbers = type(steps) is int and isinstance(lr, float | int) and limits is None and variant is None
    if numbers and (scale is None or isinstance(scale, float | int)) and not prior.several:
        prior = None if prior is NO_PRIOR else prior  # for the sake of the key, which every call hashes
        return _cached(critic, settings, steps=steps, lr=lr, scale=scale, prior=prior)(states, actions)
    return _cached(critic, settings).run(
        states, actions, steps=steps, lr=lr, scale=scale, radius=limits, variant=variant, prior=prior
    )


def _handle(settings: tuple, own_bounds: tuple, ids: tuple[int, ...]) -> int:
    """The handle of a Refiner that lives as long as the critic; torch.compile calls this while it traces.

    own_bounds: the bounds alone, or nothing for the default ones.
    """
    parts = tuple(ctypes.cast(i, ctypes.py_object).value for i in ids)  # alive: whoever traces holds them
    critic = Critic(parts if len(parts) > 1 else parts[0], weak=True)
    (bounds,) = own_bounds or (DEFAULT_BOUNDS,)
    refiner = Refiner._weak(critic, bounds=bounds, **{name: decode(x) for name, x in settings})
    _in_graphs.put(parts, refiner.handle, refiner)
    return refiner.handle


# What torch.compiler.assume_constant_result sets; calling it here would import Dynamo, seconds for everybody.
_handle._dynamo_marked_constant = True


def _cached(
    critic: Any,
    settings: dict[str, Any],
    steps: int = 10,
    lr: float = 0.03,
    scale: float | None = None,
    prior: Prior | None = None,
) -> Refiner:
    """The Refiner for these settings, kept as long as the critic lives."""
    if not isinstance(critic, _MODULES):
        Critic(critic, weak=True)  # raises for anything but a sequence of modules
    parts = tuple(critic) if isinstance(critic, _SEQUENCES) else (critic,)
    key: Hashable = (*settings.values(), steps, lr, scale, prior, type(settings["bounds"]) is DefaultBounds)
    try:
        refiner = _refiners.get(parts, key)
    except TypeError:  # a Box or arrays: their contents are the key
        key = (bounds_key(settings["bounds"]), *key[1:])
        refiner = _refiners.get(parts, key)
    if refiner is None:
        numbers = {"steps": steps, "lr": lr, "scale": scale, "prior": prior}
        refiner = Refiner._weak(Critic(critic, weak=True), **settings, **numbers)
        _refiners.put(parts, key, refiner)
    return refiner


def explain(critic: Any, states: Any, actions: Any = None, **settings: Any) -> Explanation:
    """Which backend and kernel `refine` takes for such a call, and why not the others.

    Args:
        critic, states: as in `refine`. actions: for their width; left out, the smallest width the critic
        accepts
            is taken. settings: the options of `refine`.

    Returns:
        An Explanation; print it.
    """
    s = inputs.as_tensor("states", states)
    refiner = Refiner(critic, **settings)
    rows, candidates = len(s) if s.ndim > 1 else 1, 1
    steps = refiner.steps if isinstance(refiner.steps, int) else 10
    if actions is None:
        width = _action_width(refiner, s.shape[-1])
    else:
        a = inputs.as_tensor("actions", actions)
        inputs.check_pair(s, a)
        width = a.shape[-1]
        candidates = a.shape[1] if a.ndim == 3 else 1
    return describe(refiner.binding(s.shape[-1], width, s.device), rows, candidates, steps)


def _action_width(refiner: Refiner, state_dim: int) -> int:
    """The smallest A with which the critic can be called."""
    critic = refiner._critic
    if critic.is_program:
        return critic.parts()[0].action_dim
    errors = []
    for width in range(1, MAX_ACTION + 1):
        try:
            CriticCall(critic.parts(), state_dim, width)
        except CriticError as error:
            errors.append(error)
        else:
            return width
    raise errors[0]
