"""Inputs and the oracle that the tests of the transformer block share."""

import torch

from dtag_fast.ops.block import BlockWeights, transformer_block


def make_block(batch, tokens, width, hidden=None, dtype=torch.float32, seed=0):
    """x and weights whose LayerNorms are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    hidden = hidden or 4 * width

    def matrix(rows, columns):
        return torch.randn(rows, columns, generator=generator).mul_(columns**-0.5).to(dtype)

    def vector(size, mean=0.0):
        return torch.randn(size, generator=generator).mul_(0.1).add_(mean).to(dtype)

    weights = BlockWeights(
        *(matrix(3 * width, width), vector(3 * width), matrix(width, width), vector(width)),
        *(vector(width, 1.0), vector(width)),
        *(matrix(hidden, width), vector(hidden), matrix(width, hidden), vector(width)),
        *(vector(width, 1.0), vector(width)),
    )
    return torch.randn(batch, tokens, width, generator=generator).to(dtype), weights


def moved(device, *things):
    """Tensors, and tuples and values of dictionaries of them, on the device; all else as it is."""
    if len(things) > 1:
        return [moved(device, thing) for thing in things]
    (thing,) = things
    if isinstance(thing, BlockWeights):
        return BlockWeights(*(weight.to(device) for weight in thing))
    if isinstance(thing, dict):
        return {name: moved(device, value) for name, value in thing.items()}
    return thing.to(device) if isinstance(thing, torch.Tensor) else thing


def results(x, weights, backend, dtype=None, **options):
    """The output and the gradients of x and of the weights by name, in float64, for a fixed gradient."""
    dtype = dtype or x.dtype
    x = x.detach().to(dtype).requires_grad_()
    weights = BlockWeights(*(weight.detach().to(dtype).requires_grad_() for weight in weights))
    out = transformer_block(x, weights, backend=backend, **options)
    grad = torch.sin(torch.arange(out.numel(), device=out.device, dtype=torch.float64)).view(out.shape)
    out.backward(grad.to(out.dtype))
    found = {"out": out.detach(), "x": x.grad}
    found |= {name: weight.grad for name, weight in weights._asdict().items()}
    return {name: tensor.double() for name, tensor in found.items()}


def exact(x, weights, **options):
    return results(x, weights, "reference", torch.float64, **options)


def assert_near(found, wanted, bound):
    """Relative error of each tensor as a whole."""
    for name, y in wanted.items():
        error = float((found[name] - y).norm() / y.norm().clamp(min=1e-6))
        assert error <= bound, f"{name}: relative error {error:.2g}, allowed {bound:.2g}"
