"""The compiled CPU backend (csrc/cpu/mlp_kernel.h)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from dtag_fast.ops.compiled_module import _C

from . import reference


def mlp(
    x: Tensor,
    networks: Sequence[Sequence[tuple[Tensor, Tensor]]],
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
    weights = [weight for layers in networks for weight, _ in layers]
    biases = [bias for layers in networks for _, bias in layers]
    widths = (weights[0].shape[1], *[weight.shape[0] for weight in weights[: len(networks[0])]])
    compiled = _compiled(widths, len(networks), activation, isa)
    if torch.is_grad_enabled():
        # what inference mode made cannot be kept for the way back
        x, extra = (t.clone() if t is not None and t.is_inference() else t for t in (x, extra))
        return _Mlp.apply(compiled, len(networks), activation, x, extra, mean, std, *weights, *biases)
    return _forward(compiled, len(networks), x, extra, mean, std, weights, biases)[0]


@cache
def _compiled(widths: tuple[int, ...], members: int, activation: str, isa: str):
    return _C.Mlp(
        widths=widths, members=members, activation=activation, isa=isa, threads=torch.get_num_threads
    )


def _forward(
    compiled,
    members: int,
    x: Tensor,
    extra: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    weights: list[Tensor],
    biases: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What comes out, and what the way back needs: inputs, and hidden layers after and before activation."""
    rows, x = len(x), _rows(x)
    out = x.new_empty(members, rows, biases[-1].shape[0])
    inputs = x.new_empty(rows, compiled.padded_in)
    hidden = x.new_empty(compiled.hidden_size(rows))
    before = torch.empty_like(hidden) if compiled.keeps_before else None
    extra_rows = (0, 0, 0)
    if extra is not None:
        extra = _rows(extra)
        extra_rows = extra.data_ptr(), extra.stride(0), extra.shape[1]
    # contiguous copies, where there are any, must live until the call is over
    weights, biases = [w.contiguous() for w in weights], [b.contiguous() for b in biases]
    compiled.forward(
        rows, _addresses(weights), _addresses(biases), x.data_ptr(), x.stride(0), *extra_rows,
        _address(mean), _address(std), inputs.data_ptr(), hidden.data_ptr(), _address(before), out.data_ptr(),
    )  # fmt: skip
    return out, inputs, hidden, before


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compiled, members, activation, x, extra, mean, std, *parameters):
        layers = len(parameters) // 2
        weights, biases = list(parameters[:layers]), list(parameters[layers:])
        out, inputs, hidden, before = _forward(compiled, members, x, extra, mean, std, weights, biases)
        ctx.compiled, ctx.activation = compiled, activation
        ctx.save_for_backward(inputs, hidden, before, x, extra, mean, std, *parameters)
        return out

    @staticmethod
    def backward(ctx, out_grad: Tensor):
        inputs, hidden, before, x, extra, mean, std, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph is asked for: the gradients will be differentiated
            return _differentiable(ctx, out_grad, x, extra, mean, std, parameters)
        weights = parameters[: len(parameters) // 2]
        out_grad = out_grad.contiguous()
        members, rows, _ = out_grad.shape
        to_x, to_extra, _, _, *to_parameters = ctx.needs_input_grad[3:]
        hidden_grad = torch.empty_like(hidden)
        width = weights[0].shape[1]
        in_grad = inputs.new_empty(members, rows, width) if to_x or to_extra else None
        weight_grads: list[Tensor] = []
        bias_grads: list[Tensor] = []
        if any(to_parameters):
            weight_grads = [torch.empty(w.shape) for w in weights]
            bias_grads = [torch.empty(w.shape[0]) for w in weights]
        kept = [w.contiguous() for w in weights]
        ctx.compiled.backward(
            rows, _addresses(kept), inputs.data_ptr(), hidden.data_ptr(), _address(before),
            out_grad.data_ptr(), hidden_grad.data_ptr(), _address(in_grad), _addresses(weight_grads),
            _addresses(bias_grads),
        )  # fmt: skip
        x_grad = extra_grad = None
        if in_grad is not None:
            in_grad = in_grad[0] if members == 1 else in_grad.sum(dim=0)
            x_grad, extra_grad = in_grad.split((x.shape[1], width - x.shape[1]), dim=1)
            x_grad = x_grad / std if to_x and std is not None else x_grad
        found = weight_grads + bias_grads or [None] * len(to_parameters)
        inputs_grads = x_grad if to_x else None, extra_grad if to_extra else None
        return None, None, None, *inputs_grads, None, None, *found


def _differentiable(ctx, out_grad: Tensor, x: Tensor, extra, mean, std, parameters: list[Tensor]) -> tuple:
    """The gradients by PyTorch's operators, with a graph of their own."""
    members, layers = len(out_grad), len(parameters) // 2
    pairs = list(zip(parameters[:layers], parameters[layers:], strict=True))
    depth = layers // members
    networks = [pairs[i * depth : (i + 1) * depth] for i in range(members)]
    out = reference.mlp(x, networks, ctx.activation, extra, mean, std)
    needed = ctx.needs_input_grad[3:]
    asked = [t for t, need in zip((x, extra, mean, std, *parameters), needed, strict=True) if need]
    found = iter(torch.autograd.grad(out, asked, out_grad, create_graph=True))
    return None, None, None, *[next(found) if need else None for need in needed]


def _rows(x: Tensor) -> Tensor:
    """x, with the numbers of a row side by side."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
