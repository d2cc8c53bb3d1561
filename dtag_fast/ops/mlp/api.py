"""`mlp`: which backend computes it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dtag_fast.ops.compiled_module import why_missing
from dtag_fast.ops.per_seed import in_transformation

from . import cpu, reference
from .layer import Layer, norm_eps, tensors

Backend = Literal["compiled", "reference"]
# With gradients. CQL's 7,680 rows took 1.6 times as long as by operators (Intel Xeon with AMX, one core).
MOST_ROWS = 2048


def mlp(
    x: Tensor,
    networks: Sequence[Sequence[Layer]],
    activation: str,
    *,
    extra: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Several networks of one shape over the same rows.

        h_0 = ((x - mean) / std, extra);   z_l = LayerNorm_l(h_{l-1} W_l' + b_l), where the layer has one;
        h_l = activation(z_l) but for the last layer, whose z_L comes out

    The compiled backend takes its turn where `why_not` has nothing against it: one call forwards and one
    backwards, instead of some three operators a layer and network. Its bits depend neither on the number of
    threads nor, row by row, on the other rows. It has no gradients for mean and std; gradients that are to
    be differentiated again are made by operators. It takes LayerNorm after every hidden layer or after none.

    Args:
        x: (..., X). extra: (..., E) more inputs, None for none.
        networks: M >= 1 of them, L >= 1 layers each: (weight, bias) or (weight, bias, Norm); the first layer
            takes X + E numbers.
        activation: relu, elu, gelu (the exact one), silu, mish or tanh.
        mean, std: (X,), both or none.
        backend: None for the fastest.
    Returns:
        (M, ..., out).
    Raises:
        ValueError: an activation, a shape or a backend that does not fit.
    """
    if backend not in (None, "compiled", "reference"):
        raise ValueError(f"backend: expected compiled, reference or None, got {backend!r}")
    reason = why_not(x, networks, extra, mean, std)
    if backend == "compiled" and reason:
        raise ValueError(f"backend: compiled does not do this: {reason}; leave it out")
    if reason or backend == "reference":
        check(x, networks, activation, extra, mean, std)
        return reference.mlp(x, networks, activation, extra, mean, std)
    return compiled(x, networks, activation, extra, mean, std)


def compiled(
    x: Tensor,
    networks: Sequence[Sequence[Layer]],
    activation: str,
    extra: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """`mlp` by the compiled backend; only for tensors that `why_not` has nothing against, it does not ask."""
    check(x, networks, activation, extra, mean, std)
    if x.ndim == 2:
        return cpu.mlp(x, networks, activation, extra, mean, std)
    rows, more = x.reshape(-1, x.shape[-1]), None if extra is None else extra.reshape(-1, extra.shape[-1])
    out = cpu.mlp(rows, networks, activation, more, mean, std)
    return out.view(len(networks), *x.shape[:-1], out.shape[-1])


def check(
    x: Tensor,
    networks: Sequence[Sequence[Layer]],
    activation: str,
    extra: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
) -> None:
    """Refuse what is not M networks of one shape over these rows."""
    if activation not in reference.ACTIVATIONS:
        known = ", ".join(reference.ACTIVATIONS)
        raise ValueError(f"activation: expected one of {known}, got {activation!r}")
    if not networks or not networks[0]:
        raise ValueError("networks: expected at least one, of at least one layer")
    if (mean is None) != (std is None) or (mean is not None and not mean.shape == std.shape == x.shape[-1:]):
        got = ", ".join("none" if y is None else str(tuple(y.shape)) for y in (mean, std))
        raise ValueError(
            f"mean, std: expected both of ({x.shape[-1]},), as wide as the rows given, or none, got {got}"
        )
    if extra is not None and extra.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"extra: expected {tuple(x.shape[:-1])} rows as of x, got {tuple(extra.shape)}")
    first, width = networks[0], x.shape[-1] + (0 if extra is None else extra.shape[-1])
    for weight, bias, *norm in first:
        if weight.shape != (len(bias), width):
            raise ValueError(
                f"networks: expected a weight of ({len(bias)}, {width}), its bias and what it is given, got "
                f"{tuple(weight.shape)}"
            )
        width = len(bias)
        for scale, shift, _ in norm:
            if not scale.shape == shift.shape == bias.shape:
                raise ValueError(
                    f"networks: expected a LayerNorm of ({width},), as wide as its layer, got a weight of "
                    f"{tuple(scale.shape)} and a bias of {tuple(shift.shape)}"
                )
    shapes = [t.shape for t in tensors(networks[:1])]
    for layers in networks[1:]:
        if [t.shape for t in tensors([layers])] != shapes:
            raise ValueError("networks: expected all of the shape of the first")


def why_not(
    x: Tensor,
    networks: Sequence[Sequence[Layer]],
    extra: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> str | None:
    """Why the compiled backend does not take these tensors, or None."""
    if why_missing():
        return why_missing()
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "torch.compile and exporters see operators"
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the type of each operator"
    if in_transformation():
        return "transformations of torch.func see operators"
    if any(t is not None and t.requires_grad for t in (mean, std)):
        return "it gives mean and std no gradient"
    inputs = [t for t in (x, extra, mean, std) if t is not None]
    parameters = tensors(networks)
    for tensor in (*inputs, *parameters):
        if not tensor.is_cpu or tensor.dtype != torch.float32:
            return f"it computes in float32 on the CPU, got {tensor.dtype} on {tensor.device}"
    with_norms = len(parameters) > 2 * sum(map(len, networks))
    if with_norms and not _normed_alike(networks):
        return "LayerNorms other than one after every hidden layer, the same in all networks"
    rows = x.shape[:-1].numel()
    if torch.is_grad_enabled() and rows > MOST_ROWS:
        return f"products for the gradients of more than {MOST_ROWS} rows are not cut to fit the caches"
    return None if x.numel() else "there are no rows"


def _normed_alike(networks: Sequence[Sequence[Layer]]) -> bool:
    """Whether every hidden layer has a LayerNorm or none has, with the same eps in all networks."""
    found = {norm_eps(layers) for layers in networks}
    return len(found) < 2 and all(
        eps[-1:] in ((), (None,)) and (None not in eps[:-1] or not any(e is not None for e in eps))
        for eps in found
    )
