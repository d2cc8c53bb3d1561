"""A program, its options and a call in the form that kernels take them: shared by the backends' executors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .executor import InfoBuffers
from .options import SGD, Adam, ClipNorm, RefineOptions
from .program import Activation, CriticProgram, LayerNorm, Linear

ARRAY_TYPES = {  # what a prepared call takes, and how it makes a result
    "tensor_type": Tensor,
    "empty_like_tensor": torch.empty_like,
    "array_type": np.ndarray,
    "empty_like_array": np.empty_like,
}


def reduction_of(program: CriticProgram, options: RefineOptions) -> str | int:
    """How the members' Q become one: the program's own reduction, else `options.reduce`.

    Raises:
        ValueError: for a member number outside the ensemble.
    """
    reduce = program.reduction or options.reduce
    if isinstance(reduce, int) and not -len(program.members) <= reduce < len(program.members):
        raise ValueError(f"reduce: expected a member in 0..{len(program.members) - 1}, got {reduce}")
    return reduce


def walk_settings(options: RefineOptions) -> dict:
    """Shape of the gradient, radius and selection: gradient ("raw", "unit", "clip"), clip, radius, select."""
    clips = isinstance(options.gradient, ClipNorm)
    return {
        "gradient": "clip" if clips else options.gradient,
        "clip": options.gradient.limit if clips else 1.0,
        "radius": options.radius.limit if options.radius else 0.0,
        "select": options.select,
    }


def radius_norm(options: RefineOptions) -> str:
    """ "none", "inf" or "l2"."""
    return options.radius.norm if options.radius else "none"


def plan_settings(program: CriticProgram, options: RefineOptions) -> tuple[dict, int | None]:
    """The options as the compiled plans take them, and the one member to keep, or None for all.

    Raises:
        ValueError: for a member number outside the ensemble.
    """
    if options.variants:
        return {"variants": [_variant(program, one) for one in options.each()]}, None
    reduce = reduction_of(program, options)
    member = reduce if isinstance(reduce, int) else None
    return _ways(options) | {"reduce": "min" if member is not None else reduce}, member


def _variant(program: CriticProgram, options: RefineOptions) -> dict:
    """The same of one among several: its member is chosen where the rows are."""
    reduce = reduction_of(program, options)
    chosen = {"reduce": "member", "member": reduce} if isinstance(reduce, int) else {"reduce": reduce}
    return _ways(options) | chosen


def _ways(options: RefineOptions) -> dict:
    """All but the reduction."""
    return {"radius_norm": radius_norm(options), **walk_settings(options), **_optimizer(options)}


def call_arguments(
    states: Tensor,
    actions: Tensor,
    out: Tensor,
    steps: int | Tensor,
    most_steps: int,
    lr: float | Tensor,
    scale: float | Tensor | None,
    radius: Tensor | None,
    variant: Tensor | None,
    info: InfoBuffers | None,
) -> dict:
    """The arguments of Executor.run as the compiled plans take them: arrays by address."""
    batch, candidates, _ = actions.shape
    call = {
        "states": states.data_ptr(),
        "state_stride": states.stride(0),
        "actions": actions.data_ptr(),
        "out": out.data_ptr(),
        "batch": batch,
        "candidates": candidates,
        "steps": most_steps,
    }
    if isinstance(steps, Tensor):
        call["row_steps"] = steps.data_ptr()
    for name, value in (("lr", lr), ("scale", scale)):
        if isinstance(value, Tensor):
            row_stride, dim_stride = strides_of(value)
            call |= {
                f"{name}_values": value.data_ptr(),
                f"{name}_row_stride": row_stride,
                f"{name}_dim_stride": dim_stride,
            }
        elif value is not None:
            call[name] = value
    if radius is not None:
        call["radius_values"] = radius.data_ptr()
    if variant is not None:
        call["row_variants"] = variant.data_ptr()
    if info is not None:
        call |= {
            "q_first": info.q_0.data_ptr(),
            "q_best": info.q_best.data_ptr(),
            "best_index": info.best_index.data_ptr(),
            "best_candidate": info.best_candidate.data_ptr(),
        }
        if info.trace_actions is not None:
            call |= {
                "trace_actions": info.trace_actions.data_ptr(),
                "trace_q": info.trace_q.data_ptr(),
                "trace_grad": info.trace_grad.data_ptr(),
            }
    return call


def prior_arguments(mean: float | Tensor, weight: float | Tensor) -> dict:
    """The prior of Executor.run as the compiled plans take it."""
    call: dict = {}
    if isinstance(mean, Tensor):
        call["prior_mean_values"] = mean.data_ptr()
        call["prior_mean_row_stride"], call["prior_mean_dim_stride"] = strides_of(mean)
    else:
        call["prior_mean"] = mean
    call["prior_weight_values" if isinstance(weight, Tensor) else "prior_weight"] = (
        weight.data_ptr() if isinstance(weight, Tensor) else weight
    )
    return call


def strides_of(values: Tensor) -> tuple[int, int]:
    """From one row and one dimension to the next, of (B, 1), (1, A) or (B, A) contiguous numbers."""
    rows, dims = values.shape
    return dims if rows > 1 else 0, 1 if dims > 1 else 0


def _optimizer(options: RefineOptions) -> dict:
    optimizer = options.optimizer
    if isinstance(optimizer, SGD):
        return {
            "optimizer": "sgd",
            "optimizer_options": {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov},
        }
    if isinstance(optimizer, Adam):
        beta1, beta2 = optimizer.betas
        return {
            "optimizer": "adam",
            "optimizer_options": {"beta1": beta1, "beta2": beta2, "eps": optimizer.eps},
        }
    return {
        "optimizer": "rmsprop",
        "optimizer_options": {"alpha": optimizer.alpha, "eps": optimizer.eps},
    }


def layer_kinds(layers: tuple[Linear | LayerNorm | Activation, ...]) -> list[tuple]:
    """A member's layers as the compiled plans take them without numbers."""
    kinds: list[tuple] = []
    for layer in layers:
        if isinstance(layer, Linear):
            kinds.append(("linear", tuple(layer.weight.shape)))
        else:
            norm = isinstance(layer, LayerNorm)
            kinds.append(("norm", layer.eps) if norm else ("activation", layer.kind, list(layer.params)))
    return kinds
