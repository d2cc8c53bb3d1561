"""Inputs and the oracle that the tests of attention share."""

import torch

from dtag_fast.ops.attention import attention


def make_qkv(batch, tokens, heads, width, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, 3, heads, width, generator=generator).to(dtype)


def results(qkv, backend, dtype=None, **options):
    """(out, gradient of qkv) in float64, for a fixed gradient of out."""
    leaf = qkv.detach().to(dtype or qkv.dtype).requires_grad_()
    out = attention(leaf, backend=backend, **options)
    weights = torch.sin(torch.arange(out.numel(), device=out.device, dtype=torch.float64)).view(out.shape)
    out.backward(weights.to(out.dtype))
    return out.detach().double(), leaf.grad.double()


def exact(qkv, **options):
    return results(qkv, "reference", torch.float64, **options)


def assert_near(found, wanted, bound):
    """Relative error of each tensor as a whole."""
    for name, x, y in zip(("out", "gradient"), found, wanted, strict=True):
        error = float((x - y).norm() / y.norm().clamp(min=1e-6))
        assert error <= bound, f"{name}: relative error {error:.2g}, allowed {bound:.2g}"
