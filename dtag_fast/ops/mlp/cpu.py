"""The compiled CPU backend (csrc/cpu/mlp_kernel.h)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dtag_fast.ops.compiled_module import _C

from . import reference
from .layer import Layer, Norm


class Parameters(NamedTuple):
    """Of all networks, by network and layer; those of LayerNorms by network and hidden layer, or none."""

    weights: list[Tensor]
    biases: list[Tensor]
    scales: list[Tensor]
    shifts: list[Tensor]

    @classmethod
    def of(cls, networks: Sequence[Sequence[Layer]]) -> Parameters:
        layers = [layer for network in networks for layer in network]
        norms = [norm for layer in layers for norm in layer[2:]]
        weights, biases = [layer[0] for layer in layers], [layer[1] for layer in layers]
        return cls(weights, biases, [norm.weight for norm in norms], [norm.bias for norm in norms])

    @classmethod
    def taken_apart(cls, tensors: Sequence[Tensor], layers: int) -> Parameters:
        """From all of them in a row; layers: how many all networks have together."""
        norms = (len(tensors) - 2 * layers) // 2
        ends = 0, layers, 2 * layers, 2 * layers + norms, len(tensors)
        return cls(*[list(tensors[a:b]) for a, b in pairwise(ends)])

    def contiguous(self) -> Parameters:
        return Parameters(*[[t.contiguous() for t in group] for group in self])


class Kept(NamedTuple):
    """What the way back needs: inputs, hidden layers after activation and before, and of LayerNorms
    1 / sqrt(variance + eps)."""

    inputs: Tensor
    hidden: Tensor
    before: Tensor | None
    rstd: Tensor | None


def mlp(
    x: Tensor,
    networks: Sequence[Sequence[Layer]],
    activation: str,
    extra: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    isa: str = "",
) -> Tensor:
    """x (R, X) and extra (R, E) -> (M, R, out), all float32 on the CPU; see `dtag_fast.ops.mlp.mlp`.

    Args:
        isa: instruction set, "" for the machine's best or DTAG_ISA.
    """
    parameters = Parameters.of(networks)
    weights = parameters.weights
    widths = (weights[0].shape[1], *[weight.shape[0] for weight in weights[: len(networks[0])]])
    eps = tuple(norm.eps for layer in networks[0] for norm in layer[2:])
    compiled = _compiled(widths, len(networks), activation, eps, isa)
    if torch.is_grad_enabled():
        # what inference mode made cannot be kept for the way back
        x, extra = (t.clone() if t is not None and t.is_inference() else t for t in (x, extra))
        flat = [t for group in parameters for t in group]
        return _Mlp.apply(
            compiled, (len(networks), len(weights), activation, eps), x, extra, mean, std, *flat
        )
    return _forward(compiled, len(networks), x, extra, mean, std, parameters, kept=False)[0]


@cache
def _compiled(widths: tuple[int, ...], members: int, activation: str, eps: tuple[float, ...], isa: str):
    return _C.Mlp(
        widths=widths,
        members=members,
        activation=activation,
        norm_eps=eps,
        isa=isa,
        threads=torch.get_num_threads,
    )


def _forward(
    compiled,
    members: int,
    x: Tensor,
    extra: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    parameters: Parameters,
    kept: bool = True,
) -> tuple[Tensor, Kept]:
    """What comes out, and what the way back needs; kept: whether there may be one."""
    rows, x = len(x), _rows(x)
    out = x.new_empty(members, rows, parameters.biases[-1].shape[0])
    inputs = x.new_empty(rows, compiled.padded_in)
    hidden = x.new_empty(compiled.hidden_size(rows))
    before = torch.empty_like(hidden) if kept and compiled.keeps_before else None
    rstd = x.new_empty(len(parameters.scales), rows) if kept and compiled.normed else None
    extra_rows = (0, 0, 0)
    if extra is not None:
        extra = _rows(extra)
        extra_rows = extra.data_ptr(), extra.stride(0), extra.shape[1]
    # contiguous copies, where there are any, must live until the call is over
    given = parameters.contiguous()
    compiled.forward(
        rows, _addresses(given.weights), _addresses(given.biases), x.data_ptr(), x.stride(0), *extra_rows,
        _address(mean), _address(std), inputs.data_ptr(), hidden.data_ptr(), _address(before), out.data_ptr(),
        _addresses(given.scales), _addresses(given.shifts), _address(rstd),
    )  # fmt: skip
    return out, Kept(inputs, hidden, before, rstd)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compiled, shape, x, extra, mean, std, *tensors):
        parameters = Parameters.taken_apart(tensors, shape[1])
        out, kept = _forward(compiled, shape[0], x, extra, mean, std, parameters)
        ctx.compiled, ctx.shape = compiled, shape
        ctx.save_for_backward(*kept, x, extra, mean, std, *tensors)
        return out

    @staticmethod
    def backward(ctx, out_grad: Tensor):
        inputs, hidden, before, rstd, x, extra, mean, std, *tensors = ctx.saved_tensors
        parameters = Parameters.taken_apart(tensors, ctx.shape[1])
        if torch.is_grad_enabled():  # a graph is asked for: the gradients will be differentiated
            return _differentiable(ctx, out_grad, x, extra, mean, std, parameters)
        out_grad = out_grad.contiguous()
        members, rows, _ = out_grad.shape
        to_x, to_extra, _, _, *to_parameters = ctx.needs_input_grad[2:]
        hidden_grad = torch.empty_like(hidden)
        width = parameters.weights[0].shape[1]
        in_grad = inputs.new_empty(members, rows, width) if to_x or to_extra else None
        grads = Parameters([], [], [], [])
        if any(to_parameters):
            grads = Parameters(*[[torch.empty(t.shape) for t in group] for group in parameters])
        given = parameters.contiguous()
        ctx.compiled.backward(
            rows, _addresses(given.weights), inputs.data_ptr(), hidden.data_ptr(), _address(before),
            out_grad.data_ptr(), hidden_grad.data_ptr(), _address(in_grad),
            _addresses(grads.weights), _addresses(grads.biases), _addresses(given.scales),
            _addresses(given.shifts), _address(rstd), _addresses(grads.scales), _addresses(grads.shifts),
        )  # fmt: skip
        x_grad = extra_grad = None
        if in_grad is not None:
            in_grad = in_grad[0] if members == 1 else in_grad.sum(dim=0)
            x_grad, extra_grad = in_grad.split((x.shape[1], width - x.shape[1]), dim=1)
            x_grad = x_grad / std if to_x and std is not None else x_grad
        found = [t for group in grads for t in group] or [None] * len(to_parameters)
        inputs_grads = x_grad if to_x else None, extra_grad if to_extra else None
        return None, None, *inputs_grads, None, None, *found


def _differentiable(ctx, out_grad: Tensor, x: Tensor, extra, mean, std, parameters: Parameters) -> tuple:
    """The gradients by PyTorch's operators, with a graph of their own."""
    members, layers, activation, eps = ctx.shape
    networks = _networks(parameters, layers // members, eps)
    out = reference.mlp(x, networks, activation, extra, mean, std)
    needed = ctx.needs_input_grad[2:]
    tensors = (x, extra, mean, std, *[t for group in parameters for t in group])
    asked = [t for t, need in zip(tensors, needed, strict=True) if need]
    found = iter(torch.autograd.grad(out, asked, out_grad, create_graph=True))
    return None, None, *[next(found) if need else None for need in needed]


def _networks(parameters: Parameters, depth: int, eps: tuple[float, ...]) -> list[list[Layer]]:
    """The parameters by network and layer again; depth: layers of a network."""
    norms = zip(parameters.scales, parameters.shifts, strict=True)
    pairs = zip(parameters.weights, parameters.biases, strict=True)
    return [
        [(*next(pairs), Norm(*next(norms), eps[i])) if i < len(eps) else next(pairs) for i in range(depth)]
        for _ in range(len(parameters.weights) // depth)
    ]


def _rows(x: Tensor) -> Tensor:
    """x, with the numbers of a row side by side."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
